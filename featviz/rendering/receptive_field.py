"""The receptive field of a unit, measured from the network itself, and the canvas that holds just that.

(open trunk, layer, position) -> the pixels that the position's activations hang on, by the gradient with respect to what
the network is fed. Rendering a neuron on that canvas costs a fraction of the whole image, and gives the unit the same
activation: `at_receptive_field` tries it on a random image, and refuses where it does not hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.errors import FeatvizError, RenderError
from featviz.rendering.network.feature_extractor import Trunk
from featviz.rendering.objectives import Neuron

MORE = 192  # pixels: a multiple of all common strides
PROBES = 8  # random images: a maximum passes its gradient to one of its inputs, a ReLU that is off to none


@dataclass(frozen=True)
class Field:
    """Rows `top` to `bottom` and columns `left` to `right` of what the network is fed, in pixels; the ends are not included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left


def receptive_field(trunk: Trunk, layer: str, position: tuple[int, int]) -> Field:
    """The smallest box of pixels outside of which nothing changes the layer's activations at (row, column).

    Args:
        trunk: open, with this layer; it is fed images of `trunk.config.input_hw`.

    Raises:
        RenderError: no pixel changes them (a layer of constants, or one that is off on random images).
    """
    images = _noise(trunk, PROBES).requires_grad_()
    activation = trunk(images, precise=True)[layer]
    places = activation[(slice(None), slice(None), *position)]
    (gradient,) = torch.autograd.grad(places.abs().sum(), images)
    touched = gradient.abs().amax((0, 1)) > 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    if not len(rows):
        raise RenderError(f"no pixel changes {layer} at {position}: take a layer before a ReLU, or canvas='full'.")
    return Field(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def at_receptive_field(trunk: Trunk, objective: Neuron, config: RenderConfig) -> tuple[Neuron, RenderConfig]:
    """The same neurons and configuration on a canvas that holds the receptive field alone.

    The canvas begins at a multiple of the layer's stride, so that every map within keeps its grid.

    Args:
        trunk: open, with the objective's layer, fed images of `config.size`.

    Returns:
        The objective at its place on the smaller canvas, and the configuration of that size.

    Raises:
        RenderError: an `input_size`, an output without two dimensions of space, or a network whose units change when the
            image is cut (padding that wraps, statistics of the whole image, attention).
    """
    if config.input_size is not None:
        raise RenderError("canvas='receptive_field' renders in the network's own pixels: leave out input_size.")
    layer, size = objective.layer, config.image_hw
    with torch.no_grad():
        shape = trunk(_noise(trunk, 1), precise=True)[layer].shape
    if len(shape) != 4 or objective.axis not in (None, 1):
        raise RenderError(f"{layer} gives {tuple(shape)}, no maps: a receptive field needs (image, unit, row, column).")
    place = objective.place(shape[2:])
    row, column = place[0], place[1]
    field = receptive_field(trunk, layer, (row, column))
    stride = _stride(trunk, layer, shape[2:])
    # begin at a whole number of steps, as many to the left of the unit as there are
    before = [
        min(index, max(0, start // step))
        for index, start, step in zip((row, column), (field.top, field.left), stride, strict=True)
    ]
    top, left = (count * step for count, step in zip(before, stride, strict=True))
    small = (field.bottom - top, field.right - left)
    moved = objective.moved((row - before[0], column - before[1]))
    if small == size:
        return objective, config
    _try(trunk, objective, moved, (top, left), small)
    return moved, replace(config, size=small)


def _stride(trunk: Trunk, layer: str, maps: Sequence[int]) -> list[int]:
    """Pixels from one position to the next, by rows and by columns: what a larger image has more of them."""
    h, w = trunk.config.input_hw
    larger = torch.full((1, trunk.channels, h + MORE, w + MORE), 0.5, device=trunk.device, dtype=trunk.dtype)
    with torch.no_grad():
        try:
            shape = trunk(larger, precise=True)[layer].shape
        except RenderError as error:
            raise _refusal(layer) from error
    return [max(1, round(MORE / max(1, more - count))) for more, count in zip(shape[2:], maps, strict=True)]


def _try(trunk: Trunk, whole: Neuron, cut: Neuron, corner: tuple[int, int], size: tuple[int, int]) -> None:
    """Make sure that the neurons see no difference between a random image and its part."""
    image = _noise(trunk, 1)
    part = image[..., corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]].contiguous()
    with torch.no_grad():
        try:
            here = [
                neuron.select([number]).score(trunk(x, precise=True).__getitem__)
                for neuron, x in ((whole, image), (cut, part))
                for number in range(len(whole.units))
            ]
        except (FeatvizError, IndexError) as error:
            raise _refusal(whole.layer) from error
    values = torch.cat(here).view(2, -1)
    if not torch.allclose(values[0], values[1], rtol=1e-3, atol=1e-4 * float(values.abs().max())):
        raise _refusal(whole.layer)


def _refusal(layer: str) -> RenderError:
    return RenderError(f"units of {layer} change when the image is cut to their receptive field: use canvas='full'.")


def _noise(trunk: Trunk, count: int) -> Tensor:
    """The same random images (count, c, h, w) in [0, 1] every time."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, trunk.channels, *trunk.config.input_hw, generator=generator, dtype=torch.float64)
    return noise.to(trunk.device, trunk.dtype)
