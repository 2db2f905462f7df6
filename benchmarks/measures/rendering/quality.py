"""Activation that images reach for their cost, beside lucent, on the bundled pair and its merge.

    uv run --isolated --group peers python benchmarks/rendering.py quality --units 8 --lucent-steps 128 512 \\
        --lr 0.05 --steps 128 512 --control --keep

For some units each of two layers in A, in B' and in the merged network (by default 96 images): the final image is shown to the
network without any transform, at full precision, and the unit's mean activation is read. lucent is torch-lucent 0.1.8 with its
default transforms, Adam and learning rate, the normalisation that the networks were trained with, and as many steps as stated;
its images are scored in the same way. Rows give the mean over the units of a network's layer as a multiple of what lucent
reaches with its most steps, averaged over the six; the share of the images that reach at least lucent's activation there; the
images that are gray (standard deviation of the pixels under 0.02); and the seconds of the run. *Beside float32*: image by image
over featviz's in float32 after as many steps, mean and standard deviation. The optimisation is chaotic, so `--control` gives
the scale: float32 again, from a start that is larger by one part in a thousand.
"""

import argparse
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from measures.rendering import peers
from measures.rendering.cases import LAYERS, SIZE, activation, bundled_subjects, gray
from measures.report import Record, markdown

NAME = "quality"
HEAD = (
    "64 px", "steps", "activation (lucent's longest = 1)", "images that reach lucent's", "gray", "beside float32", "seconds",
)  # fmt: skip
CONTROL = 1.001  # factor of the start's standard deviation
NOT_FLOAT32 = re.compile(r", (auto|bfloat16|control)")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", type=int, default=16, help="of every layer")
    parser.add_argument("--lucent-steps", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--steps", type=int, nargs="+", default=[32, 64, 128, 512])
    parser.add_argument("--lr", type=float, nargs="+", default=[RenderConfig().step_size])
    parser.add_argument("--precision", nargs="+", default=["auto", "float32"])
    parser.add_argument("--control", action="store_true", help="float32 again from another start (see above)")
    parser.add_argument("--images", type=Path, help="folder of lucent's images as tensors, written once and read again")


def measure(args: argparse.Namespace) -> Record:
    units = list(range(args.units))
    settings: dict[str, dict[str, dict]] = {}

    def keep(setting: str, model: nn.Module, subject: str, layer: str, images: Tensor, seconds: float) -> None:
        score = activation(model, layer, units, images).tolist()
        found = {"score": score, "gray": gray(images), "seconds": seconds}
        settings.setdefault(setting, {})[f"{subject} {layer}"] = found

    cells = [(subject, model, layer) for subject, model in bundled_subjects().items() for layer in LAYERS]
    for subject, model, layer in tqdm(cells, desc="lucent"):
        found = lucent_images(model, subject, layer, units, tuple(args.lucent_steps), args.images)
        for steps, (images, seconds) in found.items():
            keep(f"lucent {steps}", model, subject, layer, images, seconds)
    for setting, config in _configurations(args):
        for subject, model, layer in tqdm(cells, desc=setting):
            began = time.perf_counter()
            images = featviz.render(model, [f"{layer}:{unit}" for unit in units], config).images
            keep(setting, model, subject, layer, images, time.perf_counter() - began)
    return {"rows": summary(settings), "settings": settings}


def lucent_images(
    model: nn.Module, subject: str, layer: str, units: list[int], steps: tuple[int, ...], folder: Path | None
) -> dict[int, tuple[Tensor, float]]:
    """Images (unit, 3, h, w) in [0, 1] after so many steps, and the seconds of a run; from the folder if it has them."""
    paths = [folder / f"lucent {count} {subject} {layer}.pt" for count in steps] if folder else []
    if paths and all(path.exists() for path in paths):
        return dict(zip(steps, map(torch.load, paths), strict=True))
    torch.manual_seed(0)
    began = time.perf_counter()
    images = peers.lucent_images(model, layer, units, SIZE, steps, **peers.own_normalisation(model, SIZE))
    taken = time.perf_counter() - began
    found = {count: (image, taken * count / max(steps)) for count, image in zip(steps, images, strict=True)}
    for path, count in zip(paths, steps, strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found[count], path)
    return found


def _configurations(args: argparse.Namespace) -> Iterator[tuple[str, RenderConfig]]:
    """The configurations of featviz, by what their rows are called."""
    base = RenderConfig(size=SIZE, schedule="constant")
    for precision, lr, steps in product([*args.precision, *(["control"] if args.control else [])], args.lr, args.steps):
        config = replace(base, steps=steps, lr=lr, precision=precision.replace("control", "float32"))
        if precision == "control":
            config = replace(config, sd=CONTROL * config.sd)
        rate = f", lr {lr:g}" if lr != base.step_size else ""
        yield f"featviz, {precision}{rate} {steps}", config


def summary(settings: dict[str, dict[str, dict]]) -> list[dict]:
    """A row for every setting: its steps, and its figures over all subjects and layers."""
    longest = max((name for name in settings if name.startswith("lucent")), key=lambda name: int(name.split()[1]))
    reference = settings[longest]
    rows = []
    for setting, cells in settings.items():
        scores = {key: torch.tensor(cell["score"]) for key, cell in cells.items()}
        theirs = {key: torch.tensor(reference[key]["score"]) for key in cells}
        ratios = [float(scores[key].mean() / theirs[key].mean()) for key in cells]
        reached = torch.cat([scores[key] >= theirs[key] for key in cells])
        exact = settings.get(NOT_FLOAT32.sub(", float32", setting))
        beside = None
        if exact is not None and exact is not cells:
            each = torch.cat([scores[key] / torch.tensor(exact[key]["score"]) for key in cells])
            beside = [each.mean().item(), each.std().item()]
        name, _, steps = setting.rpartition(" ")
        rows.append({
            "setting": name,
            "steps": int(steps),
            "activation": sum(ratios) / len(ratios),
            "reached": reached.float().mean().item(),
            "beside float32": beside,
            "gray": sum(cell["gray"] for cell in cells.values()),
            "seconds": sum(cell["seconds"] for cell in cells.values()),
        })  # fmt: skip
    return rows


def table(records: list[Record]) -> str:
    rows = []
    for row in records[0]["rows"]:
        cells = [row["setting"], row["steps"], f"{row['activation']:.2f}", f"{100 * row['reached']:.0f} %", row["gray"]]
        beside = "" if row["beside float32"] is None else "{:.3f} ± {:.3f}".format(*row["beside float32"])
        rows.append([*cells, beside, f"{row['seconds']:.0f}"])
    return markdown(HEAD, rows)
