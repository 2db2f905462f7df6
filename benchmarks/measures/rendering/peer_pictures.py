"""Default against default: what the pictures of featviz, torch-lucent, Horama, dreamlens and faccent are worth.

    uv run --isolated --group peers python benchmarks/rendering.py peer_pictures lite0 --real real/ --keep

The first units of the late layer of a network. Every program renders one unit at a time as its users call it, with its default
steps, transforms and learning rate; the network normalises for itself, so that all give it images in [0, 1], and is fed at the
size of featviz's pictures. lucent and dreamlens draw at that size; Horama and faccent, which feed crops of a larger image, draw
at 512 px (their defaults are 1280 and 512) and their pictures are reduced before they are judged. featviz renders the units
together. The columns are those of `pictures`; activations are on the unit's natural scale (1: its best photograph), seconds are
those of the processor.

faccent 1.0.3 asks for kornia 0.4.1 and does not name all it imports: `uv pip install --no-deps faccent==1.0.3`, with imageio,
plotly and ipywidgets, into the same environment. What is not installed is left out.
"""

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from featviz.rendering.network.feature_extractor import FeatureExtractor
from measures.rendering import peers
from measures.rendering.picture_quality import chroma, natural_scales, picture_figures
from measures.rendering.pictures import PLAIN
from measures.rendering.real_networks import RealNetwork, add_networks, real_network
from measures.report import GALLERY, Record, markdown

NAME = "peer_pictures"
HEAD = ("program", "seconds", "activation", "lowest", "unseen", "high", "saturated", "chroma")
LARGE = 512  # pixels, of those that feed crops

Draw = Callable[[peers.NormalisedNetwork, str, int, int], Tensor]


def by_lucent(network: peers.NormalisedNetwork, layer: str, unit: int, side: int) -> Tensor:
    """512 steps of Adam with lr 0.05."""
    standard = peers.lucent().transform.standard_transforms
    settings = {"transforms": standard, "preprocess": False, "fixed_image_size": side}
    return peers.lucent_images(network, layer, [unit], side, (512,), **settings)[0]


def by_horama(network: peers.NormalisedNetwork, layer: str, unit: int, side: int) -> Tensor:
    """1000 steps of NAdam, each on 6 crops."""
    extractor = FeatureExtractor(network, (layer,), RenderConfig(size=side, precision="float32", backend="eager"))

    def score(crops: Tensor) -> Tensor:
        return extractor(crops)[layer][:, unit].mean()

    image, _ = peers.horama().fourier(
        score, image_size=LARGE, model_input_size=side, values_range=(0.0, 1.0), device=torch.device("cpu")
    )
    return image.detach()[None]


def by_dreamlens(network: peers.NormalisedNetwork, layer: str, unit: int, side: int) -> Tensor:
    """120 steps of Adam with lr 0.009, gradients clipped."""
    import dreamlens

    visualizer = dreamlens.FeatureVisualizer(network, quiet=True, normalize=False)
    made = visualizer.maximize_channel(layer, unit, config=dreamlens.RenderConfig(width=side, height=side))
    return made.image.as_nchw().detach()


def by_faccent(network: peers.NormalisedNetwork, layer: str, unit: int, side: int) -> Tensor:
    """100 steps of Adam with lr 0.05, each on 16 crops."""
    peers.restore_moved_functions()
    from faccent import objectives, param, render

    images, *_ = render.render_vis(
        network, objectives.channel(layer.replace(".", "_"), unit), param.fourier(img_size=(LARGE, LARGE)),
        out_thresholds=[99], inline_thresholds=[], trans_p=None, progress=False,
        model_input_size=(side, side), model_input_range=(0, 1), img_size=(LARGE, LARGE),
    )  # fmt: skip
    return images[-1].detach()


PEERS: dict[str, tuple[str, Draw]] = {  # what must be importable
    "torch-lucent 0.1.8": ("lucent", by_lucent),
    "Horama 0.3.0": ("horama", by_horama),
    "dreamlens 0.1.1": ("dreamlens", by_dreamlens),
    "faccent 1.0.3": ("faccent", by_faccent),
}
OURS: dict[str, dict[str, Any]] = {
    "featviz 0.2.0's default": PLAIN | {"steps": 48, "lr": 0.2},
    "featviz, draft": {"quality": "draft"},
    "featviz, standard": {},
    "featviz, paper": {"quality": "paper"},
}


def add(parser: argparse.ArgumentParser) -> None:
    add_networks(parser)
    parser.add_argument("--units", type=int, default=4, help="the first of the late layer")
    parser.add_argument("--threads", type=int, default=1)


def measure(args: argparse.Namespace) -> Record:
    torch.set_num_threads(args.threads)
    network = real_network(args.network, args.data, args.real)
    layer, units = network.layers[-1], list(range(args.units))
    scales, natural_chroma = natural_scales(network), float(chroma(network.natural).mean())
    found, shown = {}, {}
    for name, images, seconds in _all_pictures(network, layer, units):
        shown[name] = images
        figures = picture_figures(network, scales, layer, units, images)
        found[name] = {
            "activation": float(figures["own"].mean()),
            "lowest": float(figures["own"].min()),
            **{key: float(figures[key].mean()) for key in ("unseen", "high", "saturated")},
            "chroma": float(figures["chroma"].mean()) / natural_chroma,
            "seconds": seconds,
        }
    _contact_sheet(shown).save(GALLERY / f"peers-{network.name}.png")
    return {"network": network.name, "layer": layer, "units": len(units), "rows": found}


def _all_pictures(network: RealNetwork, layer: str, units: list[int]):
    """Name, images (unit, 3, h, w) in [0, 1] at featviz's size, seconds per image: of every program."""
    side = network.size
    for name, changes in OURS.items():
        config = RenderConfig(size=side, **changes)
        began = time.process_time()
        images = featviz.render(network.subject, [f"{layer}:{unit}" for unit in units], config).images
        yield name, images, (time.process_time() - began) / len(units)
    for name, (module, draw) in PEERS.items():
        try:
            __import__(module)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        began = time.process_time()
        own = peers.NormalisedNetwork(network.subject).eval()
        with contextlib.redirect_stdout(io.StringIO()):
            images = torch.cat([draw(own, f"net.{layer}", unit, side) for unit in tqdm(units, desc=name)]).float()
        seconds = (time.process_time() - began) / len(units)
        yield name, F.interpolate(images, side, mode="area").clamp(0, 1), seconds


def _contact_sheet(shown: dict[str, Tensor]) -> Image.Image:
    """A row of pictures for each program, its name above."""
    side, head = 192, 22
    count = len(next(iter(shown.values())))
    sheet = Image.new("RGB", (count * side, len(shown) * (side + head)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(shown.items()):
        draw.text((4, row * (side + head) + 4), name, fill="black", font_size=13)
        for column, image in enumerate(images):
            values = (image.permute(1, 2, 0) * 255).round().byte().numpy()
            picture = Image.fromarray(values).resize((side - 4, side - 4), Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * side + 2, row * (side + head) + head))
    return sheet


def table(records: list[Record]) -> str:
    (record,) = records
    rows = []
    for name, row in record["rows"].items():
        cells = [f"{row['seconds']:.1f}", *(f"{row[key]:.2f}" for key in ("activation", "lowest", "unseen"))]
        rows.append([name, *cells, f"{row['high']:.3f}", f"{row['saturated']:.3f}", f"{row['chroma']:.2f}"])
    head = f"{record['network']} `{record['layer']}`, {record['units']} units\n\n"
    return head + markdown(HEAD, rows)
