"""Figures of a record: columns of units, rank correlations within layers, means over layers with their standard errors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

Floats = NDArray[np.float64]
Record = dict[str, Any]
FEWEST = 8  # units of a layer in which a rank correlation is told


@dataclass(frozen=True)
class Estimate:
    """A mean over layers with its standard error; `count` layers."""

    mean: float
    error: float
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 where the mean is beyond two standard errors, else 0."""
        clear = self.count > 1 and abs(self.mean) > 2 * self.error
        return (1 if self.mean > 0 else -1) if clear else 0

    def __str__(self) -> str:
        if not self.count:
            return "-"
        return f"{told(self.mean)} ± {self.error:.2f}" if self.count > 1 else told(self.mean)


def over_layers(values: Iterator[float] | list[float]) -> Estimate:
    """Mean and standard error of what is a number."""
    found = np.array([value for value in values if np.isfinite(value)])
    if not len(found):
        return Estimate(np.nan, np.nan, 0)
    return Estimate(
        float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0, len(found)
    )


def layers_of(record: Record) -> dict[str, dict[str, Any]]:
    """Layer -> columns, in the order of the network."""
    return record["layers"]


def depths(record: Record) -> Floats:
    """(layer,) place of each layer in its network, 0 for the first and 1 for the last."""
    return np.linspace(0, 1, len(layers_of(record)))


def column(columns: dict[str, Any], name: str) -> Floats:
    """One figure of all units; NaN where it does not exist, or was not measured."""
    values = columns.get(name, [None] * len(columns["agreement"]))
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def layer_means(record: Record, name: str) -> Floats:
    """(layer,) mean of a figure over the units."""
    return np.array([mean_of(column(columns, name)) for columns in layers_of(record).values()])


def mean_of(values: Floats) -> float:
    """Of what is a number; NaN where nothing is."""
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else float("nan")


def rank(one: Floats, other: Floats) -> float:
    """Spearman's correlation; NaN of few units or of constants."""
    both = np.isfinite(one) & np.isfinite(other)
    one, other = one[both], other[both]
    if len(one) < FEWEST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.asarray(spearmanr(one, other))[0])


def rank_in_layers(
    record: Record, one: str, other: str, chosen: Callable[[dict[str, Any]], bool] = lambda _: True
) -> Estimate:
    """Rank correlation of two figures over the units of a layer, over layers."""
    return over_layers(
        [rank(column(found, one), column(found, other)) for found in layers_of(record).values() if chosen(found)]
    )


def difference_in_layers(record: Record, one: str, other: str, outcome: str) -> Estimate:
    """How much higher the rank correlation of `one` with the outcome is than that of `other`, layer by layer."""
    values = [
        rank(column(found, one), column(found, outcome)) - rank(column(found, other), column(found, outcome))
        for found in layers_of(record).values()
    ]
    return over_layers(values)


def partial_rank_in_layers(record: Record, one: str, outcome: str, fixed: str) -> Estimate:
    """Rank correlation of two figures over the units of a layer with a third held fixed, over layers."""
    values = []
    for found in layers_of(record).values():
        x, y, z = (column(found, name) for name in (one, outcome, fixed))
        xy, xz, yz = rank(x, y), rank(x, z), rank(y, z)
        values.append((xy - xz * yz) / np.sqrt(max((1 - xz**2) * (1 - yz**2), 1e-9)))
    return over_layers(values)


def thirds(record: Record, values: Floats) -> tuple[float, float, float]:
    """Means over the first, the middle and the last third of the layers."""
    place = np.minimum((depths(record) * 3).astype(int), 2)
    return tuple(mean_of(values[place == third]) for third in range(3))  # pyright: ignore[reportReturnType]


def explained(columns: dict[str, Any]) -> tuple[Floats, Floats]:
    """(unit,) shares of a merged unit's variance that its parents' units explain: their mean alone, and their best mix.

    The best mix is the regression on both: R2 = (a2 + b2 - 2 a b c) / (1 - c2), a and b its correlations with each, c theirs.
    """
    a, b, c, f = (column(columns, name) for name in ("correlation A", "correlation B'", "agreement", "fidelity"))
    with np.errstate(invalid="ignore", divide="ignore"):
        mix = (a**2 + b**2 - 2 * a * b * c) / (1 - c**2)
    plain = np.clip(f, 0, None) ** 2
    return plain, np.where(1 - c**2 < 1e-3, plain, np.clip(mix, plain, 1))


def told(value: float) -> str:
    """Two digits; a dash for what is no number."""
    return f"{value:.2f}".replace("-0.00", "0.00") if np.isfinite(value) else "-"
