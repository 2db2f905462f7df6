"""What a step is worth: learning rate, momentum, schedule, steps and start against the activation reached without transforms.

    uv run --isolated --group peers python benchmarks/rendering.py ablation --keep

For some units each of two layers in A, in B' and in the merged network (by default 48 images), every configuration is run from
the same starts and warps. Its images are shown to the network without any transform at full precision. A row gives the mean
activation over the units of a network's layer as a multiple of what torch-lucent 0.1.8 reaches with its default 512 steps,
averaged over the six (`--lucent` names the folder of `quality --images`; without it lucent is run), the share of images that
reach at least lucent's, the lowest ratio of any image, and a measure of noise: the share of the image's energy (mean taken off)
beyond half the Nyquist frequency. Rows of other configurations that the kept record has already are kept in it.
"""

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from measures.rendering.cases import LAYERS, SIZE, activation, bundled_subjects
from measures.rendering.quality import lucent_images
from measures.report import RESULTS, Record, markdown

NAME = "ablation"
PLOT = "ablation.png"
HEAD = (
    "lr", "beta1", "schedule", "sd", "steps", "activation (lucent, 512 steps = 1)", "images that reach lucent's", "lowest",
    "noise",
)  # fmt: skip
CHOICE = ("lr", "beta1", "schedule", "sd", "steps")
SHOWN = (  # learning rate, momentum and steps of the rows in the table, of constant schedule and default start
    (0.05, 0.9, 128), (0.1, 0.9, 64), (0.1, 0.9, 96), (0.2, 0.9, 64), (0.1, 0.5, 48), (0.1, 0.5, 96), (0.15, 0.5, 64),
    (0.2, 0.5, 32), (0.2, 0.5, 48), (0.2, 0.5, 64), (0.2, 0.3, 48), (0.2, 0.7, 48), (0.3, 0.5, 48),
)  # fmt: skip
LUCENT_STEPS = 512


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", type=int, default=8, help="of every layer")
    parser.add_argument("--steps", type=int, nargs="+", default=[32, 48, 64, 96, 128])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.05, 0.1, 0.15, 0.2, 0.4])
    parser.add_argument("--beta1", type=float, nargs="+", default=[0.9, 0.5])
    parser.add_argument("--schedule", nargs="+", default=["constant"])
    parser.add_argument("--sd", type=float, nargs="+", default=[RenderConfig().sd])
    parser.add_argument("--lucent", type=Path, help="folder of `quality --images`")


def measure(args: argparse.Namespace) -> Record:
    units = list(range(args.units))
    cells = [(subject, model, layer) for subject, model in bundled_subjects().items() for layer in LAYERS]
    theirs, rough = {}, []
    for subject, model, layer in tqdm(cells, desc="lucent"):
        images, _ = lucent_images(model, subject, layer, units, (LUCENT_STEPS,), args.lucent)[LUCENT_STEPS]
        theirs[subject, layer] = activation(model, layer, units, images)
        rough.append(noise(images))
    kept = RESULTS / f"{NAME}.json"
    rows = json.loads(kept.read_text())["rows"] if kept.exists() else []
    for values in tqdm(list(product(args.lr, args.beta1, args.schedule, args.sd, args.steps))):
        choice = dict(zip(CHOICE, values, strict=True))
        rows = [row for row in rows if any(row[name] != value for name, value in choice.items())]
        rows.append(choice | _row(replace(RenderConfig(size=SIZE), **choice), units, cells, theirs))
    rows.sort(key=lambda row: [row[name] for name in CHOICE])
    return {"lucent_noise": sum(rough) / len(rough), "rows": rows}


def _row(config: RenderConfig, units: list[int], cells: list[tuple], theirs: dict[tuple, Tensor]) -> dict[str, float]:
    """The figures of one configuration."""
    ratios, reached, lowest, rough = [], [], [], []
    for subject, model, layer in cells:
        images = featviz.render(model, [f"{layer}:{unit}" for unit in units], config).images
        score, goal = activation(model, layer, units, images), theirs[subject, layer]
        ratios.append(float(score.mean() / goal.mean()))
        reached.append(float((score >= goal).float().mean()))
        lowest.append(float((score / goal).min()))
        rough.append(noise(images))
    means = {"activation": ratios, "reached": reached, "noise": rough}
    return {key: sum(values) / len(values) for key, values in means.items()} | {"lowest": min(lowest)}


def noise(images: Tensor) -> float:
    """Share of the energy of images (unit, c, h, w), their mean taken off, beyond half the Nyquist frequency; in [0, 1]."""
    height, width = images.shape[-2:]
    power = torch.fft.fft2(images - images.mean((-2, -1), keepdim=True)).abs().square().sum((0, 1))
    high = torch.fft.fftfreq(height).abs()[:, None].maximum(torch.fft.fftfreq(width).abs()) > 0.25
    return float(power[high].sum() / power.sum())


def _plain(rows: list[dict]) -> list[dict]:
    """The rows of constant schedule and of the usual start."""
    return [row for row in rows if row["schedule"] == "constant" and row["sd"] == 0.01]


def table(records: list[Record]) -> str:
    """The rows named in `SHOWN`; all are in the record."""
    found = {(row["lr"], row["beta1"], row["steps"]): row for row in _plain(records[0]["rows"])}
    rows = []
    for row in (found[key] for key in SHOWN if key in found):
        cells = [f"{row['lr']:g}", f"{row['beta1']:g}", row["schedule"], f"{row['sd']:g}", row["steps"]]
        cells += [f"{row['activation']:.2f}", f"{100 * row['reached']:.0f} %", f"{row['lowest']:.2f}"]
        rows.append([*cells, f"{row['noise']:.3f}"])
    return markdown(HEAD, rows)


def plot(record: Record, path: Path) -> None:
    """Activation against steps, a line for every learning rate and momentum."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4))
    rows = _plain(record["rows"])
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
