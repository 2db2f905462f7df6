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

The record grows: what is in `--out` (with `--keep` alone: in the record that is kept) is measured again only where a
configuration has changed since. `--layers`, `--units`, `--skip` and `--networks` choose what one run adds.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.config import LEARNING_RATE, QUALITIES, RenderConfig
from measures.rendering import pictures
from measures.rendering.cases import gray
from measures.rendering.picture_quality import Scales, activation, high_frequencies, natural_scales, saturated
from measures.rendering.pictures import BEFORE, REFERENCE
from measures.rendering.real_networks import SIZES, RealNetwork, real_network
from measures.report import RESULTS, Record, markdown, provenance, write_record

NAME = "all-units"
HEAD = (
    "network", "norms", "units", "configuration", "lowest", "1 %", "median", "under .95", "gray", "high", "saturated", "steps",
    "time",
)  # fmt: skip
CONFIGURATIONS = {
    name: replace(RenderConfig(size=SIZES["bundled"]), **pictures.CONFIGURATIONS[name])
    for name in (REFERENCE, BEFORE, "standard")
}
FIGURES = ("units", "activation", "high", "saturated", "steps", "gray", "seconds")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="CIFAR-10")
    parser.add_argument("--device", default="cpu", help="where the pictures are made (default: %(default)s)")
    parser.add_argument("--layers", nargs="+", help="some norms (default: all)")
    parser.add_argument("--units", type=int, metavar="N", help="N of each norm (default: all)")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N (default: %(default)s)")
    parser.add_argument("--networks", nargs="+", choices=("A", "B'"), default=["A", "B'"])


def measure(args: argparse.Namespace) -> Record:
    """Norm by norm, the pictures that the record does not have; what is finished is in `args.out` at any time."""
    pair = real_network("bundled", args.data, None)
    assert pair.other is not None
    record = _begun(args.out or (RESULTS / f"{NAME}.json" if args.keep else None))
    record["sources"].append(provenance())
    networks = (pair, RealNetwork(pair.name, pair.other, pair.subject, pair.natural))
    wanted = [network for network in networks if network.subject.name in args.networks]
    norms = {n: m for n, m in pair.subject.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    last = args.skip + args.units if args.units else None
    for network, layer in tqdm([(network, layer) for network in wanted for layer in args.layers or norms]):
        of_network = record["networks"].setdefault(network.subject.name, {})
        for name, norm in norms.items():
            of_network.setdefault(name, {"width": norm.num_features})
        cells, width = of_network[layer], norms[layer].num_features
        missing = {
            name: [
                unit for unit in range(width)[args.skip : last] if unit not in cells.get(name, {"units": []})["units"]
            ]
            for name in CONFIGURATIONS
        }
        scales = natural_scales(network, [layer]) if any(missing.values()) else {}
        for name, units in missing.items():
            if units:
                column = cells.setdefault(name, {key: [] for key in FIGURES})
                for key, values in _figures(network, scales, layer, units, CONFIGURATIONS[name], args.device).items():
                    column[key] += values
        if args.out:
            write_record(args.out, provenance() | record)
    return record


def _begun(path: Path | None) -> Record:
    """The record at `path` without the configurations that have changed since, or an empty one."""
    configurations = {
        name: asdict(config) | {"lr": config.lr or LEARNING_RATE, "convergence": asdict(QUALITIES[config.quality])}
        for name, config in CONFIGURATIONS.items()
    }
    configurations = json.loads(json.dumps(configurations))  # as a record has them
    if path is None or not path.exists():
        return {"configurations": configurations, "sources": [], "networks": {}}
    record = json.loads(path.read_text())
    changed = [name for name, config in configurations.items() if record["configurations"].get(name) != config]
    if changed:
        print(
            f"{path}: {', '.join(changed)} is another configuration today: its figures are left out.", file=sys.stderr
        )
    for norms in record["networks"].values():
        for cells in norms.values():
            for name in changed:
                cells.pop(name, None)
    return {"configurations": configurations, "sources": record["sources"], "networks": record["networks"]}


def _figures(
    network: RealNetwork, scales: Scales, layer: str, units: list[int], config: RenderConfig, device: str
) -> dict[str, list[float]]:
    """Figure -> one value of every unit; seconds are shared equally."""
    began = time.perf_counter()
    made = featviz.render(network.subject, [f"{layer}:{unit}" for unit in units], config, device=device)
    seconds = time.perf_counter() - began
    images = made.images
    figures = {
        "activation": activation(network, scales, layer, units, images, "own"),
        "high": high_frequencies(images),
        "saturated": saturated(images),
        "steps": made.steps,
        "gray": torch.tensor([gray(image[None]) for image in images]),
        "seconds": torch.full((len(units),), seconds / len(units)),
    }
    return {"units": [*units]} | {
        key: [round(value, 4) for value in values.tolist()] for key, values in figures.items()
    }


def table(records: list[Record]) -> str:
    """For each network and stage, one line per configuration, of the units that all of them have."""
    (record,) = records
    rows = []
    for network, norms in record["networks"].items():
        for stage in dict.fromkeys(layer.partition(".")[0] for layer in norms):
            parts = [cells for layer, cells in norms.items() if layer.partition(".")[0] == stage]
            found = {name: _pooled(parts, name, list(record["configurations"])) for name in record["configurations"]}
            if not len(found[REFERENCE]["units"]):
                continue
            units = f"{len(found[REFERENCE]['units'])} of {sum(cells['width'] for cells in parts)}"
            for name, figures in found.items():
                rows.append([network, f"`{stage}`", units, name, *_row(figures, found[REFERENCE], found[BEFORE])])
    return markdown(HEAD, rows)


def _pooled(norms: list[Record], name: str, configurations: list[str]) -> dict[str, Tensor]:
    """Figure -> (unit,), of one configuration: of the units of some norms that all configurations have, in order."""
    pooled: dict[str, list[float]] = {key: [] for key in FIGURES}
    for cells in norms:
        measured = [set(cells[other]["units"]) if other in cells else set() for other in configurations]
        places = [cells[name]["units"].index(unit) for unit in sorted(set.intersection(*measured))]
        for key, values in pooled.items():
            values += [cells[name][key][place] for place in places]
    return {key: torch.tensor(values, dtype=torch.float64) for key, values in pooled.items()}


def _row(figures: dict[str, Tensor], reference: dict[str, Tensor], before: dict[str, Tensor]) -> list[str]:
    """Of one configuration, beside the plain ascent and the 48 steps of the same units."""
    over = figures["activation"] / reference["activation"]
    return [
        *(f"{value:.2f}" for value in (over.min(), over.quantile(0.01), over.median())),
        f"{100 * (over < 0.95).double().mean():.0f} %",
        f"{figures['gray'].sum():.0f}",
        f"{figures['high'].median():.3f}",
        f"{figures['saturated'].mean():.3f}",
        f"{figures['steps'].mean():.0f}",
        f"{figures['seconds'].sum() / before['seconds'].sum():.2g}",
    ]
