"""Objectives: T(layer) -> activation becomes a score per image, to be maximised.

Build one with `channel`, `neuron`, `direction`, `logit`, `deepdream`, `diversity`, add and scale them (`a +
0.1 * b`), or give any lucid or lucent objective as it is (`from_callable`). Activations are (image, c, h, w)
of a convolution, (image, c) of a linear layer, or tokens (image, n, c); the axis of the units is 1, and the
last one for tokens, unless `axis` says otherwise. Scores are in float32, in float64 where the network is.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.errors import RenderError, UnitError

Activations = Callable[[str], Tensor]
"""T of lucid: the name of a layer -> its activation; "input" is the image, "labels" the network's own
output.
"""


class Objective:
    """A score per image, to be maximised.

    layers: the layers it looks at, None where only a run can tell (`from_callable`).
    images: how many images it prescribes, None for any number.
    coupled: whether the score of an image depends on the other images of its batch; such a batch is never
        split.
    image_units: the (layer, unit) that each image is for, which decides its draw; None where there is none.
    """

    layers: tuple[str, ...] | None = ()
    images: int | None = None
    coupled: bool = False
    image_units: tuple[tuple[str, int], ...] | None = None

    def score(self, T: Activations) -> Tensor:
        """The score of each image, (image,)."""
        raise NotImplementedError

    def select(self, index: Sequence[int]) -> "Objective":
        """The objective of some of its images, in the order of `index`."""
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
    """A weighted sum of objectives plus a constant; what `+`, `-`, `*` and `/` make."""

    def __init__(self, terms: Sequence[tuple[float, Objective]], constant: float = 0.0) -> None:
        self.terms, self.constant = tuple(terms), constant
        parts = [part for _, part in self.terms]
        counts = {part.images for part in parts} - {None}
        if len(counts) > 1:
            raise RenderError(
                f"objectives for {sorted(map(str, counts))} images cannot be added: give them as many units."
            )
        named = [name for part in parts for name in part.layers or ()]
        self.layers = None if any(part.layers is None for part in parts) else tuple(dict.fromkeys(named))
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


class Unit(Objective):
    """One unit per image: its mean over space, or its value at one position."""

    def __init__(
        self, layer: str, units: Sequence[int], reduce: Callable[[Tensor], Tensor], axis: int | None = None
    ) -> None:
        self.layer, self.layers = layer, (layer,)
        self.units, self.reduce, self.axis = tuple(int(u) for u in units), reduce, axis
        self.images = len(self.units)
        self.image_units = tuple((layer, unit) for unit in self.units)
        self._index: Tensor | None = None  # kept on the device, so that no step copies to it

    def score(self, T: Activations) -> Tensor:
        maps = units_first(T(self.layer), self.axis)
        self._check(maps.shape)
        if self._index is None or self._index.device != maps.device:
            self._index = torch.tensor(self.units, device=maps.device)
        rows = torch.arange(maps.shape[0], device=maps.device)
        return self.reduce(_precise(maps[rows, self._index]))

    def select(self, index: Sequence[int]) -> Objective:
        return Unit(self.layer, [self.units[i] for i in index], self.reduce, self.axis)

    def _check(self, shape: torch.Size) -> None:
        if shape[0] != len(self.units):
            raise RenderError(f"the objective names {len(self.units)} units for {shape[0]} images: give one each.")
        for unit in self.units:
            if not 0 <= unit < shape[1]:
                raise UnitError(f"{self.layer} has no unit {unit}: its units are 0 to {shape[1] - 1}.")


def units_first(activation: Tensor, axis: int | None = None) -> Tensor:
    """The activation with its unit axis second: (image, c, ...). Tokens (image, n, c) become (image, c,
    n).
    """
    if activation.ndim < 2:
        raise UnitError(f"an output of shape {tuple(activation.shape)} has no units: take a layer before it.")
    return activation.movedim((2 if activation.ndim == 3 else 1) if axis is None else axis, 1)


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _flat_maps(activation: Tensor, axis: int | None) -> Tensor:
    """(image, c, position), with one position where the layer has no space."""
    maps = _precise(units_first(activation, axis))
    return maps.reshape(*maps.shape[:2], -1)


def _spatial_mean(maps: Tensor) -> Tensor:
    return maps.reshape(maps.shape[0], -1).mean(1)


def channel(layer: str, units: Sequence[int] | int, axis: int | None = None) -> Objective:
    """Image i excites `units[i]` everywhere: the mean of the unit's map (Olah et al. 2017, "channel")."""
    return Unit(layer, _many(units), _spatial_mean, axis)


class Neuron(Unit):
    """See `neuron`."""

    def __init__(
        self, layer: str, units: Sequence[int], position: tuple[int, ...] | None = None, axis: int | None = None
    ) -> None:
        super().__init__(layer, units, self._at, axis)
        self.position = position

    def place(self, space: Sequence[int]) -> tuple[int, ...]:
        """The position in maps of this size; the centre where none was given.

        Raises:
            UnitError: the maps do not have it.
        """
        place = tuple(n // 2 for n in space) if self.position is None else self.position
        if len(place) != len(space) or any(not 0 <= p < n for p, n in zip(place, space, strict=True)):
            sides = " x ".join(map(str, space)) or "single numbers"
            raise UnitError(f"{self.layer} has no position {place}: its maps are {sides}.")
        return place

    def moved(self, position: tuple[int, ...]) -> "Neuron":
        """The same units at another position."""
        return Neuron(self.layer, self.units, position, self.axis)

    def select(self, index: Sequence[int]) -> "Neuron":
        return Neuron(self.layer, [self.units[i] for i in index], self.position, self.axis)

    def _at(self, maps: Tensor) -> Tensor:
        return maps[(slice(None), *self.place(maps.shape[1:]))]


def neuron(
    layer: str, units: Sequence[int] | int, position: tuple[int, ...] | None = None, axis: int | None = None
) -> Neuron:
    """Image i excites `units[i]` at one position: (row, column), or (token,); None is the centre, size //
    2. `render(..., canvas="receptive_field")` draws no more of the image than such a unit sees.
    """
    return Neuron(layer, _many(units), position, axis)


def logit(units: Sequence[int] | int, layer: str = "labels") -> Objective:
    """Image i excites class `units[i]`; "labels" is the network's own output, whatever its last layer is
    called.
    """
    return channel(layer, units, axis=1)


def _many(units: Sequence[int] | int) -> Sequence[int]:
    return (units,) if isinstance(units, int) else units


class Direction(Objective):
    """See `direction`."""

    def __init__(self, layer: str, vectors: Tensor, cosine_power: float, axis: int | None) -> None:
        self.layer, self.layers = layer, (layer,)
        self.vectors, self.cosine_power, self.axis = vectors, cosine_power, axis
        self.images = len(vectors) if vectors.ndim == 2 else None

    def score(self, T: Activations) -> Tensor:
        maps = _flat_maps(T(self.layer), self.axis)
        if self.vectors.shape[-1] != maps.shape[1]:
            raise UnitError(
                f"the direction has {self.vectors.shape[-1]} entries, {self.layer} has {maps.shape[1]} units."
            )
        self.vectors = self.vectors.to(maps)
        along = F.normalize(self.vectors, dim=-1).expand(len(maps), -1)
        dot = torch.einsum("bc,bcp->bp", along, maps)
        if self.cosine_power:
            cosine = dot / maps.norm(dim=1).clamp(min=1e-8)
            dot = dot * cosine.clamp(min=0.1) ** self.cosine_power  # Lucid's floor: a way out for a bad start
        return dot.mean(1)

    def select(self, index: Sequence[int]) -> Objective:
        if self.images is None:
            return self
        return Direction(self.layer, self.vectors[list(index)], self.cosine_power, self.axis)


def direction(layer: str, vector: Tensor, cosine_power: float = 0.0, axis: int | None = None) -> Objective:
    """The activation along a direction of the layer's units, mean over space.

    dot(a, v / |v|) times max(0.1, cosine(a, v))**cosine_power at every position (Lucid's `_dot_cossim`).
    Power 0 is the plain projection; 1 or 2 insist on the direction itself.

    Args:
        vector: (c,) for all images or (image, c), one for each.
    """
    return Direction(layer, vector.detach(), cosine_power, axis)


class DeepDream(Objective):
    """See `deepdream`."""

    def __init__(self, layer: str) -> None:
        self.layer, self.layers = layer, (layer,)

    def score(self, T: Activations) -> Tensor:
        return _spatial_mean(_precise(T(self.layer)) ** 2)


def deepdream(layer: str) -> Objective:
    """The mean of the squares of all activations of the layer (Mordvintsev et al. 2015)."""
    return DeepDream(layer)


class Diversity(Objective):
    """See `diversity`."""

    coupled = True

    def __init__(self, layer: str, axis: int | None) -> None:
        self.layer, self.layers, self.axis = layer, (layer,), axis

    def score(self, T: Activations) -> Tensor:
        maps = _flat_maps(T(self.layer), self.axis)
        grams = F.normalize((maps @ maps.mT).flatten(1), dim=1)
        alike = grams @ grams.T
        return -(alike.sum(1) - alike.diagonal()) / len(maps)


def diversity(layer: str, axis: int | None = None) -> Objective:
    """Variety among the images of a batch: minus the cosine similarities of the layer's Gram matrices.

    Score of image i: -sum over j != i of cos(gram_i, gram_j), over the number of images; the sum of the
        scores is
    minus Lucid's `diversity`, so it is *added* (`channel(...) + 10 * diversity(...)`) where Lucid subtracts
    it.
    """
    return Diversity(layer, axis)


class CallableObjective(Objective):
    """See `from_callable`."""

    layers = None
    coupled = True

    def __init__(self, loss: Callable[[Activations], Tensor]) -> None:
        self.loss = loss

    def score(self, T: Activations) -> Tensor:
        loss = self.loss(T)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise RenderError(
                f"the objective gave {shape}: a lucid-style callable on T(layer) gives one loss to minimise."
            )
        return -_precise(loss).reshape(1).expand(T("input").shape[0])


def from_callable(loss: Callable[[Activations], Tensor]) -> Objective:
    """A lucid or lucent objective as it is: a callable on `T(layer) -> activation` giving a loss to be
    *minimised*.

    lucent's own `Objective` objects and plain functions both serve. Layer names may be written as lucent does
    (`layer4_1_conv2`). Which layers it asks for is found out by running it once (`recorded_layers`). Every
    image of the batch gets the score -loss, since the callable does not tell them apart.
    """
    return CallableObjective(loss)


def as_objective(what: "Objective | Callable[[Activations], Tensor]") -> Objective:
    """An objective as it is, a callable by `from_callable`.

    Raises:
        RenderError: neither.
    """
    if isinstance(what, Objective):
        return what
    if callable(what):
        return from_callable(what)
    raise RenderError(f"{what!r} is no objective: give 'layer:channel', an Objective or a callable.")
