"""Render throughput beside lucent, Horama and the bare network, at equal work, in turns within one run.

    uv run --isolated --group peers python benchmarks/throughput.py --out benchmarks/results/throughput.json \\
        --readme README.md --plot gallery/throughput.png

Equal work: one image of 128 px per unit, fed at 224 px (the bundled CIFAR network: 64 px at 64), Adam with lr 0.05, jitter,
zoom and rotation by default. Five ways, one after the other in every round; the median of the rounds counts, in milliseconds
per image and step with set-up included (the peers have next to none, so they may take fewer steps):

    lucent     torch-lucent as its users call it: one unit at a time, default transforms, float32, weights not frozen
    batched    torch-lucent with one parameterization for the whole batch and one objective per image
    horama     Horama 0.3.0's `fourier`, one image at a time, of which every step sees 6 crops; on a network cut at the layer
    featviz    `featviz.render` of the same units, precision "auto"
    trunk      forward and input gradient of torch's own network, cut at the layer by a hook: weights frozen, the batch,
               the precision (autocast) and the memory layout of featviz

The ResNets have random weights; that changes no operator. On a GPU the same figures are per GPU, with peak memory.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from machine import machine, report
from peers import hooked_copy, horama, objectives, param, render_vis
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from tqdm import tqdm

import featviz
from featviz.gallery.plots import COLORS
from featviz.rendering.network.feature_extractor import resolve_precision
from featviz.rendering.throughput import bare_trunk

HEAD = (
    "| network, layer | lucent | lucent, batched | Horama | featviz | bare trunk | over lucent | over batched "
    "| over Horama | of the trunk |"
)
LABELS = {
    "horama": "Horama",
    "lucent": "torch-lucent, one unit",
    "batched": "torch-lucent, batch",
    "featviz": "featviz",
    "trunk": "bare trunk",
}
CASES = {  # network, layer -> image side, side fed
    ("resnet18", "layer2"): (128, 224),
    ("resnet18", "layer4"): (128, 224),
    ("resnet50", "layer3"): (128, 224),
    ("bundled", "layer3.1.bn2"): (64, 64),
}


def network(name: str, device: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "bundled":
        return featviz.bundled_pair().a.to(device)
    return torchvision.models.get_model(name, weights=None).eval().to(device)


def ways(
    name: str, layer: str, batch: int, steps: int, device: str
) -> dict[str, tuple[Callable[[], object], int, int]]:
    """What is timed, over how many images and steps it runs."""
    few = max(2, steps // 8)
    side, fed = CASES[name, layer]
    model = network(name, device)
    config = featviz.RenderConfig(size=side, input_size=fed, steps=steps, batch=batch, lr=0.05)
    units = list(range(batch))
    theirs = {"thresholds": (few,), "show_image": False, "progress": False, "fixed_image_size": fed}
    lucent_layer = layer.replace(".", "_")

    hooked = hooked_copy(model)

    def alone() -> None:
        for unit in units[:2]:
            render_vis(hooked, f"{lucent_layer}:{unit}", lambda: param.image(side), **theirs)

    def batched() -> None:
        parts = [objectives.channel(lucent_layer, unit, batch=unit) for unit in units]
        render_vis(hooked, objectives.Objective.sum(parts), lambda: param.image(side, batch=batch), **theirs)

    cut = create_feature_extractor(copy.deepcopy(model), {layer: "activation"}).eval()

    def by_horama() -> None:
        def score(crops: Tensor) -> Tensor:
            return cut(crops)["activation"][:, 0].mean()

        horama.fourier(score, total_steps=few, image_size=side, model_input_size=fed, device=device)

    def ours() -> None:
        featviz.render(model, f"{layer}:0-{batch - 1}", config)

    place = torch.device(device)
    step = bare_trunk(model, layer, (batch, 3, fed, fed), resolve_precision("auto", place), place)

    def bare() -> None:
        for _ in range(few):
            step()

    return {
        "lucent": (alone, 2, few),
        "batched": (batched, batch, few),
        "horama": (by_horama, 1, few),
        "featviz": (ours, batch, steps),
        "trunk": (bare, batch, few),
    }


def measure(name: str, layer: str, batch: int, steps: int, rounds: int, device: str) -> dict[str, object]:
    """Milliseconds per image and step of every way, and their ratios."""
    timed: dict[str, list[float]] = {}
    for run, _, _ in ways(name, layer, batch, 2, device).values():
        run()  # warm-up
    found = ways(name, layer, batch, steps, device)
    for _ in range(rounds):
        for way, (run, images, count) in found.items():
            began = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            timed.setdefault(way, []).append(1000 * (time.perf_counter() - began) / images / count)
    row: dict[str, object] = {way: statistics.median(times) for way, times in timed.items()}
    row |= {
        "rounds": timed,
        "batch": batch,
        "steps": {way: count for way, (_, _, count) in found.items()},
        "image": CASES[name, layer][0],
        "fed": CASES[name, layer][1],
    }
    if device != "cpu":
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    return row


def table(found: dict[str, dict]) -> str:
    """Milliseconds per image and step, and ratios."""
    rows = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for name, row in found.items():
        times = [f"{row[way]:.1f}" for way in ("lucent", "batched", "horama", "featviz", "trunk")]
        ratios = [f"{row[way] / row['featviz']:.1f}x" for way in ("lucent", "batched", "horama")]
        rows.append("| " + " | ".join([name, *times, *ratios, f"{row['featviz'] / row['trunk']:.2f}"]) + " |")
    return "\n".join(rows)


def plot(found: dict[str, dict], title: str, path: Path) -> None:
    """Images and steps per second, a panel for every network and a bar for every way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (name, row) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for number, (way, label) in enumerate(LABELS.items()):
            bars = axes.bar(number, 1000 / row[way], 0.9, color=COLORS[number], label=label)
            axes.bar_label(bars, [f"{1000 / row[way]:.3g}"], fontsize=8, padding=1)
        axes.set_title(name, fontsize=9)
        axes.margins(y=0.1)
        axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("images × steps per second", fontsize=9)
    figure.suptitle(title, fontsize=9)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(LABELS), frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[name for name, _ in CASES], help="networks")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--readme", type=Path, help="the file whose table is replaced")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    found = {}
    for name, layer in tqdm([case for case in CASES if case[0] in args.cases]):
        found[f"{name} {layer}"] = measure(name, layer, args.batch, args.steps, args.rounds, args.device)
    report(args, table(found), cases=found)
    if args.plot:
        here = machine()
        plot(found, f"{here['gpu'] or here['processor']}, batch {args.batch}", args.plot)


if __name__ == "__main__":
    main()
