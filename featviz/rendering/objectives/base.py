"""The base of all objectives: T(layer) -> activation becomes a score per image, to be maximized.

Activations are (image, c, h, w) of a convolution, (image, c) of a linear layer, or tokens (image, n, c); units lie on axis 1,
those of tokens on the last axis. To write an objective, subclass `Objective`:

    import featviz

    class Contrast(featviz.Objective):
        "The variance of a layer's activations over space, mean over its units."

        def __init__(self, layer):
            self.layer, self.layers = layer, (layer,)

        def score(self, T):
            return T(self.layer).float().var((2, 3)).mean(1)

    featviz.render(model, featviz.channel("layer3", 17) + 0.1 * Contrast("layer2"))

A function of T that gives one loss, as lucid and lucent have them, needs no class: see `featviz.from_callable`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from featviz.errors import RenderError, UnitError

Activations = Callable[[str], Tensor]
"""Lucid's T: the name of a layer -> its activation; "input" gives the images, "labels" the output of the network."""


class Objective:
    """A score per image, to be maximized. Objectives are added, subtracted and multiplied by numbers.

    A subclass gives `score`, and what of these is not the default:

    layers: names of the layers that `score` asks for; None where only a run can tell.
    images: how many images it is for; None for any number.
    coupled: whether the score of an image depends on other images; then all images are rendered in one batch.
    image_units: (layer, unit) per image, which seed its start; None: the images are numbered instead.
    """

    layers: tuple[str, ...] | None = ()
    images: int | None = None
    coupled: bool = False
    image_units: tuple[tuple[str, int], ...] | None = None

    def score(self, T: Activations) -> Tensor:
        """The score of each image (image,), differentiable, in float32, or float64 where the network is."""
        raise NotImplementedError

    def select(self, index: Sequence[int]) -> "Objective":
        """The objective of the images at `index`, in that order; itself where all images have the same objective."""
        del index
        return self

    def __add__(self, other: "Objective | float") -> "Objective":
        if isinstance(other, Objective):
            return Combination(((1.0, self), (1.0, other)))
        return Combination(((1.0, self),), float(other))

    __radd__ = __add__

    def __mul__(self, factor: float) -> "Objective":
        if not isinstance(factor, (int, float)):
            raise TypeError(f"an objective is multiplied by a number, not by {type(factor).__name__}")
        return Combination(((float(factor), self),))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Objective":
        return self * (1 / divisor)

    def __neg__(self) -> "Objective":
        return self * -1

    def __sub__(self, other: "Objective | float") -> "Objective":
        return self + (-other)

    def __rsub__(self, other: float) -> "Objective":
        return -self + other


class Combination(Objective):
    """A weighted sum of objectives and a constant: the result of `+`, `-`, `*` and `/`."""

    def __init__(self, terms: Sequence[tuple[float, Objective]], constant: float = 0.0) -> None:
        self.terms, self.constant = tuple(terms), constant
        parts = [part for _, part in self.terms]
        counts = {part.images for part in parts} - {None}
        if len(counts) > 1:
            raise RenderError(
                f"objectives for {sorted(map(str, counts))} images cannot be added: give them as many units."
            )
        names = [name for part in parts for name in part.layers or ()]
        self.layers = None if any(part.layers is None for part in parts) else tuple(dict.fromkeys(names))
        self.images = counts.pop() if counts else None
        self.coupled = any(part.coupled for part in parts)
        self.image_units = next((part.image_units for part in parts if part.image_units is not None), None)

    def score(self, T: Activations) -> Tensor:
        (weight, first), *rest = self.terms
        total = first.score(T) * weight + self.constant
        for weight, part in rest:
            total = total + part.score(T) * weight
        return total

    def select(self, index: Sequence[int]) -> Objective:
        return Combination([(weight, part.select(index)) for weight, part in self.terms], self.constant)


def units_first(activation: Tensor, axis: int | None = None) -> Tensor:
    """The activation with its units on axis 1: (image, c, ...); tokens (image, n, c) become (image, c, n).

    Args:
        axis: where the units lie; None: the last axis of tokens, else axis 1.

    Raises:
        UnitError: the activation has fewer than two axes.
    """
    if activation.ndim < 2:
        raise UnitError(f"an output of shape {tuple(activation.shape)} has no units: take a layer before it.")
    return activation.movedim((2 if activation.ndim == 3 else 1) if axis is None else axis, 1)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def flat_maps(activation: Tensor, axis: int | None) -> Tensor:
    """The activation as (image, c, position), with one position where the layer has no space; `axis` as in `units_first`."""
    maps = at_least_float32(units_first(activation, axis))
    return maps.reshape(*maps.shape[:2], -1)


def spatial_mean(maps: Tensor) -> Tensor:
    """The mean over all axes but the first: (image, ...) -> (image,)."""
    return maps.reshape(maps.shape[0], -1).mean(1)
