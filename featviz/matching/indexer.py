"""The unit indexer: which unit of B is A's unit i, at every named module, in both directions.

A unit of a module is one channel of its output. `PermutationGroups.layers` says which element of which group each channel
carries. Where a module carries an element several times (concatenation, flattening), the partner of the k-th copy in A is the
k-th copy in B. A unit that may not move (a logit, an input channel) is its own partner.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from featviz.errors import AlignmentError, UnitError, near_names
from featviz.matching.assignment import Matching
from featviz.matching.linear.combination import LinearCombination, Member, members_of
from featviz.symmetry.groups import Group, Index, LayerUnits, PermutationGroups
from featviz.units import format_unit


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if np.isfinite(value) else None


@dataclass(frozen=True)
class UnitMatch:
    """Unit `a` of A's layer and its partner `b` in the original B.

    `score` is a correlation (activation matching) or cosine (weight matching) in [-1, 1]; `margin` is its lead over the
    best other candidate. Both are NaN where the unit may not move, and so is not matched; `reason` then says why, as far as it
    is known ("the network's output"). The score is exactly 0 where there is nothing to compare (`unmatched`).
    """

    layer: str
    a: int
    b: int
    score: float
    margin: float
    reason: str = ""

    @property
    def fixed(self) -> bool:
        """Whether the unit is its own partner by construction."""
        return bool(np.isnan(self.score))

    @property
    def unmatched(self) -> bool:
        """Whether `b` is no partner but what was left: one of both units does not vary on the data, or owns only zeros."""
        return self.score == 0

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        return {"a": self.a, "b": self.b, "score": finite(self.score), "margin": finite(self.margin)}

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        how = f"fixed{why}" if self.fixed else f"score {self.score:.2f}, margin {self.margin:+.2f}"
        if self.unmatched:
            how = "no partner: one of them is constant"
        return f"A {format_unit(self.layer, self.a)} = B {format_unit(self.layer, self.b)} ({how})"


@dataclass(frozen=True)
class UnitMix:
    """Merged unit `unit` of a layer and its members, the strongest first; in place of a `UnitMatch` where units are combined.

    `score` is the correlation of A's and B's parts of it, NaN where the unit may not move; exactly 0 where there is nothing to
    compare (`unmatched`).
    """

    layer: str
    unit: int
    members: tuple[Member, ...]
    score: float

    @property
    def a(self) -> int | None:
        """Its strongest member in A; None where it has none."""
        return self.strongest("A")

    @property
    def b(self) -> int | None:
        return self.strongest("B")

    @property
    def fixed(self) -> bool:
        return bool(np.isnan(self.score))

    @property
    def unmatched(self) -> bool:
        """Whether its two parts have nothing in common: one does not vary on the data, or a network has no unit in it."""
        return self.score == 0

    def record(self, most: int = 8) -> dict[str, object]:
        """Ready for JSON, with `most` members and the number of the others."""
        members = [asdict(member) for member in self.members[:most]]
        further = len(self.members) - len(members)
        named = {"unit": self.unit, "a": self.a, "b": self.b, "score": finite(self.score)}
        return {**named, "members": members, "further_members": further}

    def strongest(self, model: str) -> int | None:
        return next((member.unit for member in self.members if member.model == model), None)


class UnitIndexer:
    """All questions about correspondence: `match`, `a_to_b`, `b_to_a`, `table`, and group and layer look-ups.

    This one is of permutations; `LinearUnitIndexer` is of linear combinations, where units have members and no partners.

    Args:
        groups: whose `layers` are the modules that can be asked for.
        matching: permutations, scores and margins of the groups.
        differing: modules of A at which B shows other units.
    """

    def __init__(self, groups: PermutationGroups, matching: Matching, differing: Collection[str] = ()) -> None:
        self._groups = groups
        self._matching = matching
        self._differing = differing
        self._partners: dict[str, Index] = {}

    @property
    def layers(self) -> dict[str, int]:
        """Name -> width, for every module whose output has units, in the order of the forward pass."""
        return {name: units.width for name, units in self._groups.layers.items()}

    def units(self, layer: str) -> LayerUnits:
        """The layer's width, unit axis, and group and element of every unit.

        Raises:
            UnitError: there is no such layer, or its output has no units.
        """
        if layer in self._differing:
            raise UnitError(
                f"the units of {layer} are not the same in A and in B, since its parameters or those before it are private: "
                f"give a layer that both share; {near_names(layer, self.layers)}"
            )
        if layer not in self._groups.layers:
            raise UnitError(f"there is no layer {layer!r} with units in this network: {near_names(layer, self.layers)}")
        return self._groups.layers[layer]

    def check(self, layer: str, units: ArrayLike) -> Index:
        """The units as an integer array, once every one of them is known to exist.

        Raises:
            UnitError: as `units()`, or a unit is not a whole number in [0, width).
        """
        width = self.units(layer).width
        asked = np.atleast_1d(np.asarray(units))
        if asked.size and not np.issubdtype(asked.dtype, np.integer):
            raise UnitError(f"units of {layer} are whole numbers from 0 to {width - 1}, not {units!r}.")
        wrong = asked[(asked < 0) | (asked >= width)]
        if wrong.size:
            raise UnitError(f"{layer} has no unit {int(wrong[0])}: its {width} units are 0 to {width - 1}.")
        return asked.astype(np.int64)

    def a_to_b(self, layer: str, units: ArrayLike) -> Index:
        """B's units that stand at A's places `units`; same shape (a scalar gives shape ())."""
        asked = self.check(layer, units)
        return self._partner(layer)[asked].reshape(np.shape(units))

    def b_to_a(self, layer: str, units: ArrayLike) -> Index:
        """A's places of B's units: the inverse of `a_to_b`."""
        asked = self.check(layer, units)
        return np.argsort(self._partner(layer))[asked].reshape(np.shape(units))

    def members(self, layer: str, unit: int) -> tuple[Member, ...]:
        """The parents' units that make up a merged unit of an equal average, the largest |weight| first.

        A unit that may not move is half A's and half B's unit of its number.
        """
        (asked,) = self.check(layer, unit).tolist()
        return Member("A", asked, 0.5), Member("B", int(self._partner(layer)[asked]), 0.5)

    def mix(self, layer: str, unit: int) -> UnitMix:
        """The members of a merged unit, and how far its two parts agree (of a permutation: the score of the match)."""
        info, (asked,) = self.units(layer), self.check(layer, unit).tolist()
        number = info.group[asked]
        scores = [] if number < 0 else self._matching.scores[self._groups.groups[number].name]
        score = float("nan") if number < 0 else float(scores[info.element[asked]])
        return UnitMix(layer, asked, self.members(layer, asked), score)

    def match(self, layer: str, unit: int) -> UnitMatch:
        """The partner of A's unit, with score and margin.

        Raises:
            UnitError: as `check()`.
        """
        (a,) = self.check(layer, unit).tolist()
        info = self.units(layer)
        if info.group[a] < 0:
            return UnitMatch(layer, a, a, float("nan"), float("nan"), info.reason)
        group = self._groups.groups[info.group[a]].name
        element = info.element[a]
        score, margin = (float(values[group][element]) for values in (self._matching.scores, self._matching.margins))
        return UnitMatch(layer, a, int(self._partner(layer)[a]), score, margin)

    def table(self, layer: str) -> list[dict[str, object]]:
        """One row per unit: layer, a, b, score, margin, group. Ready for a data frame or a CSV writer."""
        info = self.units(layer)
        names = [None if g < 0 else self._groups.groups[g].name for g in info.group]
        rows = [{**asdict(self.match(layer, unit)), "group": names[unit]} for unit in range(info.width)]
        return [{key: value for key, value in row.items() if key != "reason"} for row in rows]

    def group_of(self, layer: str, unit: int) -> Group | None:
        """The group that a unit belongs to; None where it may not move."""
        (a,) = self.check(layer, unit).tolist()
        number = self.units(layer).group[a]
        return None if number < 0 else self._groups.groups[number]

    def layers_of(self, group: str) -> Sequence[str]:
        """The modules whose outputs carry a group's units.

        Raises:
            UnitError: there is no such group.
        """
        names: Mapping[str, int] = self._groups.sizes
        if group not in names:
            raise UnitError(f"there is no group {group!r}: {near_names(group, names)}")
        return self._groups.modules(group)

    def _partner(self, layer: str) -> Index:
        """(width,): for every unit of A the unit of B at its place."""
        if layer not in self._partners:
            info = self.units(layer)
            partner = np.arange(info.width)
            for number in np.unique(info.group[info.group >= 0]):
                group = self._groups.groups[number]
                channels = np.flatnonzero(info.group == number)
                order = channels[np.argsort(info.element[channels], kind="stable")]
                elements, counts = np.unique(info.element[channels], return_counts=True)
                perm = self._matching.perms[group.name]
                if len(elements) < group.size or len(set(counts.tolist())) > 1:
                    partner[channels] = _partial(info, channels, perm)
                else:
                    copies = order.reshape(group.size, -1)
                    partner[copies] = copies[perm]
            self._partners[layer] = partner
        return self._partners[layer]


def _partial(info: LayerUnits, channels: Index, perm: Index) -> Index:
    """Partners where the layer carries only some elements of a group (a slice).

    The slice of B' shows B's unit `perm[i]` where A's shows its unit i. Where the slice of the original B does not contain all
    of these, the units of the layer are their own partners.
    """
    at = {int(element): int(channel) for channel, element in zip(channels, info.element[channels], strict=True)}
    wanted = [int(perm[element]) for element in info.element[channels]]
    inside = all(element in at for element in wanted)
    return np.array([at[element] for element in wanted]) if inside else channels


class LinearUnitIndexer(UnitIndexer):
    """Of merged units that combine several units of both networks: `members` and `mix` tell which.

    `match`, `a_to_b`, `b_to_a` and `table` are refused: units have no single partners.
    """

    def __init__(self, groups: PermutationGroups, combination: LinearCombination) -> None:
        super().__init__(groups, Matching({}, combination.scores, {}))
        self._combination = combination

    def members(self, layer: str, unit: int) -> tuple[Member, ...]:
        (asked,) = self.check(layer, unit).tolist()
        return members_of(self._groups, self._combination, self.units(layer), asked)

    def match(self, layer: str, unit: int) -> UnitMatch:
        raise self._no_partners()

    def table(self, layer: str) -> list[dict[str, object]]:
        raise self._no_partners()

    def _partner(self, layer: str) -> Index:
        raise self._no_partners()

    def _no_partners(self) -> AlignmentError:
        return AlignmentError(
            "this alignment combines units, which have no single partners: ask for members(layer, unit), or align by "
            "'activations'."
        )
