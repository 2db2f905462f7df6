"""Rendering of panels: named networks, a layer and units -> `Panel`, all subjects of a row from one random start."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.errors import RenderError, UnitError
from featviz.panel import Panel
from featviz.rendering import (
    FeatureExtractor,
    Renderings,
    channel,
    ordinary_modes,
    resolve_device,
    resolve_layer,
    uncompiled,
    unit_counts,
    warn_of_dead_units,
)
from featviz.rendering.robustness.presets import Robustness, robustness_in_words
from featviz.rendering.together import cross_scores, render_together
from featviz.subjects import Subjects, common_channels, input_normalization, named_subjects
from featviz.units import format_unit, parse_units, unit_numbers
from featviz.weights.checks import check_finite, digest

OwnUnits = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True)
class _Asked:
    """What is rendered: the layer, the units that rows are called after, each subject's own, and the axis of units."""

    layer: str
    units: list[int]
    own_units: dict[str, list[int | None]]
    widths: dict[str, int]
    axes: dict[str, int | None]

    def shown(self, name: str) -> list[int]:
        """The units of a subject; where it has none the row's own stands in, to be blanked."""
        last = self.widths[name] - 1
        pairs = zip(self.own_units[name], self.units, strict=True)
        return [min(row, last) if unit is None else unit for unit, row in pairs]


@ordinary_modes
def render_panel(
    subjects: Subjects,
    layer: str,
    units: int | Sequence[int] | None = None,
    *,
    own_units: OwnUnits | None = None,
    axis: int | None = None,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    device: torch.device | str | None = None,
    robustness: Robustness | None = None,
    progress: Callable[[int, int], None] | None = None,
    inputs: Sequence[Any] = (),
) -> Panel:
    """Render units of a layer in any number of networks, each row from one random start.

    >>> panel = render_panel({"base": base, "tuned": tuned}, "layer3.1.bn1", [17, 40])  # doctest: +SKIP
    >>> panel.save("out/layer3.png")  # doctest: +SKIP

    All subjects of a row share the unit's start and its random warps, so what differs comes from the weights and from the
    input normalization of each. A unit without a gradient at its start in some subject is started anew in all of them; where
    no start helps it is reported as dead there. The networks are left as they were.

    Args:
        subjects: networks or `Subject`s by the names of the columns, or `Subject`s with names. All take images with the same
            number of channels, and all have the layer.
        layer: a module name, or a unit spec `layer:0-7` where `units` is left out.
        units: of the layer; each is one row, and decides with the layer and the config's seed how the row starts. None with a
            bare layer name: all of them.
        own_units: for subjects that show other units than `units`: as many, in the order of the rows; None in a row where
            the subject has none to show.
        axis: of the units in the layer's output; None: 1, and the last one of tokens and of a linear layer or LayerNorm.
        config: size, steps, seed and the rest; its mean and std are for the subjects that bring none.
        device: where to render; None: where the first network is.
        robustness: the random transforms of the images, as for `render`; all subjects of a row see the same.
        progress: called with (steps done, steps to do) over all subjects.
        inputs: what every network takes after the images, as for `render`.

    Raises:
        UnitError: a layer or unit that a subject does not have. ModelError: NaN in a network.
        RenderError: no subject, two of one name, a size that a network cannot take, other numbers of channels.
        DeviceError: a device that is not there.
    """
    named = {
        name: replace(subject, model=uncompiled(subject.model)) for name, subject in named_subjects(subjects).items()
    }
    place = resolve_device(device, next(iter(named.values())).model)
    for name, subject in named.items():
        check_finite(subject.model, name)
    normalizations = {name: input_normalization(subject, config) for name, subject in named.items()}
    common_channels(named, config)
    configs = {name: replace(config, mean=own.mean, std=own.std) for name, own in normalizations.items()}
    networks = {name: FeatureExtractor(subject, (), configs[name], place, inputs) for name, subject in named.items()}
    asked = _asked(networks, layer, units, own_units or {}, axis)
    renderings, cross = _render_together(networks, asked, robustness, progress)
    panel = Panel(
        asked.layer,
        tuple(asked.units),
        renderings,
        {name: tuple(own) for name, own in asked.own_units.items()},
        cross,
        config,
        normalizations,
        {name: digest(subject.model) for name, subject in named.items()},
        robustness=robustness_in_words(robustness, config),
        axis=axis,
    )
    _warn_of_dead(panel)
    return panel


def _asked(
    subjects: Mapping[str, FeatureExtractor],
    layer: str,
    units: int | Sequence[int] | None,
    own_units: OwnUnits,
    axis: int | None,
) -> _Asked:
    """The layer and its units, all known to exist in every subject."""
    first = next(iter(subjects.values())).net
    if units is None and layer not in dict(first.named_modules(remove_duplicate=False)):
        spec = parse_units(layer)
        layer, units = spec.layer, spec.channels
    layer = resolve_layer(first, layer) or "labels"
    for name in own_units:
        if name not in subjects:
            raise UnitError(f"own_units names {name!r}, which is no subject: use {', '.join(subjects)}.")
    widths, axes = {}, {}
    for name, subject in subjects.items():
        resolved = resolve_layer(subject.net, layer)
        widths[name], axes[name] = unit_counts(subject, [resolved], axis)[resolved]
    rows = list(range(min(widths.values()))) if units is None else unit_numbers(units)
    if not rows:
        raise RenderError("there is no unit to render: name at least one.")
    own = {
        name: [None if unit is None else unit_numbers(unit)[0] for unit in own_units.get(name, rows)]
        for name in subjects
    }
    for name, asked in own.items():
        if len(asked) != len(rows):
            raise UnitError(
                f"own_units has {len(asked)} units of {name} for {len(rows)} rows: give one per row, or None."
            )
        for unit in asked:
            if unit is not None and not 0 <= unit < widths[name]:
                raise UnitError(
                    f"{layer} has no unit {unit} in {name}: its {widths[name]} units are 0 to {widths[name] - 1}."
                )
    return _Asked(layer, rows, own, widths, axes)


def _render_together(
    subjects: Mapping[str, FeatureExtractor],
    asked: _Asked,
    robustness: Robustness | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Renderings], Tensor]:
    """Renderings of every subject from shared starts, and the cross scores (unit, image of, seen by)."""
    missing = {name: torch.tensor([unit is None for unit in own]) for name, own in asked.own_units.items()}
    keys = [(asked.layer, unit) for unit in asked.units]
    extractors = {
        name: (
            subject.for_layers((asked.layer,)),
            channel(asked.layer, asked.shown(name), asked.axes[name]),
        )
        for name, subject in subjects.items()
    }
    rendered = render_together(extractors, keys, robustness, progress)
    parts = {name: _blanked(part, missing[name]) for name, part in rendered.items()}
    cross = cross_scores(extractors, parts)
    absent = torch.stack(list(missing.values()), 1)
    return parts, cross.masked_fill(absent[:, :, None] | absent[:, None, :], float("nan"))


def _blanked(part: Renderings, missing: Tensor) -> Renderings:
    """White images and scores NaN where a subject has no unit to show."""
    nan = float("nan")
    return replace(
        part,
        images=part.images.masked_fill(missing[:, None, None, None], 1.0),
        score=part.score.masked_fill(missing, nan),
        trace=part.trace.masked_fill(missing, nan),
        dead=part.dead & ~missing,
    )


def _warn_of_dead(panel: Panel) -> None:
    dead = [
        f"{format_unit(panel.layer, unit or 0)} in {name}"
        for name, part in panel.renderings.items()
        for unit, flag in zip(panel.own_units[name], part.dead.tolist(), strict=True)
        if flag
    ]
    warn_of_dead_units(dead, panel.config, stacklevel=3)
