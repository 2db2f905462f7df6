"""What a step is worth: learning rate, momentum, schedule, steps and start against the activation reached without transforms.

    uv run --isolated --group peers python benchmarks/ablation.py --out benchmarks/results/ablation.json --readme README.md \\
        --plot gallery/ablation.png

For some units each of two layers in A, in B' and in the merged network (by default 48 images), every configuration is run from
the same draws. Its images are shown to the network without any transform at full precision. A row gives the mean activation
over the units of a network's layer as a multiple of what torch-lucent 0.1.8 reaches with its default 512 steps, averaged over
the six (from `quality.py --images`, whose folder `--lucent` names; without it lucent is run), the share of images that reach at
least lucent's, the lowest ratio of any image, and a measure of noise: the share of the image's energy (mean taken off) beyond
half the Nyquist frequency. Rows of other configurations that are in `--out` already are kept.
"""

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from machine import report
from quality import LAYERS, SIZE, activation, featviz_images, lucent_images, networks
from torch import Tensor
from tqdm import tqdm

from featviz.config import RenderConfig

HEAD = (
    "| lr | beta1 | schedule | sd | steps | activation (lucent, 512 steps = 1) | images that reach lucent's | lowest "
    "| noise |"
)
CHOICE = ("lr", "beta1", "schedule", "sd", "steps")


def noise(images: Tensor) -> float:
    """Share of the energy of images (unit, c, h, w), their mean taken off, beyond half the Nyquist frequency; in [0, 1]."""
    h, w = images.shape[-2:]
    power = torch.fft.fft2(images - images.mean((-2, -1), keepdim=True)).abs().square().sum((0, 1))
    high = torch.fft.fftfreq(h).abs()[:, None].maximum(torch.fft.fftfreq(w).abs()) > 0.25
    return float(power[high].sum() / power.sum())


def lucent_scores(folder: Path | None, units: list[int], steps: int) -> dict[str, Tensor]:
    """(unit,) by network and layer."""
    found = {}
    for (name, net), layer in product(networks().items(), LAYERS):
        path = folder / f"lucent {steps} {name} {layer}.pt" if folder else None
        if path and path.exists():
            images, _ = torch.load(path)
        else:
            images, _ = lucent_images(net, layer, units, (steps,))[steps]
        found[f"{name} {layer}"] = activation(net, layer, units, images)
        found[f"{name} {layer} noise"] = torch.tensor(noise(images))
    return found


def measure(config: RenderConfig, units: list[int], theirs: dict[str, Tensor]) -> dict[str, float]:
    ratios, reached, lowest, rough = [], [], [], []
    for (name, net), layer in product(networks().items(), LAYERS):
        images, _ = featviz_images(net, layer, units, config)
        score, goal = activation(net, layer, units, images), theirs[f"{name} {layer}"]
        ratios.append(float(score.mean() / goal.mean()))
        reached.append(float((score >= goal).float().mean()))
        lowest.append(float((score / goal).min()))
        rough.append(noise(images))
    mean = {"activation": ratios, "reached": reached, "noise": rough}
    return {key: sum(values) / len(values) for key, values in mean.items()} | {"lowest": min(lowest)}


def table(rows: list[dict]) -> str:
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for row in rows:
        cells = [f"{row['lr']:g}", f"{row['beta1']:g}", row["schedule"], f"{row['sd']:g}", str(row["steps"])]
        cells += [f"{row['activation']:.2f}"]
        cells += [f"{100 * row['reached']:.0f} %", f"{row['lowest']:.2f}", f"{row['noise']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Activation against steps, a line for every learning rate and momentum of constant schedule and default start."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4))
    rows = [row for row in rows if row["schedule"] == "constant" and row["sd"] == RenderConfig().sd]
    for lr, beta1 in dict.fromkeys((row["lr"], row["beta1"]) for row in rows):
        own = sorted((r["steps"], r["activation"]) for r in rows if (r["lr"], r["beta1"]) == (lr, beta1))
        style = "--" if beta1 == 0.9 else "-"
        axes.plot(*zip(*own, strict=True), style, marker="o", markersize=4, label=f"lr {lr:g}, beta1 {beta1:g}")
    axes.axhline(1, color="black", linewidth=1)
    axes.annotate("torch-lucent, 512 steps", (128, 1), (0, -11), textcoords="offset points", fontsize=8, ha="right")
    axes.set_xscale("log", base=2)
    ticks = sorted({row["steps"] for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("steps")
    axes.set_ylabel("activation without transforms, lucent = 1")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=8, help="of every layer")
    parser.add_argument("--steps", type=int, nargs="+", default=[32, 48, 64, 96, 128])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.05, 0.1, 0.15, 0.2, 0.4])
    parser.add_argument("--beta1", type=float, nargs="+", default=[0.9, 0.5])
    parser.add_argument("--schedule", nargs="+", default=["constant"])
    parser.add_argument("--sd", type=float, nargs="+", default=[RenderConfig().sd])
    parser.add_argument("--lucent", type=Path, help="folder of `quality.py --images`")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--readme", type=Path, help="the file whose table is replaced")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    units = list(range(args.units))
    theirs = lucent_scores(args.lucent, units, 512)
    print("lucent's noise:", torch.stack([v for k, v in theirs.items() if k.endswith("noise")]).mean().item())
    rows = json.loads(args.out.read_text())["rows"] if args.out and args.out.exists() else []
    for values in tqdm(list(product(args.lr, args.beta1, args.schedule, args.sd, args.steps))):
        choice = dict(zip(CHOICE, values, strict=True))
        rows = [row for row in rows if any(row[name] != value for name, value in choice.items())]
        rows.append(choice | measure(replace(RenderConfig(size=SIZE), **choice), units, theirs))
    rows.sort(key=lambda row: [row[name] for name in CHOICE])
    report(args, table(rows), rows=rows)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
