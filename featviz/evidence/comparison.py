"""What a comparison of two networks found, as JSON and as one screen of text: the result of `featviz.compare`."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass

COPIES, SHARED = (
    0.9,
    0.15,
)  # cosine of the weights above which networks are copies of one base, or share their beginning
LEAD = 0.05  # of the matched score over chance, below which no counterparts were found
ROWS = 16  # groups that are shown


@dataclass(frozen=True)
class GroupScores:
    """How alike the units of one group are in both networks, as means over its units.

    identity: unit i of A and unit i of B. matched: A's unit and its partner by the method that fits best. chance: the same
    method where nothing can be found (other images for B, or B's weights shuffled).
    """

    group: str
    units: int
    identity: float
    matched: float
    chance: float


@dataclass(frozen=True)
class Outcome:
    """Loss and accuracy (percent) of a network on the labelled data that were not used for matching and repair."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Comparison:
    """What `featviz.compare` found.

    shared: how many tensors both have with the same shape. only_a, only_b: names of the others; other_shapes: the two shapes.
    cosine: of all shared weights (matrices and kernels) as they are, without permuting; 1 for copies, about 0 for networks that
        were trained apart.
    measure: what the scores are, "correlation of activations" or "cosine of weights".
    scores: by method, the mean over all units of what `measure` says; "chance" beside them.
    groups: by group. outcomes: of A, of B and of each merge at weight 1/2, where there are labelled data.
    refused: why the units could not be matched; empty where they could.
    normalizations: of the input, of A and of B.
    """

    shared: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    parameters: tuple[int, int]
    cosine: float
    measure: str
    scores: Mapping[str, float]
    groups: tuple[GroupScores, ...]
    outcomes: Mapping[str, Outcome]
    normalizations: Mapping[str, Mapping[str, object]]
    same_normalization: bool = True
    repair: str = "none"
    refused: str = ""

    @property
    def base(self) -> str:
        """ "copies" of one base, networks with a "shared" beginning, or trained "apart"."""
        if self.cosine >= COPIES:
            return "copies"
        return "shared" if self.cosine >= SHARED else "apart"

    @property
    def differ(self) -> bool:
        """Whether one network has tensors that the other has not, or of another shape."""
        return bool(self.only_a or self.only_b or self.other_shapes)

    @property
    def method(self) -> str | None:
        """The method that fits: the best score, "identity" where nothing beats it; None: none beats chance."""
        found = {name: score for name, score in self.scores.items() if name != "chance"}
        if not found:
            return None
        best = max(found, key=found.__getitem__)
        if found[best] - found["identity"] < LEAD / 2:
            best = "identity"
        return best if found[best] - self.scores["chance"] >= LEAD else None

    def advice(self) -> list[str]:
        """What the figures mean, a sentence or two each."""
        kinds = {
            "copies": "They are copies of one base: units correspond as they are",
            "shared": "They share an initialisation or a base",
            "apart": "They were trained apart",
        }
        said = [f"{kinds[self.base]} (cosine of the weights as they are {self.cosine:.2f})."]
        if self.refused:
            return [*said, f"Units were not matched: {self.refused}"]
        method = self.method
        if method == "identity":
            said.append("No method beats the identity: merge without permuting, align(method='identity').")
        elif method is None:
            said.append("No method finds counterparts beyond chance: do not expect an average of the weights to work.")
        else:
            said.append(
                f"Units are most alike by {method!r}: {self.scores[method]:.2f} against {self.scores['chance']:.2f} by chance."
            )
        return [*said, self._expectation()]

    def _expectation(self) -> str:
        merges = {name: outcome for name, outcome in self.outcomes.items() if name not in ("A", "B")}
        if not merges and self.differ:
            return (
                "What a merge loses was not measured, since parts of the networks differ: merge(..., head=...) chooses."
            )
        if not merges:
            return "What a merge loses was not measured: give labelled images."
        best = max(merges, key=lambda name: merges[name].accuracy)
        worse = min(self.outcomes["A"].accuracy, self.outcomes["B"].accuracy)
        lost = worse - merges[best].accuracy
        found = f"The best average at weight 1/2, by {best!r} (repair {self.repair}), gets {merges[best].accuracy:.1f} % right"
        return f"{found}, {abs(lost):.1f} points {'below' if lost >= 0 else 'above'} the worse parent: use {best!r}."

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        return {**asdict(self), "base": self.base, "method": self.method, "advice": self.advice()}

    def __str__(self) -> str:
        """One screen."""
        lines = [
            f"A has {self.parameters[0]:,} parameters, B {self.parameters[1]:,}; {self.shared} tensors have one shape"
        ]
        for what, names in (("only in A", self.only_a), ("only in B", self.only_b)):
            if names:
                lines.append(_wrapped(f"{what}: {_few(names)}"))
        if self.other_shapes:
            shapes = [f"{name} {a} and {b}" for name, (a, b) in self.other_shapes.items()]
            lines.append(_wrapped(f"of other shapes: {_few(shapes)}"))
        if not self.same_normalization:
            lines.append(_wrapped("their inputs are normalized in different ways"))
        if self.groups:
            lines += ["", f"{self.measure}, mean over units"]
            lines.append("  " + "   ".join(f"{name} {score:.2f}" for name, score in self.scores.items()))
            lines.append(f"  {'group':32} {'units':>6} {'identity':>9} {'matched':>9} {'chance':>9}")
            for row in self._shown_groups():
                figures = f"{row.units:6d} {row.identity:9.2f} {row.matched:9.2f} {row.chance:9.2f}"
                lines.append(f"  {row.group:32} {figures}")
            if len(self.groups) > ROWS:
                lines.append(f"  and {len(self.groups) - ROWS} groups between them")
        if self.outcomes:
            lines += ["", f"labelled images, averages at weight 1/2 with repair {self.repair}"]
            lines += [
                f"  {name:32} loss {one.loss:8.3f}   right {one.accuracy:5.1f} %" for name, one in self.outcomes.items()
            ]
        return "\n".join([*lines, "", *(_wrapped(text, "") for text in self.advice())])

    def _shown_groups(self) -> list[GroupScores]:
        """All groups, or so many of them at even distances."""
        count = len(self.groups)
        if count <= ROWS:
            return list(self.groups)
        return [self.groups[row * (count - 1) // (ROWS - 1)] for row in range(ROWS)]


def _few(names: tuple[str, ...] | list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, 110, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False)
