"""The results of `featviz.fate`: figures, controls and verdicts of every unit, by layer.

`Fates` shows itself in a notebook, prints as a table, and goes to CSV, JSON and a data frame.
"""

import csv
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from featviz.config import FateConfig
from featviz.errors import OutputError, UnitError, near_names
from featviz.evidence.exemplars.exemplars import Exemplars
from featviz.evidence.fates.agreement import LayerFigures
from featviz.evidence.fates.fold_sums import Floats
from featviz.evidence.fates.verdicts import Verdicts, verdict_names
from featviz.files import write_atomically
from featviz.gallery import fate_plots
from featviz.subjects import Normalization
from featviz.version import __version__

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports]

MERGED = "merged"  # the name of the merged network, among subjects and in a panel


@dataclass(frozen=True, eq=False)
class LayerFates:
    """What became of the n units of one layer.

    figures: of all images (R = 1). halves: of two disjoint halves of the images (R = 2), the noise of every figure.
    control: the agreement that unmatched units of the layer exceed in 5 % of cases.
    unaligned, random: (n,) correlation with A of the average of the parents without an alignment, and with a random one; None
        where they were not measured.
    score: (n,) of the match, NaN where there is none. partner: (n,) the unit of the original B, -1 where units are combined.
    """

    layer: str
    parents: tuple[str, ...]
    figures: LayerFigures
    halves: LayerFigures
    verdicts: Verdicts
    control: float
    unaligned: Floats | None
    random: Floats | None
    score: Floats
    partner: Sequence[int]

    def __repr__(self) -> str:
        return f"LayerFates({self.layer!r}, {len(self)} units of {', '.join(self.parents)})"

    def __len__(self) -> int:
        """The number of units."""
        return len(self.verdicts.verdict)

    def rows(self) -> list[dict[str, Any]]:
        """One record per unit, ready for a table or JSON."""
        return [self.row(unit) for unit in range(len(self))]

    def row(self, unit: int) -> dict[str, Any]:
        """The record of a unit; figures that do not exist are None."""
        f = self.figures
        record: dict[str, Any] = {"layer": self.layer, "unit": unit, "partner": int(self.partner[unit])}
        record |= {"score": _number(self.score[unit]), "verdict": self.verdicts.verdict[unit]}
        record |= {"likeliest": self.verdicts.likeliest[unit], "confidence": _number(self.verdicts.confidence[unit])}
        record |= {"agreement": _number(f.agreement[0, unit]), "fidelity": _number(f.fidelity[0, unit])}
        for number, parent in enumerate(self.parents):
            record[f"correlation {parent}"] = _number(f.correlation[number, 0, unit])
            record[f"predicted {parent}"] = _number(f.predicted[number, 0, unit])
        for number, name in enumerate((*self.parents, "mean")):
            record[f"nearest {name}"] = int(f.nearest[number, 0, unit])
        record["variance"] = _number(f.variance[0, unit])
        for name in ("agreement", "fidelity"):
            halves = getattr(self.halves, name)[:, unit]
            record[f"{name} of halves"] = [_number(value) for value in halves]
        record["unaligned A"] = None if self.unaligned is None else _number(self.unaligned[unit])
        record["random A"] = None if self.random is None else _number(self.random[unit])
        return record

    def shares(self) -> dict[str, float]:
        """Verdict -> share of the units, in [0, 1]."""
        return {name: self.verdicts.verdict.count(name) / len(self) for name in verdict_names(self.parents)}

    def summary(self) -> dict[str, Any]:
        """Means over the units that vary, shares of verdicts, and how score, agreement and fate hang together.

        closest to itself: share of units that are closest to their own row, per parent and in the rows' means.
        rank correlations: Spearman's, over units, of score with agreement, agreement with fidelity, and agreement with the
        smallest correlation of the merged unit with a parent.
        """
        f = self.figures
        alive = f.alive[0] & f.parents_alive[:, 0].all(0)
        worst = f.correlation[:, 0].min(0)
        record: dict[str, Any] = {"layer": self.layer, "units": len(self)}
        record |= {"agreement": _mean(f.agreement[0], alive), "control": _number(self.control)}
        record["fidelity"] = _mean(f.fidelity[0], alive)
        for number, parent in enumerate(self.parents):
            record[f"correlation {parent}"] = _mean(f.correlation[number, 0], alive)
            record[f"predicted {parent}"] = _mean(f.predicted[number, 0], alive)
        record["unaligned A"] = None if self.unaligned is None else _mean(self.unaligned, alive)
        record["random A"] = None if self.random is None else _mean(self.random, alive)
        record["closest to itself"] = {
            name: float(f.own[number, 0].mean()) for number, name in enumerate((*self.parents, "mean"))
        }
        record["verdicts"] = self.shares()
        record["rank correlations"] = {
            "score, agreement": _ranks(self.score, f.agreement[0], alive),
            "agreement, fidelity": _ranks(f.agreement[0], f.fidelity[0], alive),
            "agreement, smallest correlation": _ranks(f.agreement[0], worst, alive),
        }
        record["by verdict"] = {
            name: {"score": _mean(self.score, chosen), "agreement": _mean(f.agreement[0], chosen)}
            for name in verdict_names(self.parents)
            if (chosen := np.array([verdict == name for verdict in self.verdicts.verdict])).any()
        }
        return record


@dataclass(frozen=True, eq=False)
class Fates:
    """What became of the units of several layers of a merged network; `fates["layer3.1.bn1"]` is one layer's.

    parents: names of the parents. images: how many were measured. chunk_bytes: of layer outputs that were held at once.
    normalizations: how each network's input was normalized, and who says so.
    exemplars: of the parents and of merged, where they were asked for.
    method: of the alignment. config: of the verdicts' confidence.
    """

    layers: tuple[LayerFates, ...]
    parents: tuple[str, ...]
    images: int
    chunk_bytes: int
    method: str
    config: FateConfig
    normalizations: Mapping[str, Normalization]
    exemplars: Exemplars | None = None

    def __repr__(self) -> str:
        units = sum(map(len, self.layers))
        return f"Fates({units} units of {len(self)} layers, matched by {self.method!r}, {self.images} images)"

    def __iter__(self) -> Iterator[LayerFates]:
        return iter(self.layers)

    def __len__(self) -> int:
        """The number of layers."""
        return len(self.layers)

    def __getitem__(self, layer: str) -> LayerFates:
        """One layer by its name.

        Raises:
            UnitError: it was not measured.
        """
        found = {fates.layer: fates for fates in self.layers}
        if layer not in found:
            raise UnitError(f"the fates of {layer!r} were not measured: {near_names(layer, found)}")
        return found[layer]

    def rows(self) -> list[dict[str, Any]]:
        """One record per unit of every layer."""
        return [row for fates in self.layers for row in fates.rows()]

    def record(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        tops = self.exemplars
        return {
            "featviz": __version__,
            "parents": list(self.parents),
            "images": self.images,
            "matching": self.method,
            "normalization": {name: value.record() for name, value in self.normalizations.items()},
            **asdict(self.config),
            "layers": [fates.summary() for fates in self.layers],
            "units": self.rows(),
            "exemplars": None if tops is None else {layer: tops.record(layer) for layer in tops.layers},
        }

    def save(self, path: str | Path) -> Path:
        """Write `record()` as JSON where the path ends in .json, one line per unit where it ends in .csv.

        Raises:
            OutputError: another suffix, or the place cannot be written.
        """
        path = Path(path)
        if path.suffix == ".json":
            text = json.dumps(self.record(), indent=1) + "\n"
            return write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
        if path.suffix == ".csv":
            return write_atomically(path, self._write_csv)
        raise OutputError(f"{path} is no kind of table: end its name in .json or .csv.")

    def _write_csv(self, path: Path) -> None:
        rows = self.rows()
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                flat = {
                    key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()
                }
                writer.writerow(flat)

    def data_frame(self) -> "pandas.DataFrame":
        """`rows()` as a data frame.

        Raises:
            OutputError: pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise OutputError("a data frame needs pandas: pip install pandas, or use rows().") from error
        return pandas.DataFrame(self.rows())

    def plot(self, path: str | Path, kind: str = "verdicts", title: str = "") -> Path:
        """Draw the fates to a PNG, SVG or PDF.

        Args:
            kind: "verdicts": stacked bars of their shares by layer. "units": agreement against fidelity of every unit, with the
                control. "predicted": correlation with the first parent, predicted against measured.

        Raises:
            OutputError: another kind, no matplotlib, or a path that cannot be written.
        """
        if kind == "verdicts":
            names = verdict_names(self.parents)
            shares = {name: [fates.shares()[name] for fates in self.layers] for name in names}
            return fate_plots.plot_verdicts([fates.layer for fates in self.layers], shares, path, title)
        drawn = {"units": fate_plots.plot_units, "predicted": fate_plots.plot_predicted}
        if kind not in drawn:
            raise OutputError(f"there is no plot {kind!r} of fates: use 'verdicts', 'units' or 'predicted'.")
        points = [
            fate_plots.UnitPoints(
                fates.layer, fates.figures.agreement[0], fates.figures.fidelity[0], fates.figures.correlation[0, 0],
                fates.figures.predicted[0, 0], fates.verdicts.verdict, fates.control,
            )
            for fates in self.layers
        ]  # fmt: skip
        return drawn[kind](points, path, title)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and lines of the overview, one line per layer: means of the figures and shares of the verdicts."""
        names = [name for name in verdict_names(self.parents) if any(fates.shares()[name] for fates in self.layers)]
        parents = [f"corr {parent}" for parent in self.parents]
        head = ["layer", "units", "c", "control", "f", *parents, "predicted A", "unaligned", "random", *names]
        lines = []
        for fates in self.layers:
            s = fates.summary()
            keys = ["agreement", "control", "fidelity", *(f"correlation {parent}" for parent in self.parents)]
            keys += [f"predicted {self.parents[0]}", "unaligned A", "random A"]
            figures = ["-" if s[key] is None else f"{s[key]:.2f}" for key in keys]
            lines.append([s["layer"], str(s["units"]), *figures, *(f"{s['verdicts'][name]:.0%}" for name in names)])
        return head, lines

    def __str__(self) -> str:
        head, lines = self.table()
        widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
        return "\n".join(
            "  ".join(
                text.ljust(width) if column == 0 else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in [head, *lines]
        )

    def _repr_html_(self) -> str:
        head, lines = self.table()
        cells = ["".join(f"<th>{html.escape(text)}</th>" for text in head)]
        cells += ["".join(f"<td>{html.escape(text)}</td>" for text in line) for line in lines]
        body = "".join(f"<tr>{line}</tr>" for line in cells)
        return f"<table>{body}</table><p>{self.images} images; shares of the units by verdict.</p>"

    def caption(self, layer: str, unit: int) -> list[str]:
        """Verdict, agreement and fidelity of a unit in two lines.

        Raises:
            UnitError: the layer was not measured.
        """
        return caption_of(self[layer].row(unit))


def caption_of(row: Mapping[str, Any]) -> list[str]:
    """The record of a unit in two lines."""
    sure = "" if row["verdict"] != "undecided" else f" ({row['likeliest']}?)"
    return [f"{row['verdict']}{sure}", f"c {_told(row['agreement'])}, f {_told(row['fidelity'])}"]


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _number(value: float) -> float | None:
    """Rounded to 5 digits; JSON has no NaN."""
    return round(float(value), 5) if np.isfinite(value) else None


def _mean(values: Floats, chosen: np.ndarray) -> float | None:
    found = values[chosen & np.isfinite(values)]
    return _number(found.mean()) if len(found) else None


def _ranks(one: Floats, other: Floats, chosen: np.ndarray) -> float | None:
    """Spearman's rank correlation; None of fewer than three units, or where all are equal."""
    chosen = chosen & np.isfinite(one) & np.isfinite(other)
    if chosen.sum() < 3 or np.ptp(one[chosen]) == 0 or np.ptp(other[chosen]) == 0:
        return None
    return _number(np.asarray(spearmanr(one[chosen], other[chosen]))[0])
