"""Quality of pictures against time, for 22 configurations of the ascent, on real networks.

    uv run --isolated --group peers python benchmarks/rendering.py pictures lite0 --real real/ --keep

For the first units of an early, a middle and a late layer, every configuration makes one picture of each unit. Activations are
counted on the unit's natural scale (0 its mean over natural images, 1 its best natural image); the columns are means over units
and layers:

    activation   of the picture without transforms, as a multiple of what the plain ascent reaches in 512 steps of 0.05
    lowest       the same of the worst unit
    unseen       as activation, under transforms that no ascent here has seen: mirrored, blurred, less contrast, noise
    transfer     what the picture does to the matched unit of an independent training, on that unit's natural scale
    high         share of energy beyond half the Nyquist frequency
    saturated    share of values within 0.02 of black or white
    chroma       over that of natural images
    steps        on average
    seconds      of the processor per picture, set-up included; of the clock where `--device` is a GPU

`plain` is Adam from featviz 0.2.0: no average, no decay, spectrum 1/f, warps twice as large that stay so. `--only` is not
kept; `--sheets` writes contact sheets.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import featviz
from featviz.config import QUALITIES, RenderConfig
from measures.rendering.picture_quality import chroma, natural_scales, picture_figures
from measures.rendering.real_networks import SIZES, add_networks, real_network
from measures.report import Record, markdown, provenance, write_record

NAME = "pictures"
RECORDS = tuple(f"pictures-{name}" for name in SIZES)
PLOT = "pictures.png"
REFERENCE = "plain, 512 steps of 0.05"
BEFORE = "plain, 48 steps of 0.2 (featviz 0.2.0)"
HEAD = (
    "configuration", "steps", "seconds", "activation", "lowest", "unseen", "transfer", "high", "saturated", "chroma",
)  # fmt: skip

LABELS = ("activation, plain ascent of 512 steps = 1", "energy beyond half the Nyquist frequency")
STYLES = {
    "named": {"color": "#c0392b", "marker": "o", "zorder": 3},
    "plain": {"color": "#2c3e50", "marker": "s"},
    "others": {"color": "#a6b1b7", "marker": "o"},
}
SHORT = {
    REFERENCE: "plain, 512",
    BEFORE: "0.2.0, 48 steps",
}
BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
OFFSETS = {  # of labels, in points
    "standard": (-34, 5),
    "draft": (-24, 5),
    "paper": (-12, -11),
    BEFORE: (5, -10),
}
WIDER = {"jitter": 1 / 16, "scale": 0.1, "rotation": 10.0}  # warps of featviz 0.2.0
PLAIN = {
    "decay": 1.0,
    "ema": 0.0,
    "weight_decay": 0.0,
    "saturation_decay": 0.0,
    "final_range": 1.0,
    "schedule": "constant",
} | WIDER
CONFIGURATIONS: dict[str, dict[str, object]] = {
    REFERENCE: PLAIN | {"steps": 512, "lr": 0.05},
    BEFORE: PLAIN | {"steps": 48, "lr": 0.2},
    "draft": {"quality": "draft"},
    "standard": {"quality": "standard"},
    "paper": {"quality": "paper"},
} | {
    name: {"steps": 128} | changes
    for name, changes in {
        "128 steps": {},
        "32 steps": {"steps": 32},
        "64 steps": {"steps": 64},
        "lr 0.2": {"lr": 0.2},
        "constant step size of 0.15": {"schedule": "constant", "lr": 0.15},
        "beta1 0.9": {"beta1": 0.9},
        "no average": {"ema": 0.0},
        "no weight decay": {"weight_decay": 0.0},
        "no saturation decay": {"saturation_decay": 0.0},
        "spectrum 1/f": {"decay": 1.0},
        "spectrum 1/f^1.5": {"decay": 1.5},
        "half the warps": {"jitter": 1 / 64, "scale": 0.025, "rotation": 2.5},
        "twice the warps": WIDER,
        "warps stay wide": {"final_range": 1.0},
        "warps narrow to nothing": {"final_range": 0.0},
        "robustness lucid": {"robustness": "lucid"},
        "robustness strong": {"robustness": "strong"},
    }.items()
}


def add(parser: argparse.ArgumentParser) -> None:
    add_networks(parser)
    parser.add_argument("--units", type=int, default=32, help="the first of every layer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where pictures are made and judged (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="CONFIGURATION", help="some of them, beside the reference")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER", help="write a contact sheet of every configuration")


def measure(args: argparse.Namespace) -> Record:
    """All configurations; what is finished is in `args.out` at any time.

    Raises:
        SystemExit: some configurations are to be kept as if they were all.
    """
    if args.only and args.keep:
        raise SystemExit("the record that is kept is of all configurations: give --out in place of --keep.")
    torch.set_num_threads(args.threads)
    network = real_network(args.network, args.data, args.real)
    for subject in filter(None, (network.subject, network.other)):
        subject.model.to(args.device)
    scales = natural_scales(network)
    chosen = {n: c for n, c in CONFIGURATIONS.items() if not args.only or n in (REFERENCE, *args.only)}
    units = list(range(args.units))
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    rows: dict[str, dict] = {}
    record = {
        "record": f"{NAME}-{network.name}",
        "network": network.name,
        "device": args.device,
        "units": len(units),
        "natural_chroma": _mean(chroma(network.natural)),
        "rows": rows,
    }
    references: dict[str, Tensor] = {}
    for name, changes in tqdm(chosen.items()):
        config = replace(RenderConfig(size=network.size), **changes)
        cells, shown = {}, []
        for layer in network.layers:
            began = clock()
            made = featviz.render(network.subject, [f"{layer}:{unit}" for unit in units], config, device=args.device)
            seconds = (clock() - began) / len(units)
            found = picture_figures(network, scales, layer, units, made.images)
            cells[layer] = _summary(found, references.setdefault(layer, found["own"])) | {
                "seconds": seconds,
                "steps": made.steps.float().mean().item(),
            }
            shown.append(made.images[:8])
        rows[name] = cells
        if args.sheets:
            _write_sheet(args.sheets / f"{network.name} {name.replace('/', ' over ')}.png", shown)
        if args.out:
            write_record(args.out, provenance() | record)
    return record


def _summary(found: dict[str, Tensor], reference: Tensor) -> dict[str, float | None]:
    """The figures of one layer's pictures; reference: (unit,) what the reference's pictures reach."""
    over = found["own"] / reference
    return {
        "activation": float(over.nanmean()),
        "lowest": float(over.min()),
        "natural": float(found["own"].median()),
        "unseen": _mean(found["unseen"] / reference),
        "transfer": float(found["other"].median()) if "other" in found else None,
        "high": float(found["high"].median()),
        "saturated": _mean(found["saturated"]),
        "chroma": _mean(found["chroma"]),
    }


def _mean(values: Tensor) -> float:
    return float(values.mean())


def _write_sheet(path: Path, layers: list[Tensor]) -> None:
    """A row of pictures for each layer."""
    rows = [torch.cat(list(images), 2) for images in layers]
    values = (torch.cat(rows, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def _row(record: Record, name: str) -> dict[str, float | None]:
    """Means over layers, the lowest of all."""
    cells = record["rows"][name].values()
    found: dict[str, float | None] = {}
    for key in next(iter(cells)):
        values = [cell[key] for cell in cells if cell[key] is not None]
        found[key] = None if not values else min(values) if key == "lowest" else sum(values) / len(values)
    found["chroma"] = (found["chroma"] or 0) / record["natural_chroma"]
    return found


def table(records: list[Record]) -> str:
    """One table per network, the configurations in order."""
    parts = []
    for record in records:
        rows = []
        for name in record["rows"]:
            row = _row(record, name)
            transfer = "" if row["transfer"] is None else f"{row['transfer']:.2f}"
            cells = [f"{row['steps']:.0f}", f"{row['seconds']:.2g}", f"{row['activation']:.2f}", f"{row['lowest']:.2f}"]
            cells += [f"{row['unseen']:.2f}", transfer, f"{row['high']:.3f}", f"{row['saturated']:.3f}"]
            rows.append([name, *cells, f"{row['chroma']:.2f}"])
        size = f"{SIZES[record['network']]} px, {record['units']} units of each layer"
        parts.append(f"**{record['network']}**, {size}, commit {record['commit']}\n\n{markdown(HEAD, rows)}")
    return "\n\n".join(parts)


def plot(records: list[Record], path: Path) -> None:
    """Activation and high frequencies against seconds, a column per network; the named qualities are marked.

    Of a GPU against steps: there the seconds are mostly set-up.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(records), 6.4), layout="constrained")
    axes = figure.subplots(2, len(records), squeeze=False, sharex="col")
    for column, record in enumerate(records):
        cost = "seconds" if record["device"] == "cpu" else "steps"
        for ax, key, label in zip(axes[:, column], ("activation", "high"), LABELS, strict=True):
            for name in record["rows"]:
                row = _row(record, name)
                kind = "plain" if name.startswith("plain") else "named" if name in QUALITIES else "others"
                ax.plot([row[cost]], [row[key]], linestyle="", markersize=5, **STYLES[kind])
                if kind != "others":
                    at, shift = (row[cost], row[key]), OFFSETS.get(name, (5, 4))
                    color = STYLES[kind]["color"]
                    ax.annotate(
                        *(SHORT.get(name, name), at, shift),
                        textcoords="offset points",
                        fontsize=7,
                        color=color,
                        bbox=BOX,
                    )
            ax.set_xscale("log", base=2)
            ax.margins(x=0.2, y=0.1)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_ylabel(label, fontsize=8)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0, column].set_title(record["network"], fontsize=9)
        axes[1, column].set_xlabel("steps" if cost == "steps" else "seconds per picture, one thread", fontsize=8)
    figure.savefig(path, dpi=140)
