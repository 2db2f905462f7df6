"""Pages of made-up units, as the atlas makes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from featviz.gallery.page.contents import Page, PageBlock, PageLayer

SUBJECTS = ("A", "B'", "merged")
VERDICTS = ("kept", "blended", "A's", "B's", "lost", "dead", "undecided")
STEPS = 5


def record(unit: int, subjects: Sequence[str] = SUBJECTS, **changes: Any) -> dict[str, Any]:
    """Unit 3 is matched with unit 103 of B, its score is .03; verdicts take turns."""
    verdict = VERDICTS[unit % len(VERDICTS)]
    fate = {
        "layer": "made up", "unit": unit, "partner": unit + 100, "score": unit / 100, "verdict": verdict, "likeliest": "kept",
        "confidence": 0.75, "agreement": (unit * 7 % 10) / 10, "fidelity": (unit * 3 % 10) / 10, "correlation A": 0.5,
        "nearest A": unit, "agreement of halves": [0.1, None], "random A": None,
        "exemplars": {"A": [1, 2]}, "exemplars of": ["A"],
    }  # fmt: skip
    return {
        "unit": unit,
        "own_units": dict.fromkeys(subjects, unit),
        "activation": {name: unit + number / 10 for number, name in enumerate(subjects)},
        "dead": [subjects[-1]] if verdict == "dead" else [],
        "restart": unit % 2,
        "cross": [[1.0, 0.5, 0.25]] * 3,
        "a": unit,
        "b": unit + 100,
        "score": unit / 100,
        "margin": -unit / 100,
        "fate": fate,
    } | changes


def block(
    records: Sequence[dict[str, Any]], subjects: Sequence[str] = SUBJECTS, *, size: int = 16, k: int = 0
) -> PageBlock:
    """Records with random images, `k` of them natural."""
    rng = np.random.default_rng(0)
    shape = (len(subjects), len(records))
    return PageBlock(
        list(records),
        rng.integers(0, 256, (*shape, size, size, 3), np.uint8),
        np.cumsum(rng.random((*shape, STEPS), np.float32), 2),
        np.full(shape, STEPS, np.int32),
        rng.integers(0, 256, (*shape, k, 8, 8, 3), np.uint8) if k else None,
        tuple(subjects) if k else (),
    )


def page(*layers: PageLayer, **changes: Any) -> Page:
    made = {
        "title": "A pair",
        "subjects": SUBJECTS,
        "layers": layers,
        "facts": {"Matching": "by activations"},
    } | changes
    return Page(**made)


def ordinary_page() -> Page:
    """layer1 of 20 units in two blocks with natural images, and layer2.bn of which 10 of 16 units are there."""
    records = [record(unit) for unit in range(20)]
    return page(
        PageLayer("layer1", 20, [block(records[:12], k=2), block(records[12:], k=2)]),
        PageLayer("layer2.bn", 16, [block(records[:10])]),
    )
