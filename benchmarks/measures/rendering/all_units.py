"""Every unit of the norms of the bundled A and B': what the default reaches, beside a plain ascent of 512 steps.

    python benchmarks/rendering.py all-units --data cifar/ --device cuda --keep

For each unit and configuration one picture; its activation without transforms is counted on its natural scale (0 its mean
over 2,000 test images, 1 the best of them), as a multiple of what the plain ascent of 512 steps of 0.05 reaches.

    units                 that are measured, of all units of the norms of `bn1`, `layer1`, ...
    lowest, 1 %, median   of these units
    under .95             share of the units that reach less than 0.95 of the plain ascent
    gray                  pictures without contrast
    high, saturated       share of energy beyond half the Nyquist frequency (median), share of values near black or white
    steps                 on average
    time                  of the clock, set-up included, over that of the 48 steps

The record grows: what is in `--out` (with `--keep` alone: in the record that is kept) is not measured again. `--layers`,
`--units`, `--skip` and `--networks` choose what one run adds.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.config import QUALITIES, RenderConfig
from measures.rendering.cases import gray
from measures.rendering.picture_quality import activation, high_frequencies, natural_scales, saturated
from measures.rendering.pictures import PLAIN, REFERENCE
from measures.rendering.real_networks import SIZES, RealNetwork, real_network
from measures.report import RESULTS, Record, markdown, provenance, write_record

NAME = "all-units"
BEFORE = "plain, 48 steps of 0.2 (featviz 0.2.0)"
HEAD = (
    "network", "norms", "units", "configuration", "lowest", "1 %", "median", "under .95", "gray", "high", "saturated", "steps",
    "time",
)  # fmt: skip
CONFIGURATIONS = {
    name: replace(RenderConfig(size=SIZES["bundled"]), **changes)
    for name, changes in {
        REFERENCE: PLAIN | {"steps": 512, "lr": 0.05},
        BEFORE: PLAIN | {"steps": 48, "lr": 0.2},
        "standard": {"quality": "standard"},
    }.items()
}
FIGURES = ("activation", "high", "saturated", "steps", "gray", "seconds")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="CIFAR-10")
    parser.add_argument("--device", default="cpu", help="where the pictures are made (default: %(default)s)")
    parser.add_argument("--layers", nargs="+", help="some norms (default: all)")
    parser.add_argument("--units", type=int, metavar="N", help="N of each norm (default: all)")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N (default: %(default)s)")
    parser.add_argument("--networks", nargs="+", choices=("A", "B'"), default=["A", "B'"])


def measure(args: argparse.Namespace) -> Record:
    """Norm by norm, the units that the record does not have; what is finished is in `args.out` at any time.

    Raises:
        SystemExit: the record that the run would go on from is of other configurations.
    """
    pair = real_network("bundled", args.data, None)
    assert pair.other is not None
    record = _begun(args.out or (RESULTS / f"{NAME}.json" if args.keep else None))
    record["sources"].append(provenance())
    networks = (pair, RealNetwork(pair.name, pair.other, pair.subject, pair.natural))
    wanted = [network for network in networks if network.subject.name in args.networks]
    norms = {n: m for n, m in pair.subject.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    last = args.skip + args.units if args.units else None
    for network, layer in tqdm([(network, layer) for network in wanted for layer in args.layers or norms]):
        width = norms[layer].num_features
        cells = record["networks"].setdefault(network.subject.name, {}).setdefault(layer, {"width": width, "units": []})
        units = [unit for unit in range(width)[args.skip : last] if unit not in cells["units"]]
        if units:
            _extend(cells, units, _figures(network, layer, units, args.device))
        if args.out:
            write_record(args.out, provenance() | record)
    return record


def _begun(path: Path | None) -> Record:
    """The record at `path`, or an empty one.

    Raises:
        SystemExit: it is of other configurations.
    """
    configurations = {
        name: asdict(config) | {"convergence": asdict(QUALITIES[config.quality])}
        for name, config in CONFIGURATIONS.items()
    }
    configurations = json.loads(json.dumps(configurations))  # as a record has them
    if path is None or not path.exists():
        return {"configurations": configurations, "sources": [], "networks": {}}
    record = json.loads(path.read_text())
    if record["configurations"] != configurations:
        raise SystemExit(f"{path} is of other configurations: give --out another file.")
    return record


def _figures(network: RealNetwork, layer: str, units: list[int], device: str) -> dict[str, dict[str, list[float]]]:
    """Configuration -> figure -> one value of every unit; seconds are shared equally."""
    scales = natural_scales(network, [layer])
    found: dict[str, dict[str, list[float]]] = {}
    reference: Tensor | None = None
    for name, config in CONFIGURATIONS.items():
        began = time.perf_counter()
        made = featviz.render(network.subject, [f"{layer}:{unit}" for unit in units], config, device=device)
        seconds = time.perf_counter() - began
        images = made.images
        reached = activation(network, scales, layer, units, images, "own")
        reference = reached if reference is None else reference
        figures = {
            "activation": reached / reference,
            "high": high_frequencies(images),
            "saturated": saturated(images),
            "steps": made.steps,
            "gray": torch.tensor([gray(image[None]) for image in images]),
            "seconds": torch.full((len(units),), seconds / len(units)),
        }
        found[name] = {key: [round(value, 4) for value in values.tolist()] for key, values in figures.items()}
    return found


def _extend(cells: Record, units: list[int], figures: dict[str, dict[str, list[float]]]) -> None:
    """Add units to those of a norm."""
    cells["units"] += units
    for name, columns in figures.items():
        for key, values in columns.items():
            cells.setdefault(name, {}).setdefault(key, []).extend(values)


def table(records: list[Record]) -> str:
    """For each network and stage, one line per configuration."""
    (record,) = records
    rows = []
    for network, norms in record["networks"].items():
        for stage in dict.fromkeys(layer.partition(".")[0] for layer in norms):
            parts = [cells for layer, cells in norms.items() if layer.partition(".")[0] == stage]
            units = f"{sum(len(cells['units']) for cells in parts)} of {sum(cells['width'] for cells in parts)}"
            before = _pooled(parts, BEFORE)["seconds"].sum()
            for name in record["configurations"]:
                rows.append([network, f"`{stage}`", units, name, *_row(_pooled(parts, name), before)])
    return markdown(HEAD, rows)


def _pooled(norms: list[Record], configuration: str) -> dict[str, Tensor]:
    """Figure -> (unit,) of all units of some norms."""
    return {
        key: torch.tensor([value for cells in norms for value in cells[configuration][key]], dtype=torch.float64)
        for key in FIGURES
    }


def _row(figures: dict[str, Tensor], seconds: Tensor) -> list[str]:
    """Of one configuration; seconds: in all, of the 48 steps."""
    over = figures["activation"]
    return [
        *(f"{value:.2f}" for value in (over.min(), over.quantile(0.01), over.median())),
        f"{100 * (over < 0.95).double().mean():.0f} %",
        f"{figures['gray'].sum():.0f}",
        f"{figures['high'].median():.3f}",
        f"{figures['saturated'].mean():.3f}",
        f"{figures['steps'].mean():.0f}",
        f"{figures['seconds'].sum() / seconds:.2g}",
    ]
