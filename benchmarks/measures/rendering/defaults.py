"""Default against default: the seconds per image of torch-lucent and of featviz as their users call them.

    uv run --isolated --group peers python benchmarks/rendering.py defaults --alone 2 --keep

lucent: `render_vis(model, "layer:unit")`, one unit at a time, 128 px fed at 224 px, 512 steps. featviz:
`featviz.render(model, "layer:0-15")`, 224 px, everything by default. The bundled CIFAR network is rendered at 64 px by both.
The final images are shown to the network without transforms at full precision, at the size that it is fed: *activation* is
featviz's mean over the units that lucent rendered, as a multiple of lucent's; *lowest* that of the worst of them.
"""

import argparse
import time
from typing import Any

import torch
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from measures.rendering import peers
from measures.rendering.cases import CASES, activation, gray, network
from measures.report import Record, markdown

NAME = "defaults"
RECORDS = ("defaults", "defaults-avx2")
PROCESSORS = {"defaults": "With bfloat16", "defaults-avx2": "With AVX2 alone"}
HEAD = (
    "network, layer", "lucent, s per image", "featviz, s per image", "steps", "faster", "activation (lucent = 1)", "lowest",
    "gray",
)  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--alone", type=int, default=4, help="units that lucent renders, one at a time")
    parser.add_argument("--batch", type=int, default=16, help="units that featviz renders")
    parser.add_argument("--steps", type=int, default=512, help="of lucent")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def measure(args: argparse.Namespace) -> Record:
    found = {f"{name} {layer}": _case(name, layer, args) for name, layer in tqdm(CASES)}
    bfloat16 = args.device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return {"record": "defaults" if bfloat16 else "defaults-avx2", "cases": found}


def _case(name: str, layer: str, args: argparse.Namespace) -> dict[str, object]:
    """Seconds per image of both, and the activations that their images reach."""
    alone, batch, steps = args.alone, args.batch, args.steps
    side, fed = CASES[name, layer]
    model = network(name, args.device)
    hooked = peers.hooked_copy(model)
    settings: dict[str, Any] = peers.own_normalisation(model, side) if name == "bundled" else {}
    torch.manual_seed(0)
    peers.lucent_images(hooked, layer, [0], side, (2,), **settings)  # warm-up
    began = time.perf_counter()
    theirs = [peers.lucent_images(hooked, layer, [unit], side, (steps,), **settings)[0] for unit in range(alone)]
    lucent = (time.perf_counter() - began) / alone
    config = RenderConfig(size=fed)
    featviz.render(model, f"{layer}:0", RenderConfig(size=fed, steps=2))  # warm-up
    began = time.perf_counter()
    made = featviz.render(model, f"{layer}:0-{batch - 1}", config)
    seconds = (time.perf_counter() - began) / batch
    ours, units = made.images, list(range(alone))
    goal = activation(model, layer, units, torch.cat(theirs), fed)
    score = activation(model, layer, units, ours[:alone], fed)
    return {
        "lucent": lucent,
        "featviz": seconds,
        "faster": lucent / seconds,
        "activation": float(score.mean() / goal.mean()),
        "lowest": float((score / goal).min()),
        "gray": gray(ours),
        "scores": {"lucent": goal.tolist(), "featviz": score.tolist()},
        "steps": {"lucent": steps, "featviz": made.steps.float().mean().item()},
        "images": {"lucent": alone, "featviz": batch},
    }


def table(records: list[Record]) -> str:
    """One table for processors with bfloat16 and one for those with AVX2 alone."""
    parts = []
    for record in records:
        rows = []
        for name, row in record["cases"].items():
            cells = [f"{row['lucent']:.1f}", f"{row['featviz']:.2f}", f"{row['steps']['featviz']:.0f}"]
            cells += [f"{row['faster']:.1f}x", f"{row['activation']:.2f}", f"{row['lowest']:.2f}"]
            rows.append([name, *cells, row["gray"]])
        parts.append(f"**{PROCESSORS[record['record']]}**\n\n{markdown(HEAD, rows)}")
    return "\n\n".join(parts)
