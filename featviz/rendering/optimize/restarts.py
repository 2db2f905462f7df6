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
from featviz.rendering.optimize.batching import must_fit
from featviz.rendering.optimize.loop import Transform, alive


def starts_with_gradient(
    subjects: Sequence[tuple[FeatureExtractor, Objective]],
    keys: Sequence[Hashable],
    config: RenderConfig,
    transform: Transform | None = None,
) -> Starts:
    """One start per unit for all subjects, in which every unit has a gradient where any of `config.restarts` more starts
    gives it one.

    A unit keeps the first of its starts in which most subjects have a gradient. What a unit gets depends on
    its own key and the subjects alone.

    Args:
        subjects: (extractor, objective) of every subject that shares the starts; the objectives have the same
            images.
        keys: one per unit, see `seeded_starts`.
    """
    channels, dtype = subjects[0][0].channels, subjects[0][0].dtype
    with must_fit(len(keys), config, subjects[0][0].device):
        best = seeded_starts(config, keys, channels, 0, dtype)
    living = torch.stack([alive(extractor, objective, best, config, transform) for extractor, objective in subjects])
    for restart in range(1, config.restarts + 1):
        left = (~living.all(0)).nonzero().flatten().tolist()
        coupled = any(objective.coupled for _, objective in subjects)
        if not left:
            break
        rows = list(range(len(keys))) if coupled else left
        other = seeded_starts(config, [keys[i] for i in rows], channels, restart, dtype)
        found = torch.stack(
            [alive(extractor, o.select(rows), other, config, transform, once=True) for extractor, o in subjects]
        )
        better = (found.sum(0) > living[:, rows].sum(0)).nonzero().flatten().tolist()
        places = [rows[i] for i in better]
        best = best.replace(places, other.select(better))
        living[:, places] = found[:, better]
    return best


def warn_of_dead_units(names: Sequence[str], config: RenderConfig, stacklevel: int) -> None:
    """One warning that names the units whose images mean nothing; silent without any."""
    if names:
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        warnings.warn(
            f"{shown}: no usable gradient from {config.restarts + 1} starts, the image means nothing; "
            "take the layer before the ReLU, or more restarts.",
            stacklevel=stacklevel + 1,
        )
