"""Every unit of the norms of the bundled A and B: what the default reaches, beside a plain ascent of 512 steps.

    python benchmarks/rendering.py all-units --data cifar/ --device cuda --keep

For each unit and configuration one picture; its activation without transforms is counted on its natural scale (0 its mean
over 2,000 test images, 1 the best of them), as a multiple of what the plain ascent of 512 steps of 0.05 reaches. That ascent
from another seed is the control: how far two ascents of one unit end from each other. `--layers`, `--units` and `--skip` make
records of their own. What is finished is in `--out`, from which the same command goes on.

    lowest, 1 %, median   of all units
    under .95             share of the units that reach less than 0.95 of the plain ascent
    gray                  pictures without contrast
    high, saturated       share of energy beyond half the Nyquist frequency (median), share of values near black or white
    steps                 on average
    seconds               of the clock per picture, set-up included
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from measures.rendering.cases import gray
from measures.rendering.picture_quality import activation, high_frequencies, natural_scales, saturated
from measures.rendering.pictures import PLAIN, REFERENCE
from measures.rendering.real_networks import RealNetwork, real_network
from measures.report import Record, markdown, provenance, write_record

NAME = "all-units"
RECORDS = ("all-units", "some-units", "first-units", "more-units")
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
    parser.add_argument("--units", type=int, metavar="N", help="N of each norm (default: all)")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N; needs --units")
    parser.add_argument("--networks", nargs="+", choices=("A", "B'"), default=["A", "B'"])


def measure(args: argparse.Namespace) -> Record:
    """Layer by layer; what is finished is in `args.out`, from which the same command goes on after an interruption.

    Raises:
        SystemExit: `--skip` without `--units`; what is in `args.out` is of another command or commit.
    """
    if args.skip and not args.units:
        raise SystemExit("--skip leaves out units before those of --units: give --units N, too.")
    pair = real_network("bundled", args.data, None)
    assert pair.other is not None
    layers = args.layers or [
        name for name, module in pair.subject.model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)
    ]
    chosen = {n: c for n, c in CONFIGURATIONS.items() if not args.only or n in (REFERENCE, *args.only)}
    units = range(args.skip, args.skip + args.units) if args.units else None
    rows: dict[str, dict[str, dict]] = {}
    record = {
        "record": _record_name(args),
        "device": args.device,
        "layers": args.layers,
        "first": args.units,
        "skipped": args.skip,
        "rows": rows,
    }
    found = _finished(args.out, record)
    networks = (pair, RealNetwork(pair.name, pair.other, pair.subject, pair.natural))
    wanted = [network for network in networks if network.subject.name in args.networks]
    for network, layer in tqdm([(network, layer) for network in wanted for layer in layers]):
        of_network = found.setdefault(network.subject.name or "", {})
        if layer not in of_network:
            of_network[layer] = _layer(network, layer, units, chosen, args.device)
        rows |= {
            name: {configuration: _summary(of_layers, configuration) for configuration in chosen}
            for name, of_layers in found.items()
        }
        if args.out:
            write_record(args.out, provenance() | record)
    return record


def _record_name(args: argparse.Namespace) -> str:
    if args.units:
        return "more-units" if args.skip else "first-units"
    return "some-units" if args.layers else NAME


def _finished(path: Path | None, record: Record) -> dict[str, dict[str, dict[str, dict]]]:
    """Network -> layer -> configuration -> figures, of the record that an interrupted run has left.

    Raises:
        SystemExit: it is of another command or commit.
    """
    if path is None or not path.exists():
        return {}
    old = json.loads(path.read_text())
    same = provenance() | record
    if any(old[key] != same[key] for key in ("commit", "command", "device", "layers", "first")):
        raise SystemExit(f"{path} is of another command or commit: give another --out.")
    return {
        network: {
            layer: {name: cells["layers"][layer] for name, cells in configurations.items()}
            for layer in configurations[REFERENCE]["layers"]
        }
        for network, configurations in old["rows"].items()
    }


def _layer(
    network: RealNetwork, layer: str, units: range | None, configurations: dict[str, dict[str, object]], device: str
) -> dict[str, dict]:
    """Configuration -> figures, one of every unit, and the seconds per picture."""
    scales = natural_scales(network, [layer])
    cells: dict[str, dict] = {}
    reference = torch.ones(())
    for name, changes in configurations.items():
        config = replace(RenderConfig(size=network.size), **changes)
        began = time.perf_counter()
        wanted = layer if units is None else [f"{layer}:{unit}" for unit in units]
        made = featviz.render(network.subject, wanted, config, device=device)
        seconds = time.perf_counter() - began
        images = made.images
        reached = activation(network, scales, layer, list(units or range(len(images))), images, "own")
        reference = reached if name == REFERENCE else reference
        figures = {
            "activation": reached / reference,
            "high": high_frequencies(images),
            "saturated": saturated(images),
            "steps": made.steps,
        }
        cells[name] = {key: [round(value, 4) for value in values.tolist()] for key, values in figures.items()}
        cells[name] |= {"gray": gray(images), "seconds": seconds / len(images)}
    return cells


def _summary(layers: dict[str, dict[str, dict]], configuration: str) -> dict[str, object]:
    """Of all units of some layers; layers: layer -> configuration -> figures."""
    cells = {layer: figures[configuration] for layer, figures in layers.items()}
    over, high, of_black, steps = (
        torch.tensor([value for cell in cells.values() for value in cell[key]], dtype=torch.float64)
        for key in ("activation", "high", "saturated", "steps")
    )
    return {
        "units": len(over),
        "lowest": float(over.min()),
        "percent": float(over.quantile(0.01)),
        "median": float(over.median()),
        "under": float((over < 0.95).double().mean()),
        "gray": sum(cell["gray"] for cell in cells.values()),
        "high": float(high.median()),
        "saturated": float(of_black.mean()),
        "steps": float(steps.mean()),
        "seconds": sum(cell["seconds"] * len(cell["steps"]) for cell in cells.values()) / len(over),
        "layers": cells,
    }


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
        if record.get("first"):
            skipped = record.get("skipped", 0)
            head += f", units {skipped} to {skipped + record['first'] - 1} of each"
        parts.append(f"**{head}**\n\n{markdown(HEAD, rows)}")
    return "\n\n".join(parts)
