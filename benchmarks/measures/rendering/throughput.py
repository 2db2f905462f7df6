"""Render throughput beside lucent, Horama and the bare network, at equal work, in turns within one run.

    uv run --isolated --group peers python benchmarks/rendering.py throughput --keep

Equal work: one image of 128 px per unit, fed at 224 px (the bundled CIFAR network: 64 px at 64), Adam with lr 0.05, jitter,
zoom and rotation by default, without the saturation decay, which no peer has. Five programs, one after the other in every
round; the median of the rounds counts, in milliseconds per image and step with set-up included (the peers have next to none, so
they take fewer steps):

    lucent     torch-lucent as its users call it: one unit at a time, default transforms, float32, weights not frozen
    batched    torch-lucent with one parameterization for the whole batch and one objective per image
    horama     Horama 0.3.0's `fourier`, one image at a time, of which every step sees 6 crops; on a network cut at the layer
    featviz    `featviz.render` of the same units, precision "auto"
    trunk      forward and input gradient of torch's own network, cut at the layer by a hook: weights frozen, the batch,
               the precision (autocast) and the memory layout of featviz

On a GPU the same figures are per GPU, with peak memory. `--without lucent batched horama` leaves the peers out.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.feature_extraction import create_feature_extractor
from tqdm import tqdm

import featviz
from featviz.gallery.plots import COLORS
from featviz.rendering.network.feature_extractor import resolve_precision
from featviz.rendering.throughput import bare_trunk
from measures.rendering import peers
from measures.rendering.cases import CASES, network
from measures.report import Record, markdown

NAME = "throughput"
RECORDS = ("throughput", "throughput-amx", "throughput-gpu")
FEWEST = 128  # units that every layer of the cases has
PLOT = "throughput.png"
LABELS = {
    "horama": "Horama",
    "lucent": "torch-lucent, one unit",
    "batched": "torch-lucent, batch",
    "featviz": "featviz",
    "trunk": "bare trunk",
}
PEERS = ("lucent", "batched", "horama")
HEAD = (
    "network, layer", "lucent", "lucent, batched", "Horama", "featviz", "bare trunk",
    "over lucent", "over batched", "over Horama", "of the trunk",
)  # fmt: skip

Program = tuple[Callable[[], object], int, int]  # what is timed, over how many images and steps it runs


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", default=[name for name, _ in CASES], help="networks")
    parser.add_argument("--batch", type=int, default=16, help="images at once")
    parser.add_argument("--steps", type=int, default=128, help="of featviz; the others take an eighth")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without", nargs="+", default=[], choices=PEERS, help="programs that are left out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def measure(args: argparse.Namespace) -> Record:
    found = {}
    for name, layer in tqdm([case for case in CASES if case[0] in args.cases]):
        found[f"{name} {layer}"] = measure_case(
            name, layer, args.batch, args.steps, args.rounds, args.device, args.without
        )
    return {"record": _record_name(args.device), "batch": args.batch, "cases": found}


def _record_name(device: str) -> str:
    """What decides the ratios: a GPU, a CPU with a matrix unit for bfloat16, or one without."""
    if device != "cpu":
        return "throughput-gpu"
    return "throughput-amx" if torch.cpu._is_amx_tile_supported() else "throughput"


def measure_case(
    name: str, layer: str, batch: int, steps: int, rounds: int, device: str, without: list[str]
) -> dict[str, object]:
    """Milliseconds per image and step of every program, and all rounds."""
    for run, _, _ in programs(name, layer, batch, 2, device, without).values():
        run()  # warm-up
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    timed: dict[str, list[float]] = {}
    found = programs(name, layer, batch, steps, device, without)
    for _ in range(rounds):
        for program, (run, images, count) in found.items():
            began = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            timed.setdefault(program, []).append(1000 * (time.perf_counter() - began) / images / count)
    side, fed = CASES[name, layer]
    row: dict[str, object] = {program: statistics.median(times) for program, times in timed.items()}
    row |= {"rounds": timed, "batch": batch, "image": side, "fed": fed}
    row["steps"] = {program: count for program, (_, _, count) in found.items()}
    if device != "cpu":
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    return row


def programs(name: str, layer: str, batch: int, steps: int, device: str, without: list[str]) -> dict[str, Program]:
    """What is timed, by name."""
    few = max(2, steps // 8)
    side, fed = CASES[name, layer]
    model = network(name, device)
    config = featviz.RenderConfig(size=side, input_size=fed, steps=steps, batch=batch, lr=0.05, saturation_decay=0)
    place = torch.device(device)
    units = [unit % FEWEST for unit in range(batch)]
    step = bare_trunk(model, layer, (batch, 3, fed, fed), resolve_precision("auto", place), place)

    def bare() -> None:
        for _ in range(few):
            step()

    theirs = _peer_programs(model, layer, units, few, side, fed, device) if set(PEERS) - set(without) else {}
    return {
        **{program: value for program, value in theirs.items() if program not in without},
        "featviz": (lambda: featviz.render(model, [f"{layer}:{unit}" for unit in units], config), batch, steps),
        "trunk": (bare, batch, few),
    }


def _peer_programs(
    model: torch.nn.Module, layer: str, units: list[int], steps: int, side: int, fed: int, device: str
) -> dict[str, Program]:
    hooked = peers.hooked_copy(model)

    def alone() -> None:
        for unit in range(2):
            peers.lucent_images(hooked, layer, [unit], side, (steps,), fixed_image_size=fed)

    def batched() -> None:
        peers.lucent_images(hooked, layer, units, side, (steps,), fixed_image_size=fed)

    cut = create_feature_extractor(copy.deepcopy(model), {layer: "activation"}).eval()
    fourier = peers.horama().fourier

    def by_horama() -> None:
        def score(crops: Tensor) -> Tensor:
            return cut(crops)["activation"][:, 0].mean()

        fourier(score, total_steps=steps, image_size=side, model_input_size=fed, device=device)

    return {"lucent": (alone, 2, steps), "batched": (batched, len(units), steps), "horama": (by_horama, 1, steps)}


def table(records: list[Record]) -> str:
    """Milliseconds per image and step, and ratios; a table for every machine."""
    parts = []
    for record in records:
        rows = []
        for name, row in record["cases"].items():
            times = [_figure(row[program]) if program in row else "" for program in (*PEERS, "featviz", "trunk")]
            ratios = [f"{row[program] / row['featviz']:.1f}x" if program in row else "" for program in PEERS]
            rows.append([name, *times, *ratios, f"{row['featviz'] / row['trunk']:.2f}"])
        here = record["machine"]
        steps = next(iter(record["cases"].values()))["steps"]["featviz"]
        head = f"**{here['gpu'] or here['processor']}**, {record['batch']} images at once, {steps} steps\n\n"
        parts.append(head + markdown(HEAD, rows))
    return "\n\n".join(parts)


def plot(records: list[Record], path: Path) -> None:
    """Images times steps per second: a row for every machine, an axis for every network, a bar for every program."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for record in records for name in record["cases"]))
    figure = Figure(figsize=(9, 2.4 * len(records) + 0.4), layout="constrained")
    grid = figure.subplots(len(records), len(names), squeeze=False)
    for record, row_of_axes in zip(records, grid, strict=True):
        here, axes_of = record["machine"], dict(zip(names, row_of_axes, strict=True))
        for name in set(names) - set(record["cases"]):
            axes_of[name].set_axis_off()
        label = f"{here['gpu'] or here['processor']},\nbatch {record['batch']}"
        axes_of[next(name for name in names if name in record["cases"])].set_ylabel(label, fontsize=8)
        for name, row in record["cases"].items():
            for number, program in enumerate(LABELS):
                if program in row:
                    bars = axes_of[name].bar(
                        number, 1000 / row[program], 0.9, color=COLORS[number], label=LABELS[program]
                    )
                    axes_of[name].bar_label(bars, [_figure(1000 / row[program])], fontsize=7, padding=1)
            axes_of[name].set_title(name, fontsize=9)
            axes_of[name].margins(y=0.1)
            axes_of[name].set_xticks([])
            axes_of[name].spines[["top", "right"]].set_visible(False)
    figure.supylabel("images × steps per second", fontsize=9)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(LABELS), frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _figure(value: float) -> str:
    """Three digits, or whole numbers from a hundred on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
