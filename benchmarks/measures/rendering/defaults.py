"""Default against default: the seconds per image of torch-lucent and of featviz as their users call them.

    uv run --isolated --group peers python benchmarks/rendering.py defaults --real real/ --alone 2 --keep

lucent: `render_vis(model, "layer:unit")`, one unit at a time, 128 px fed at 224 px, 512 steps. featviz:
`featviz.render(model, "layer:0-15")`, 224 px, everything by default, and with `quality="draft"`. The bundled CIFAR network is
rendered at 64 px by both. The ResNets have random weights; with `--real`, EfficientNet-Lite0 (package index) and MobileNetV1
(at 128 px by both), trained on ImageNet, are measured too.
The final images are shown to the network without transforms at full precision, at the size that it is fed: *activation* is
featviz's mean over the units that lucent rendered, as a multiple of lucent's; *lowest* that of the worst of them.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from measures.rendering import peers
from measures.rendering.cases import CASES, activation, gray, network
from measures.rendering.real_networks import lite0, mobilenet
from measures.report import Record, markdown

NAME = "defaults"
RECORDS = ("defaults", "defaults-avx2")
PROCESSORS = {"defaults": "With bfloat16", "defaults-avx2": "With AVX2 alone"}
QUALITIES = ("standard", "draft")
TRAINED = {  # with `--real`: as CASES
    ("lite0", "_blocks.10"): (128, 224),
    ("mobilenet", "features.12.0"): (128, 128),
}
HEAD = (
    "network, layer", "quality", "lucent, s per image", "featviz, s per image", "steps", "faster", "activation (lucent = 1)",
    "lowest", "gray",
)  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--real", type=Path, metavar="FOLDER", help="real checkpoints and photographs, for trained networks"
    )
    parser.add_argument("--alone", type=int, default=4, help="units that lucent renders, one at a time")
    parser.add_argument("--batch", type=int, default=16, help="units that featviz renders")
    parser.add_argument("--steps", type=int, default=512, help="of lucent")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def measure(args: argparse.Namespace) -> Record:
    cases = CASES | TRAINED if args.real else CASES
    found = {f"{name} {layer}": _case(name, layer, sizes, args) for (name, layer), sizes in tqdm(cases.items())}
    bfloat16 = args.device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return {"record": "defaults" if bfloat16 else "defaults-avx2", "cases": found}


def _case(name: str, layer: str, sizes: tuple[int, int], args: argparse.Namespace) -> dict[str, Any]:
    """Seconds per image of both, and the activations that their images reach.

    Args:
        sizes: sides of lucent's image and of what the network is fed, in pixels.
    """
    alone, batch, steps = args.alone, args.batch, args.steps
    side, fed = sizes
    model: nn.Module | featviz.Subject
    settings: dict[str, Any] = {}
    if (name, layer) in TRAINED:
        model = lite0() if name == "lite0" else mobilenet(args.real, 224)
        model.model.to(args.device)
        hooked, hooked_layer = peers.NormalisedNetwork(model).to(args.device), f"net.{layer}"
        standard = peers.lucent().transform.standard_transforms
        settings = {"transforms": standard, "preprocess": False, "fixed_image_size": fed}
    else:
        model = network(name, args.device)
        hooked, hooked_layer = model, layer
        if name == "bundled":
            settings = peers.own_normalisation(model, side)
    hooked = peers.hooked_copy(hooked)
    torch.manual_seed(0)
    peers.lucent_images(hooked, hooked_layer, [0], side, (2,), **settings)  # warm-up
    began = time.perf_counter()
    theirs = [peers.lucent_images(hooked, hooked_layer, [unit], side, (steps,), **settings)[0] for unit in range(alone)]
    lucent = (time.perf_counter() - began) / alone
    units = list(range(alone))
    goal = activation(model, layer, units, torch.cat(theirs), fed)
    featviz.render(model, f"{layer}:0", RenderConfig(size=fed, steps=2), device=args.device)  # warm-up
    cells: dict[str, Any] = {}
    for quality in QUALITIES:
        began = time.perf_counter()
        made = featviz.render(
            model, f"{layer}:0-{batch - 1}", RenderConfig(size=fed, quality=quality), device=args.device
        )
        seconds = (time.perf_counter() - began) / batch
        score = activation(model, layer, units, made.images[:alone], fed)
        cells[quality] = {
            "featviz": seconds,
            "faster": lucent / seconds,
            "activation": float(score.mean() / goal.mean()),
            "lowest": float((score / goal).min()),
            "gray": gray(made.images),
            "score": score.tolist(),
            "steps": made.steps.float().mean().item(),
        }
    images = {"lucent": alone, "featviz": batch}
    return {"lucent": lucent, "lucent_steps": steps, "score": goal.tolist(), "images": images, "qualities": cells}


def table(records: list[Record]) -> str:
    """One table for processors with bfloat16 and one for those with AVX2 alone."""
    parts = []
    for record in records:
        rows = []
        for name, case in record["cases"].items():
            for quality, row in case["qualities"].items():
                cells = [quality, f"{case['lucent']:.1f}", f"{row['featviz']:.2f}", f"{row['steps']:.0f}"]
                cells += [f"{row['faster']:.1f}x", f"{row['activation']:.2f}", f"{row['lowest']:.2f}"]
                rows.append([name, *cells, row["gray"]])
        parts.append(f"**{PROCESSORS[record['record']]}**\n\n{markdown(HEAD, rows)}")
    return "\n\n".join(parts)
