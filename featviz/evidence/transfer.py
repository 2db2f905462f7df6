"""Does the picture tell? How strongly the image made for a unit in one network excites the same unit in another.

renderings of the same units in several subjects -> `Transfers`, beside what makes the figure readable:

    over own      response / the response of the subject to the image made for itself
    over natural  response / its largest response to natural images, so that "reaches 40 % of the best photograph" can be said
    floor         the image of the same unit in the same subject from another random start, over own: chance of the ascent
    ceiling       images of other units of the layer in the same subject, over own: how unlike pictures of different units are
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from featviz.errors import UnitError
from featviz.evidence.exemplars.exemplars import Exemplars
from featviz.evidence.fates.fold_sums import Floats
from featviz.evidence.layer_means import layer_means
from featviz.evidence.layer_names import measurable_layers
from featviz.rendering.optimize.loop import Renderings
from featviz.subjects import Subject, as_subject


class Rendered(Protocol):
    """What is needed of a `Panel`: its layer and the axis of its units, the units of each subject, and their images."""

    @property
    def layer(self) -> str: ...

    @property
    def axis(self) -> int | None: ...

    @property
    def own_units(self) -> Mapping[str, tuple[int | None, ...]]: ...

    @property
    def renderings(self) -> Mapping[str, Renderings]: ...


@dataclass(frozen=True, eq=False)
class Transfers:
    """Responses of S subjects to each other's images of U units; a response is the mean of the unit's map.

    response: (unit, image of, seen by). natural: (unit, subject) the largest response to natural images, or None.
    again: (unit, subject) response to the subject's image from another start, or None. other: (unit, subject) mean response to
    the subject's images of the other units of the panel; NaN where there is no other. Missing units are NaN.
    """

    layer: str
    subjects: tuple[str, ...]
    units: Mapping[str, tuple[int | None, ...]]
    response: Floats
    natural: Floats | None
    again: Floats | None
    other: Floats

    @property
    def own(self) -> Floats:
        """(unit, subject) every subject's response to its own image."""
        return np.diagonal(self.response, axis1=1, axis2=2)

    @property
    def over_own(self) -> Floats:
        """(unit, image of, seen by) 1 on the diagonal; NaN where the subject's own image does not excite it."""
        return _over(self.response, self.own[:, None, :])

    @property
    def over_natural(self) -> Floats | None:
        """(unit, image of, seen by) 1 is what the best natural image reaches."""
        return None if self.natural is None else _over(self.response, self.natural[:, None, :])

    @property
    def floor(self) -> Floats | None:
        """(unit, subject) another start of the same unit in the same subject, over own."""
        return None if self.again is None else _over(self.again, self.own)

    @property
    def ceiling(self) -> Floats:
        """(unit, subject) images of other units in the same subject, over own."""
        return _over(self.other, self.own)

    def between(self, one: str, other: str) -> Floats:
        """(unit,) mean of both directions, over own."""
        i, j = self.subjects.index(one), self.subjects.index(other)
        return (self.over_own[:, i, j] + self.over_own[:, j, i]) / 2

    def rank_correlation(self, one: str, other: str, values: Sequence[float] | Floats) -> float:
        """Spearman's rank correlation of `between` with a value of every unit, such as its agreement; NaN if undefined."""
        found, given = self.between(one, other), np.asarray(values, dtype=np.float64)
        chosen = np.isfinite(found) & np.isfinite(given)
        if chosen.sum() < 3 or np.ptp(given[chosen]) == 0:
            return float("nan")
        return float(np.asarray(spearmanr(found[chosen], given[chosen]))[0])

    def summary(self) -> dict[str, object]:
        """Medians over the units, ready for JSON."""
        return {
            "layer": self.layer,
            "units": len(self.response),
            "subjects": list(self.subjects),
            "axes": ["image of", "seen by"],
            "over own": _medians(self.over_own),
            "over natural": None if self.over_natural is None else _medians(self.over_natural),
            "floor": None if self.floor is None else _medians(self.floor),
            "ceiling": _medians(self.ceiling),
        }


def picture_transfer(
    panel: Rendered,
    subjects: Mapping[str, nn.Module | Subject],
    again: Rendered | None = None,
    natural: Exemplars | None = None,
) -> Transfers:
    """Show every subject every image of a panel, without transforms.

    Args:
        panel: from `render_panel` or `render_unit_triplet`.
        subjects: its networks, by the names of its columns.
        again: the same panel from another seed, for the floor.
        natural: exemplars of the layer in these subjects.

    Raises:
        UnitError: a column without a network, or `again` shows other units.
    """
    names = tuple(panel.renderings)
    missing = [name for name in names if name not in subjects]
    if missing:
        raise UnitError(f"the panel's column {missing[0]!r} has no network: give subjects by the names of its columns.")
    if again is not None and (again.layer, dict(again.own_units)) != (panel.layer, dict(panel.own_units)):
        raise UnitError("the second panel shows other units: render the same ones from another seed.")
    chosen = {name: as_subject(subjects[name], name) for name in names}
    layers = measurable_layers(
        chosen[names[0]].model, panel.layer, {} if panel.axis is None else {panel.layer: panel.axis}
    )
    sets = [panel] if again is None else [panel, again]
    images = [found.renderings[name].images for found in sets for name in names]
    means = layer_means(chosen, layers, torch.cat(images))
    count = len(images[0])
    response = np.full((count, len(names), len(names)), np.nan)
    repeated, others = (np.full((count, len(names)), np.nan) for _ in "ro")
    for by, name in enumerate(names):
        shown = list(panel.own_units[name])
        rows = np.array([row for row, unit in enumerate(shown) if unit is not None], dtype=int)
        units = torch.tensor([unit for unit in shown if unit is not None], dtype=torch.long)
        # (image, row): each image as the unit of each row sees it
        seen = means[name, panel.layer][:, units].view(len(sets), len(names), count, -1).numpy()
        for of, other in enumerate(names):
            there = np.array([panel.own_units[other][row] is not None for row in rows], dtype=bool)
            response[rows[there], of, by] = seen[0, of, rows[there], np.flatnonzero(there)]
        own = seen[0, by][rows]
        if len(rows) > 1:
            others[rows, by] = (own.sum(0) - own.diagonal()) / (len(rows) - 1)
        if again is not None:
            repeated[rows, by] = seen[1, by][rows].diagonal()
    best = None if natural is None else _natural(natural, panel, names)
    return Transfers(
        panel.layer, names, dict(panel.own_units), response, best, None if again is None else repeated, others
    )


def _natural(exemplars: Exemplars, panel: Rendered, names: Sequence[str]) -> Floats:
    columns = []
    for name in names:
        best = exemplars.best_mean(panel.layer, name).cpu().numpy()
        columns.append([np.nan if unit is None else best[unit] for unit in panel.own_units[name]])
    return np.array(columns, dtype=np.float64).T


def _over(top: Floats, bottom: Floats) -> Floats:
    """top / bottom; NaN where bottom is not positive: the unit is not excited."""
    bottom = np.broadcast_to(bottom, top.shape)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _medians(values: Floats) -> list:
    """Medians over the first axis, rounded; None where there is no value."""
    with np.errstate(all="ignore"):
        found = np.array(
            [
                np.median(x[np.isfinite(x)]) if np.isfinite(x).any() else np.nan
                for x in values.reshape(len(values), -1).T
            ]
        )
    told = [None if np.isnan(value) else round(float(value), 4) for value in found]
    width = values.shape[-1]
    return told if values.ndim == 2 else [told[first : first + width] for first in range(0, len(told), width)]
