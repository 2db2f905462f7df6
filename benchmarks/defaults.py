"""Default against default: the seconds per image of torch-lucent and of featviz as their users call them.

    uv run --isolated --group peers python benchmarks/defaults.py --out benchmarks/results/defaults.json --readme README.md

lucent: `render_vis(model, "layer:unit")`, one unit at a time, 128 px fed at 224 px, 512 steps. featviz:
`featviz.render(model, "layer:0-15")`, 224 px, everything by default. The bundled CIFAR network is rendered at 64 px by both.
The final images are shown to the network without transforms at full precision, at the size that it is fed: *activation* is
featviz's mean over the units that lucent rendered, as a multiple of lucent's; *lowest* that of the worst of them.
"""

import argparse
import time
from pathlib import Path

import torch
from machine import report
from peers import hooked_copy, param, render_vis, transform
from throughput import CASES, network
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from featviz.rendering.network.feature_extractor import Trunk
from featviz.rendering.objectives import channel
from featviz.rendering.optimize.loop import score_images
from featviz.subjects import input_normalization

HEAD = (
    "| network, layer | lucent, s per image | featviz, s per image | faster | activation (lucent = 1) | lowest | gray |"
)


def lucent_image(model: nn.Module, layer: str, unit: int, side: int, steps: int, bundled: bool) -> Tensor:
    """(1, 3, h, w) in [0, 1] of one call; a network that was trained with other statistics than ImageNet's is given them."""
    more = {}
    if bundled:
        fed = input_normalization(model, RenderConfig(), 3)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (fed.mean, fed.std))
        normalised = [*transform.standard_transforms, lambda x: (x - mean) / std]
        more = {"transforms": normalised, "preprocess": False, "fixed_image_size": side}
    found = render_vis(
        model, f"{layer.replace('.', '_')}:{unit}", lambda: param.image(side), thresholds=(steps,), show_image=False,
        progress=False, **more,
    )  # fmt: skip
    return torch.from_numpy(found[0]).permute(0, 3, 1, 2).float()


def activation(model: nn.Module, layer: str, units: list[int], images: Tensor, fed: int) -> Tensor:
    """(unit,) without transforms, in float32, fed at `fed` px."""
    config = RenderConfig(size=images.shape[-1], input_size=fed, precision="float32")
    with Trunk(model, (layer,), config) as trunk:
        return score_images(trunk, channel(layer, units), images)


def measure(name: str, layer: str, alone: int, batch: int, steps: int) -> dict[str, object]:
    side, fed = CASES[name, layer]
    bundled = name == "bundled"
    model = network(name, "cpu")
    hooked = hooked_copy(model)
    torch.manual_seed(0)
    lucent_image(hooked, layer, 0, side, 2, bundled)
    began = time.perf_counter()
    theirs = torch.cat([lucent_image(hooked, layer, unit, side, steps, bundled) for unit in range(alone)])
    lucent = (time.perf_counter() - began) / alone
    config = RenderConfig(size=fed)
    featviz.render(model, f"{layer}:0", RenderConfig(size=fed, steps=2))
    began = time.perf_counter()
    ours = featviz.render(model, f"{layer}:0-{batch - 1}", config).images
    seconds = (time.perf_counter() - began) / batch
    units = list(range(alone))
    goal = activation(model, layer, units, theirs, fed)
    score = activation(model, layer, units, ours[:alone], fed)
    return {
        "lucent": lucent,
        "featviz": seconds,
        "faster": lucent / seconds,
        "activation": float(score.mean() / goal.mean()),
        "lowest": float((score / goal).min()),
        "gray": int((ours.flatten(1).std(1) < 0.02).sum()),
        "scores": {"lucent": goal.tolist(), "featviz": score.tolist()},
        "steps": {"lucent": steps, "featviz": config.steps},
        "images": {"lucent": alone, "featviz": batch},
    }


def table(found: dict[str, dict]) -> str:
    rows = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for name, row in found.items():
        cells = [f"{row['lucent']:.1f}", f"{row['featviz']:.2f}", f"{row['faster']:.0f}x", f"{row['activation']:.2f}"]
        rows.append("| " + " | ".join([name, *cells, f"{row['lowest']:.2f}", str(row["gray"])]) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", type=int, default=4, help="units that lucent renders, one at a time")
    parser.add_argument("--batch", type=int, default=16, help="units that featviz renders")
    parser.add_argument("--steps", type=int, default=512, help="of lucent")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--readme", type=Path, help="the file whose table is replaced")
    args = parser.parse_args()
    found = {}
    for name, layer in tqdm(CASES):
        found[f"{name} {layer}"] = measure(name, layer, args.alone, args.batch, args.steps)
    report(args, table(found), cases=found)


if __name__ == "__main__":
    main()
