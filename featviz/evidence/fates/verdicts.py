"""Verdicts: what became of each unit of a merged layer, and how sure that is when the images are drawn again.

The first that holds:

    dead      the merged unit does not vary
    kept      agreement is above its control, and the unit is closest to its own row in every parent
    A's, B's  the unit is closest to its own row in one parent only (named after that parent)
    blended   the unit is closest to the mean of its row
    lost      none of these

The control of agreement is the 95th percentile of the agreement of units that are not matched. A verdict that
fewer than `FateConfig.level` of the resamplings of the images repeat is "undecided".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featviz.evidence.fates.agreement import LayerFigures
from featviz.evidence.fates.fold_sums import Floats

KEPT, BLENDED, LOST, DEAD, UNDECIDED = "kept", "blended", "lost", "dead", "undecided"


@dataclass(frozen=True)
class Verdicts:
    """Of n units.

    verdict: "undecided" included. likeliest: the verdict of all images. confidence: (n,) share of resamplings that repeat it.
    """

    verdict: tuple[str, ...]
    likeliest: tuple[str, ...]
    confidence: Floats


def possessive(parent: str) -> str:
    """The verdict for a unit that is a parent's: "A's" of A, "B's" of B'."""
    return parent.rstrip("'") + "'s"


def verdict_names(parents: Sequence[str]) -> tuple[str, ...]:
    """All verdicts, in the order of tables and plots."""
    return (KEPT, BLENDED, *map(possessive, parents), LOST, DEAD, UNDECIDED)


def verdict_codes(figures: LayerFigures, control: float) -> np.ndarray:
    """(R, n) verdicts as indices of `verdict_names`."""
    parents = len(figures.correlation)
    own, own_mean = figures.own[:-1], figures.own[-1]
    in_how_many = own.sum(0)
    kept = (figures.agreement > control) & (in_how_many == parents)
    single = (in_how_many == 1) & (parents > 1)
    codes = np.full(kept.shape, 2 + parents)  # lost
    codes[own_mean] = 1
    codes[single] = 2 + own.argmax(0)[single]
    codes[kept] = 0
    codes[~figures.alive] = 3 + parents
    return codes


def verdicts(
    whole: LayerFigures, resampled: LayerFigures, control: float, parents: Sequence[str], level: float
) -> Verdicts:
    """Verdicts of all images, held against those of resamplings.

    Args:
        whole: figures of all images, R = 1. resampled: of R resamplings.
        control: of agreement (`unmatched_agreement`).
        level: below this share of equal verdicts a unit is undecided.
    """
    names = verdict_names(parents)
    (likeliest,) = verdict_codes(whole, control)
    confidence = (verdict_codes(resampled, control) == likeliest).mean(0)
    told = [names[code] for code in likeliest]
    return Verdicts(
        tuple(name if sure >= level else UNDECIDED for name, sure in zip(told, confidence, strict=True)),
        tuple(told),
        confidence,
    )
