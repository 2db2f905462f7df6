"""The receptive field of a unit, measured with the network itself, and rendering a neuron on just that part of an image.

(extractor, layer, position) -> the pixels that the activations at the position depend on, by their gradient with respect to
the network's input. Rendering a neuron on an image of that size costs a fraction of the whole image, and the unit has the
same activation there: `at_receptive_field` checks that on a random image, and raises an error where it is not so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.errors import FeatvizError, RenderError
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Neuron

ENLARGEMENT = 192  # pixels added to an image to measure the stride: a multiple of all common strides
RANDOM_IMAGES = (
    8  # a maximum passes its gradient to one of its inputs, a ReLU that is off to none: one image is not enough
)


@dataclass(frozen=True)
class ReceptiveField:
    """Rows `top` to `bottom` and columns `left` to `right` of the network's input, in pixels, without the last ones."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.bottom - self.top, self.right - self.left


def receptive_field(extractor: FeatureExtractor, layer: str, position: tuple[int, int]) -> ReceptiveField:
    """The smallest box of pixels outside of which nothing changes the layer's activations at (row, column).

    Args:
        extractor: with this layer; the images have `extractor.config.input_hw` pixels.

    Raises:
        RenderError: no pixel changes them (a layer of constants, or one that is off on random images).
    """
    found = receptive_fields(extractor, layer, [position])
    if not found:
        raise RenderError(f"no pixel changes {layer} at {position}: take a layer before a ReLU, or canvas='full'.")
    return found[position]


def receptive_fields(
    extractor: FeatureExtractor, layer: str, positions: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], ReceptiveField]:
    """`receptive_field` of several positions, from one forward pass; those that no pixel changes are left out."""
    images = _random_images(extractor, RANDOM_IMAGES).requires_grad_()
    activation = extractor(images, precise=True)[layer]
    fields = {}
    for position in positions:
        at_position = activation[(slice(None), slice(None), *position)]
        (gradient,) = torch.autograd.grad(at_position.abs().sum(), images, retain_graph=True)
        nonzero = gradient.abs().amax((0, 1)) > 0
        rows, columns = nonzero.any(1).nonzero().flatten(), nonzero.any(0).nonzero().flatten()
        if len(rows):
            fields[position] = ReceptiveField(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    return fields


def at_receptive_field(extractor: FeatureExtractor, objective: Neuron) -> tuple[Neuron, RenderConfig]:
    """The same neurons, and a configuration whose image holds their receptive field alone.

    The smaller image begins at a multiple of the layer's stride, so that every map within it keeps its positions.

    Args:
        extractor: with the objective's layer, for images of `config.size`.

    Returns:
        The objective at its position in the smaller image, and the configuration of that size.

    Raises:
        RenderError: an `input_size`, an output without two dimensions of space, or a network whose units change when the
            image is cut (padding that wraps, statistics of the whole image, attention).
    """
    config = extractor.config
    if config.input_size is not None:
        raise RenderError("canvas='receptive_field' renders in the network's own pixels: leave out input_size.")
    layer, size = objective.layer, config.image_hw
    with torch.no_grad():
        shape = extractor(_random_images(extractor, 1), precise=True)[layer].shape
    if len(shape) != 4 or objective.axis not in (None, 1):
        raise RenderError(f"{layer} gives {tuple(shape)}, no maps: a receptive field needs (image, unit, row, column).")
    row, column = objective.position_in(shape[2:])[:2]
    field = receptive_field(extractor, layer, (row, column))
    stride = _stride(extractor, layer, shape[2:])
    # positions of the map to cut off above and to the left: whole strides, and no more than lie before the unit
    cut_off = [
        min(index, max(0, start // step))
        for index, start, step in zip((row, column), (field.top, field.left), stride, strict=True)
    ]
    top, left = (count * step for count, step in zip(cut_off, stride, strict=True))
    small = (field.bottom - top, field.right - left)
    if small == size:
        return objective, config
    moved = objective.with_position((row - cut_off[0], column - cut_off[1]))
    _check_same_activation(extractor, objective, moved, (top, left), small)
    return moved, replace(config, size=small)


def _stride(extractor: FeatureExtractor, layer: str, map_size: Sequence[int]) -> list[int]:
    """Pixels between neighboring positions of the map, by rows and by columns: what an enlarged image has more of them."""
    h, w = extractor.config.input_hw
    larger = torch.full(
        (1, extractor.channels, h + ENLARGEMENT, w + ENLARGEMENT), 0.5, device=extractor.device, dtype=extractor.dtype
    )
    with torch.no_grad():
        try:
            shape = extractor(larger, precise=True)[layer].shape
        except RenderError as error:
            raise _changes_when_cut(layer) from error
    return [
        max(1, round(ENLARGEMENT / max(1, after - before))) for after, before in zip(shape[2:], map_size, strict=True)
    ]


def _check_same_activation(
    extractor: FeatureExtractor, whole: Neuron, cut: Neuron, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """Make sure that the neurons have the same activation for a random image and for its part.

    Raises:
        RenderError: they have not.
    """
    image = _random_images(extractor, 1)
    part = image[..., corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]].contiguous()
    with torch.no_grad():
        try:
            scores = [
                neuron.select([number]).score(extractor(x, precise=True).__getitem__)
                for neuron, x in ((whole, image), (cut, part))
                for number in range(len(whole.units))
            ]
        except (FeatvizError, IndexError) as error:
            raise _changes_when_cut(whole.layer) from error
    values = torch.cat(scores).view(2, -1)
    if not torch.allclose(values[0], values[1], rtol=1e-3, atol=1e-4 * float(values.abs().max())):
        raise _changes_when_cut(whole.layer)


def _changes_when_cut(layer: str) -> RenderError:
    return RenderError(f"units of {layer} change when the image is cut to their receptive field: use canvas='full'.")


def _random_images(extractor: FeatureExtractor, count: int) -> Tensor:
    """Random images (count, c, h, w) in [0, 1], the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, extractor.channels, *extractor.config.input_hw, generator=generator, dtype=torch.float64)
    return images.to(extractor.device, extractor.dtype)
