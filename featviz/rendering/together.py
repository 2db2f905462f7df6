"""The same units in several networks: images from shared starts, and how each network scores the images of the others.

(name -> (extractor, objective)), keys -> name -> `Renderings`. All networks of a row get the same starts and warps, so that
their images differ by the weights and the input normalizations alone.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.rendering.network.cut_network import resolve_layer
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Objective, channel
from featviz.rendering.optimize.loop import Progress, ascend, score_images
from featviz.rendering.optimize.renderings import Renderings
from featviz.rendering.optimize.restarts import starts_with_gradient
from featviz.rendering.render import layer_width
from featviz.rendering.robustness.presets import Robustness, seeded_robustness
from featviz.subjects import Subject, Subjects, common_channels, named_subjects
from featviz.units import unit_numbers
from featviz.weights.checks import check_finite

Scored = tuple[FeatureExtractor, Objective]


def checked_subjects(subjects: Subjects, config: RenderConfig) -> tuple[dict[str, Subject], int]:
    """Subjects by name, whose weights are finite, and the number of channels of the images that all of them take.

    Raises:
        RenderError: no subject, two of one name, or other numbers of channels. ModelError: NaN in a network.
    """
    named = named_subjects(subjects)
    for name, subject in named.items():
        check_finite(subject.model, name)
    return named, common_channels(named, config)


def units_by_subject(
    names: Iterable[str], units: int | Sequence[int], own_units: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """The units that each subject shows, one per row: its own ones, or those that rows are called after.

    Raises:
        RenderError: no unit, or another number of own units than of rows. UnitError: as `unit_numbers`.
    """
    rows = tuple(unit_numbers(units))
    found = {name: tuple(unit_numbers((own_units or {}).get(name, rows))) for name in names}
    if not rows:
        raise RenderError("there is no unit to render: name at least one.")
    for name, own in found.items():
        if len(own) != len(rows):
            raise RenderError(f"own_units has {len(own)} units of {name} for {len(rows)} rows: give one per row.")
    return found


def unit_extractors(
    subjects: Mapping[str, Subject],
    layer: str,
    units: Mapping[str, Sequence[int]],
    config: RenderConfig,
    device: torch.device,
    axis: int | None = None,
    more_layers: Sequence[str] = (),
) -> dict[str, Scored]:
    """By name: a feature extractor of the subject, and the objective of its units of `layer`, one per image.

    Args:
        units: by the same names, numbers of units; as many in every subject.
        axis: of the units in the layer's output; None: as `layer_width` finds it.
        more_layers: further layers that the extractors give.

    Raises:
        UnitError: a subject does not have the layer. RenderError: a network that cannot take images of the config's size.
    """
    extractors = {}
    for name, subject in subjects.items():
        resolved = resolve_layer(subject.model, layer)
        _, own_axis = layer_width(subject.model, resolved, config, device, axis)
        objective = channel(layer, units[name], own_axis)
        extractors[name] = (FeatureExtractor(subject, (layer, *more_layers), config, device), objective)
    return extractors


def render_together(
    networks: Mapping[str, Scored],
    keys: Sequence[Hashable],
    robustness: Robustness | None = None,
    progress: Progress | None = None,
) -> dict[str, Renderings]:
    """Images of the same units in several networks, from shared starts.

    Args:
        networks: by name, an extractor and the objective of its images; as many images for each.
        keys: one per image, see `seeded_starts`.
        robustness: as for `render`.
        progress: called with (steps done, steps to do) over all networks.
    """
    first, _ = next(iter(networks.values()))
    transform = seeded_robustness(robustness, first.config, first.channels)
    starts = starts_with_gradient(list(networks.values()), keys, transform)
    return {
        name: ascend(extractor, objective, starts, transform, share_of_progress(progress, number, len(networks)))
        for number, (name, (extractor, objective)) in enumerate(networks.items())
    }


def cross_scores(networks: Mapping[str, Scored], renderings: Mapping[str, Renderings]) -> Tensor:
    """(unit, image of, seen by): the score that a network gives, without transforms, to the image made for a network."""
    seen = [
        torch.stack(
            [
                made.score if by == of else score_images(extractor, objective, made.images)
                for by, (extractor, objective) in networks.items()
            ],
            1,
        )
        for of, made in renderings.items()
    ]
    return torch.stack(seen, 1)


def share_of_progress(progress: Progress | None, number: int, of: int) -> Callable[[int, int], None] | None:
    """What part `number` of `of` equal parts calls, so that `progress` counts the steps of all of them."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, of * total)
