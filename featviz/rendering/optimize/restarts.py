"""Restarts: a unit whose start gives it no gradient gets another start, and is reported where none helps.

A ReLU that is off everywhere has gradient zero; an ascent from there would silently stay gray.
"""

import warnings
from collections.abc import Hashable, Sequence

import torch

from featviz.config import RenderConfig
from featviz.rendering.image.seeding import Starts, seeded_starts
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Objective
from featviz.rendering.optimize.batching import memory_of
from featviz.rendering.optimize.loop import has_gradient
from featviz.rendering.robustness.seeded_transform import SeededTransform


def starts_with_gradient(
    subjects: Sequence[tuple[FeatureExtractor, Objective]],
    keys: Sequence[Hashable],
    transform: SeededTransform | None = None,
) -> Starts:
    """One start per unit for all subjects, in which every unit has a gradient where any of `config.restarts` more starts
    gives it one.

    A unit keeps the first of its starts in which most subjects have a gradient. What a unit gets depends on
    its own key and the subjects alone.

    Args:
        subjects: (extractor, objective) of every subject that shares the starts; the objectives have the same
            images, and the configs differ in the input normalization alone.
        keys: one per unit, see `seeded_starts`.
    """
    first = subjects[0][0]
    config = first.config
    with memory_of(len(keys), first):
        best = seeded_starts(config, keys, first.channels, 0, first.dtype)
    found = torch.stack([has_gradient(extractor, objective, best, transform) for extractor, objective in subjects])
    coupled = any(objective.coupled for _, objective in subjects)
    for restart in range(1, config.restarts + 1):
        left = (~found.all(0)).nonzero().flatten().tolist()
        if not left:
            break
        rows = list(range(len(keys))) if coupled else left
        other = seeded_starts(config, [keys[row] for row in rows], first.channels, restart, first.dtype)
        again = torch.stack([has_gradient(e, o.select(rows), other, transform, once=True) for e, o in subjects])
        better = (again.sum(0) > found[:, rows].sum(0)).nonzero().flatten().tolist()
        replaced = [rows[number] for number in better]
        best = best.replace(replaced, other.select(better))
        found[:, replaced] = again[:, better]
    return best


def warn_of_dead_units(names: Sequence[str], config: RenderConfig, stacklevel: int) -> None:
    """One warning that names the units whose images mean nothing; silent without any."""
    if names:
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        warnings.warn(
            f"{shown}: no usable gradient from {config.restarts + 1} starts, the image means nothing; "
            f"take the layer before the ReLU, or a larger sd (it is {config.sd:g}).",
            stacklevel=stacklevel + 1,
        )
