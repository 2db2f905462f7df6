"""Measures one pair: a `Pair` and a folder -> the record that all answers are made of.

The folder keeps alignments, each step's figures and an atlas of the units that are rendered, so that a study that was stopped
goes on where it was. Steps:

    accuracy   of the parents and of every merge, for which B is matched by every method
    fates      of all units: repaired (with controls), unrepaired, and matched by weights
    nearest    for every unit of A and of B': the most similar unit of every merge, of the other parent, and of controls
    kinds      sparsity and class selectivity of A's units
    pictures   of some units of a few layers, an atlas with its evidence and its page
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pairs import Pair
from torch import nn

import featviz
from featviz.atlases.store import AtlasStore
from featviz.evidence.fates.fates import LayerFates
from featviz.weights.checks import digest

log = logging.getLogger("study")
PATH = (0.25, 0.75)  # weights of B, beside 0, 1/2 and 1
QUALITY = "draft"  # of the pictures
FATE_COLUMNS = {  # by what is merged
    "": ("agreement", "fidelity", "correlation A", "correlation B'", "verdict", "score", "unaligned A", "random A"),
    "unrepaired ": ("fidelity", "variance"),
    "weights ": ("agreement", "fidelity", "score"),
}


@dataclass(frozen=True)
class Study:
    """One pair in its folder.

    rendered: units of each of `layers_shown` layers that are rendered; 0: none.
    """

    pair: Pair
    folder: Path
    rendered: int = 8
    layers_shown: int = 6

    def record(self) -> dict[str, Any]:
        """Everything that was measured, ready for JSON; what is missing is measured first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_settings()
        steps = {
            "accuracy": self._accuracy, "fates": self._fates, "nearest": self._nearest, "kinds": self._kinds,
            "pictures": self._pictures,
        }  # fmt: skip
        done = {name: self._step(name, measure) for name, measure in steps.items()}
        layers: dict[str, dict[str, Any]] = {}
        for name in ("fates", "nearest", "kinds"):
            for layer, columns in done[name]["layers"].items():
                layers.setdefault(layer, {}).update(columns)
        seconds = {name: found["seconds"] for name, found in done.items()}
        return {
            "pair": self.pair.name,
            "title": self.pair.title,
            "method": self.main,
            "images": sum(len(x) for x, _ in self.pair.measured),
            "calibration": sum(len(x) for x, _ in self.pair.calibration),
            "accuracy": done["accuracy"]["accuracy"],
            "layers": layers,
            "pictures": done["pictures"]["units"],
            "seconds": seconds,
        }

    @property
    def main(self) -> str:
        """The method whose merge is studied most."""
        return self.pair.methods[0]

    @cached_property
    def alignments(self) -> dict[str, featviz.Alignment]:
        """Method -> alignment, read where it was made before."""
        found: dict[str, featviz.Alignment] = {}
        for method in self.pair.methods:
            path = self.folder / f"alignment-{method}.safetensors"
            if not path.exists():
                log.info("%s: matching by %s.", self.pair.name, method)
                example = self.pair.calibration[0][0][:1]
                made = featviz.align(self.pair.a, self.pair.b, example, method=method, data=self.pair.calibration)
                made.save(path)
            found[method] = featviz.load_alignment(path)
        return found

    @cached_property
    def merges(self) -> dict[str, nn.Module]:
        """Name -> merged network: every method's, the main one's unrepaired and along the path, and the unaligned average."""
        log.info("%s: merging.", self.pair.name)
        main = self.alignments[self.main]
        made = {method: self._merge(alignment) for method, alignment in self.alignments.items()}
        made["unrepaired"] = self._merge(main, repair="none")
        made |= {f"path {weight}": self._merge(main, weight=weight) for weight in PATH}
        if self.main != "identity":
            made["unaligned"] = self._merge(None)
        return made

    @cached_property
    def b_permuted(self) -> featviz.Subject:
        """B in A's basis, by the main method."""
        main = self.alignments[self.main]
        assert isinstance(main, featviz.PermutationAlignment)
        return featviz.Subject(main.permute(self.pair.b.model), "B'", self.pair.b.mean, self.pair.b.std)

    def _merge(self, alignment: featviz.Alignment | None, weight: float = 0.5, repair: str = "auto") -> nn.Module:
        return featviz.merge(self.pair.a, self.pair.b, alignment, weight, repair, self.pair.calibration)

    def _check_settings(self) -> None:
        settings = {
            "networks": [digest(subject.model) for subject in (self.pair.a, self.pair.b)],
            "images": [sum(len(x) for x, _ in part) for part in (self.pair.calibration, self.pair.measured)],
            "rendered": [self.rendered, self.layers_shown, QUALITY],
        }
        path = self.folder / "settings.json"
        if path.exists() and json.loads(path.read_text()) != settings:
            raise SystemExit(f"{self.folder} holds a study with other networks or settings: give another --out.")
        path.write_text(json.dumps(settings) + "\n")

    def _step(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        if not path.exists():
            log.info("%s: %s.", self.pair.name, name)
            began = time.perf_counter()
            found = measure() | {"seconds": round(time.perf_counter() - began, 1)}
            path.with_suffix(".part").write_text(json.dumps(found) + "\n")
            path.with_suffix(".part").rename(path)
        return json.loads(path.read_text())

    def _accuracy(self) -> dict[str, Any]:
        networks = {"A": self.pair.a, "B": self.pair.b, **self.merges}
        return {"accuracy": {name: featviz.evaluate(net, self.pair.accuracy)[1] for name, net in networks.items()}}

    def _fates(self) -> dict[str, Any]:
        wanted = {"": self.main, "unrepaired ": "unrepaired"}
        if "weights" in self.alignments and self.main != "weights":
            wanted["weights "] = "weights"
        layers: dict[str, dict[str, Any]] = {}
        for prefix, name in wanted.items():
            fates = featviz.fate(
                self.pair.a, self.pair.b, self.alignments.get(name, self.alignments[self.main]), self.merges[name],
                self.pair.layers, data=self.pair.measured, controls=not prefix and self.main != "identity",
            )  # fmt: skip
            for found in fates:
                layers.setdefault(found.layer, {}).update(_fate_columns(found, prefix))
        for layer, sites in _sites(self.alignments[self.main], list(layers)).items():
            layers[layer]["sites"] = sites
        return {"layers": layers}

    def _nearest(self) -> dict[str, Any]:
        layers: dict[str, dict[str, Any]] = {}
        for name, parent, other in (("A", self.pair.a, self.b_permuted), ("B'", self.b_permuted, self.pair.a)):
            others = {"other parent": other} | {
                merge: net for merge, net in self.merges.items() if merge != "unrepaired"
            }
            found = featviz.nearest_units(parent, others, self.pair.layers, data=self.pair.measured)
            for merge, by_layer in found.items():
                for layer, units in by_layer.items():
                    columns = layers.setdefault(layer, {})
                    if merge.startswith("path"):
                        columns[f"{merge} {name}"] = _short(units.own)
                    else:
                        columns[f"nearest {name} in {merge}"] = _short(units.correlation)
        return {"layers": layers}

    def _kinds(self) -> dict[str, Any]:
        found = featviz.unit_statistics(self.pair.a, self.pair.layers, data=self.pair.measured)
        merged = featviz.unit_statistics(self.merges[self.main], self.pair.layers, data=self.pair.measured)
        return {
            "layers": {
                layer: {
                    "mean": _short(units.mean), "deviation": _short(units.deviation), "positive": _short(units.positive),
                    "selectivity": _short(units.selectivity), "merged mean": _short(merged[layer].mean),
                }
                for layer, units in found.items()
            }
        }  # fmt: skip

    def _pictures(self) -> dict[str, Any]:
        if not self.rendered:
            return {"units": []}
        fates = json.loads((self.folder / "fates.json").read_text())["layers"]
        store = self.atlas(spread(list(fates), self.layers_shown))
        units = []
        for item in store.items():
            units += [_picture(item.layer, record) for record in store.read(item).records]
        return {"units": units}

    def atlas(self, layers: list[str]) -> AtlasStore:
        """The first units of these layers, rendered and measured."""
        store = featviz.atlas(
            self.pair.a, self.pair.b, self.folder / "atlas", [f"{layer}:0-{self.rendered - 1}" for layer in layers],
            alignment=self.alignments[self.main], merged=self.merges[self.main], data=self.pair.measured, exemplars=4,
            config=featviz.RenderConfig(size=max(64, self.pair.size), quality=QUALITY),
        )  # fmt: skip
        featviz.page(self.folder / "atlas")
        return store


def _sites(alignment: featviz.Alignment, layers: list[str]) -> dict[str, int]:
    """Layer -> how many of the layers carry units of its groups: more than 1 in a residual stream."""
    groups = {layer: set(alignment.groups.layers[layer].group.tolist()) for layer in layers}
    return {layer: sum(bool(groups[layer] & groups[other]) for other in layers) for layer in layers}


def spread(values: list[str], count: int) -> list[str]:
    """`count` of the values, evenly from the first to the last."""
    chosen = np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))
    return [values[number] for number in chosen]


def _fate_columns(found: LayerFates, prefix: str) -> dict[str, Any]:
    rows = found.rows()
    columns = {prefix + name: _short([row[name] for row in rows]) for name in FATE_COLUMNS[prefix]}
    if prefix:
        return columns
    halves = found.halves  # two disjoint halves of the images, so that no figure shares its noise with another
    return columns | {
        "control": round(found.control, 4),
        "own mean": [int(row["nearest mean"] == row["unit"]) for row in rows],
        "agreement, first half": _short(halves.agreement[0]),
        "fidelity, second half": _short(halves.fidelity[1]),
        "smallest correlation, second half": _short(halves.correlation[:, 1].min(0)),
    }


def _picture(layer: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a unit's pictures do. cross: (image of, seen by) activations in A, B' and merged."""
    return {"layer": layer, "unit": record["unit"], "cross": record["cross"], "dead": record["dead"]}


def _short(values: Any) -> list[Any]:
    """Four digits; None for what is no number."""
    return [
        value if isinstance(value, str) else None if value is None or not np.isfinite(value) else round(float(value), 4)
        for value in (values.tolist() if isinstance(values, np.ndarray) else values)
    ]
