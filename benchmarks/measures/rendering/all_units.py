"""Every unit of the norms of the bundled A and B: what the default reaches, beside a plain ascent of 512 steps.

    python benchmarks/rendering.py all-units --data cifar/ --device cuda --keep

For each unit and configuration one picture; its activation without transforms is counted on its natural scale (0 its mean
over 2,000 test images, 1 the best of them), as a multiple of what the plain ascent of 512 steps of 0.05 reaches. That ascent
from another seed is the control: how far two ascents of one unit end from each other. `--layers` and `--units` make records of
their own.

    lowest, 1 %, median   of all units
    under .95             share of the units that reach less than 0.95 of the plain ascent
    gray                  pictures without contrast
    high, saturated       share of energy beyond half the Nyquist frequency (median), share of values near black or white
    steps                 on average
    seconds               of the clock per picture, set-up included
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from measures.rendering.cases import gray
from measures.rendering.picture_quality import activation, high_frequencies, natural_scales, saturated
from measures.rendering.pictures import PLAIN, REFERENCE
from measures.rendering.real_networks import RealNetwork, real_network
from measures.report import Record, markdown

NAME = "all-units"
RECORDS = ("all-units", "some-units", "first-units")
HEAD = (
    "network", "configuration", "units", "lowest", "1 %", "median", "under .95", "gray", "high", "saturated", "steps",
    "seconds",
)  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, object]] = {
    REFERENCE: PLAIN | {"steps": 512, "lr": 0.05},
    "plain, 48 steps of 0.2 (featviz 0.2.0)": PLAIN | {"steps": 48, "lr": 0.2},
    "draft": {"quality": "draft"},
    "standard": {"quality": "standard"},
    "paper": {"quality": "paper"},
    "plain, 512 steps of 0.05, another seed": PLAIN | {"steps": 512, "lr": 0.05, "seed": 1},
    "standard, no saturation decay": {"quality": "standard", "saturation_decay": 0.0},
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="CIFAR-10")
    parser.add_argument("--device", default="cpu", help="where the pictures are made (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="CONFIGURATION", help="some of them, beside the reference")
    parser.add_argument("--layers", nargs="+", help="some norms (default: all)")
    parser.add_argument("--units", type=int, metavar="N", help="the first N of each norm (default: all)")
    parser.add_argument("--networks", nargs="+", choices=("A", "B'"), default=["A", "B'"])


def measure(args: argparse.Namespace) -> Record:
    pair = real_network("bundled", args.data, None)
    assert pair.other is not None
    layers = args.layers or [
        name for name, module in pair.subject.model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)
    ]
    chosen_units = [layer if args.units is None else f"{layer}:0-{args.units - 1}" for layer in layers]
    chosen = {n: c for n, c in CONFIGURATIONS.items() if not args.only or n in (REFERENCE, *args.only)}
    rows: dict[str, dict[str, dict]] = {}
    for network in (pair, RealNetwork(pair.name, pair.other, pair.subject, pair.natural)):
        if network.subject.name not in args.networks:
            continue
        scales = natural_scales(network, layers)
        references: list[Tensor] = []
        rows[network.subject.name or ""] = cells = {}
        for name, changes in tqdm(chosen.items()):
            config = replace(RenderConfig(size=network.size), **changes)
            began = time.perf_counter()
            made = [featviz.render(network.subject, units, config, device=args.device) for units in chosen_units]
            seconds = time.perf_counter() - began
            reached = [
                activation(network, scales, layer, list(range(len(part))), part.images, "own")
                for layer, part in zip(layers, made, strict=True)
            ]
            references = references or reached
            images = torch.cat([part.images for part in made])
            over = torch.cat(reached) / torch.cat(references)
            cells[name] = {
                "units": len(images),
                "lowest": float(over.min()),
                "percent": float(over.quantile(0.01)),
                "median": float(over.median()),
                "under": float((over < 0.95).float().mean()),
                "gray": gray(images),
                "high": float(high_frequencies(images).median()),
                "saturated": float(saturated(images).mean()),
                "steps": float(torch.cat([part.steps for part in made]).float().mean()),
                "seconds": seconds / len(images),
                "layers": {
                    layer: [float((x / y).min()), float((x / y).median())]
                    for layer, x, y in zip(layers, reached, references, strict=True)
                },
            }
    record = "first-units" if args.units else "some-units" if args.layers else NAME
    return {"record": record, "device": args.device, "layers": args.layers, "first": args.units, "rows": rows}


def table(records: list[Record]) -> str:
    """One table for all norms, one for some of them."""
    parts = []
    for record in records:
        rows = []
        for network, cells in record["rows"].items():
            for name, row in cells.items():
                figures = [f"{row[key]:.2f}" for key in ("lowest", "percent", "median")]
                figures += [f"{100 * row['under']:.0f} %", row["gray"], f"{row['high']:.3f}", f"{row['saturated']:.3f}"]
                rows.append([network, name, row["units"], *figures, f"{row['steps']:.0f}", f"{row['seconds']:.2g}"])
        head = ", ".join(f"`{layer}`" for layer in record.get("layers") or []) or "all norms"
        head += f", the first {record['first']} units of each" if record.get("first") else ""
        parts.append(f"**{head}**\n\n{markdown(HEAD, rows)}")
    return "\n\n".join(parts)
