"""Objectives of single units: `channel` (everywhere in the image), `neuron` (at one position), `logit` (a class)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from featviz.errors import RenderError, UnitError
from featviz.rendering.objectives.base import Activations, Objective, at_least_float32, spatial_mean, units_first


class Unit(Objective):
    """One unit per image: its map (image, ...) becomes a score (image,) by `reduce`."""

    def __init__(
        self, layer: str, units: Sequence[int], reduce: Callable[[Tensor], Tensor], axis: int | None = None
    ) -> None:
        self.layer, self.layers = layer, (layer,)
        self.units, self.reduce, self.axis = tuple(int(u) for u in units), reduce, axis
        self.images = len(self.units)
        self.image_units = tuple((layer, unit) for unit in self.units)
        self._index: Tensor | None = None  # the units as a tensor on the device, so that no step copies them there

    def score(self, T: Activations) -> Tensor:
        maps = units_first(T(self.layer), self.axis)
        self._check(maps.shape)
        if self._index is None or self._index.device != maps.device:
            self._index = torch.tensor(self.units, device=maps.device)
        images = torch.arange(maps.shape[0], device=maps.device)
        return self.reduce(at_least_float32(maps[images, self._index]))

    def select(self, index: Sequence[int]) -> Objective:
        return Unit(self.layer, [self.units[i] for i in index], self.reduce, self.axis)

    def _check(self, shape: torch.Size) -> None:
        if shape[0] != len(self.units):
            raise RenderError(f"the objective names {len(self.units)} units for {shape[0]} images: give one each.")
        for unit in self.units:
            if not 0 <= unit < shape[1]:
                raise UnitError(f"{self.layer} has no unit {unit}: its units are 0 to {shape[1] - 1}.")


def channel(layer: str, units: Sequence[int] | int, axis: int | None = None) -> Objective:
    """Image i excites `units[i]` everywhere: the score is the mean of the unit's map (Olah et al. 2017, "channel").

    Args:
        layer: the name of a module.
        units: numbers of units, one per image.
        axis: where the units lie in the layer's output; None: the last axis of tokens (image, n, c), else axis 1.

    Raises:
        UnitError: (when rendered) the layer does not have the unit.
    """
    return Unit(layer, _as_sequence(units), spatial_mean, axis)


class Neuron(Unit):
    """One unit per image at one position of its map; see `neuron`."""

    def __init__(
        self, layer: str, units: Sequence[int], position: tuple[int, ...] | None = None, axis: int | None = None
    ) -> None:
        super().__init__(layer, units, self._at_position, axis)
        self.position = position

    def position_in(self, space: Sequence[int]) -> tuple[int, ...]:
        """The position in maps of the size `space`: the given one, else the centre.

        Raises:
            UnitError: the maps do not have the position.
        """
        position = tuple(n // 2 for n in space) if self.position is None else self.position
        if len(position) != len(space) or any(not 0 <= p < n for p, n in zip(position, space, strict=True)):
            sides = " x ".join(map(str, space)) or "single numbers"
            raise UnitError(f"{self.layer} has no position {position}: its maps are {sides}.")
        return position

    def with_position(self, position: tuple[int, ...]) -> "Neuron":
        """The same units at another position."""
        return Neuron(self.layer, self.units, position, self.axis)

    def select(self, index: Sequence[int]) -> "Neuron":
        return Neuron(self.layer, [self.units[i] for i in index], self.position, self.axis)

    def _at_position(self, maps: Tensor) -> Tensor:
        return maps[(slice(None), *self.position_in(maps.shape[1:]))]


def neuron(
    layer: str, units: Sequence[int] | int, position: tuple[int, ...] | None = None, axis: int | None = None
) -> Neuron:
    """Image i excites `units[i]` at one position of its map (Olah et al. 2017, "neuron").

    With `render(..., canvas="receptive_field")` the images show no more than such a unit sees.

    Args:
        layer: the name of a module.
        units: numbers of units, one per image.
        position: (row, column) of maps, (token,) of tokens; None: the centre, size // 2.
        axis: as for `channel`.

    Raises:
        UnitError: (when rendered) the layer does not have the unit or the position.
    """
    return Neuron(layer, _as_sequence(units), position, axis)


def logit(units: Sequence[int] | int, layer: str = "labels") -> Objective:
    """Image i excites the class `units[i]`.

    Args:
        units: numbers of classes, one per image.
        layer: "labels" is the network's own output, whatever its last layer is called.

    Raises:
        UnitError: (when rendered) the output does not have the class.
    """
    return channel(layer, units, axis=1)


def _as_sequence(units: Sequence[int] | int) -> Sequence[int]:
    return (units,) if isinstance(units, int) else units
