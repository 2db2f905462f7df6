"""What a page shows: numbers and pictures of units, without any network.

`Page` -> its `PageLayer`s -> their `PageBlock`s, made one at a time: a page of a million units needs the memory of one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PageBlock:
    """Some units of one layer.

    records: one for each unit, ready for JSON, with the keys of `featviz.panel.Panel.unit_record`:
        "unit" int; "own_units" {subject: int or None}; "activation" {subject: float or None}; "dead" [subject, ...];
        "restart" int; "cross" [[float or None]], image of a subject seen by a subject. Where a permutation is known: "b" the
        unit of the original B, "score" and "margin" of the match, floats or None; where units are combined: "members" and
        "score". Where it was measured: "fate", a row of `Fates` ("verdict", "likeliest", "confidence", "agreement",
        "fidelity", "correlation A", "predicted A", ...; floats may be None).
    images: (subject, unit, height, width, 3 or 1).
    trace: (subject, unit, step), the activation at every step; NaN after a unit's last step.
    steps: (subject, unit), how many steps were made.
    exemplars: (subject, unit, k, height, width, 3 or 1), natural images that excite the unit most, best first; None: not known.
    exemplar_subjects: whose exemplars they are, in the order of the first axis.
    """

    records: list[dict[str, Any]]
    images: Pictures
    trace: Numbers
    steps: NDArray[np.int32]
    exemplars: Pictures | None = None
    exemplar_subjects: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PageLayer:
    """One layer.

    name: as in the network, any text. width: how many units were asked for. blocks: those that are there, in order; may be made
    when they are asked for, and are asked for once.
    """

    name: str
    width: int
    blocks: Iterable[PageBlock]


@dataclass(frozen=True, eq=False)
class Page:
    """A page.

    subjects: names of the networks, in the order of the columns. facts: what stands below the title, label -> text: how units
    were matched, configuration, digests of the networks, how many of the units are done.
    """

    title: str
    subjects: tuple[str, ...]
    layers: Iterable[PageLayer]
    facts: Mapping[str, str] = field(default_factory=dict)
