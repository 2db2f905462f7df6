"""The objective of a direction in a layer's activation space, for combinations of units."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from featviz.errors import UnitError
from featviz.rendering.objectives.base import Activations, Objective, flat_maps

SMALLEST_COSINE = 0.1  # of Lucid: below it the score does not fall, so that a start opposite to the direction can leave


class Direction(Objective):
    """One direction per image, or one for all; see `direction`."""

    def __init__(self, layer: str, vectors: Tensor, cosine_power: float, axis: int | None) -> None:
        self.layer, self.layers = layer, (layer,)
        self.vectors, self.cosine_power, self.axis = vectors, cosine_power, axis
        self.images = len(vectors) if vectors.ndim == 2 else None
        self._moved = vectors  # the same where the activations are and in their type, so that no step copies them there

    def score(self, T: Activations) -> Tensor:
        maps = flat_maps(T(self.layer), self.axis)
        if self.vectors.shape[-1] != maps.shape[1]:
            raise UnitError(
                f"the direction has {self.vectors.shape[-1]} entries, {self.layer} has {maps.shape[1]} units."
            )
        if self._moved.dtype != maps.dtype or self._moved.device != maps.device:
            self._moved = self.vectors.to(maps)
        unit_vectors = F.normalize(self._moved, dim=-1).expand(len(maps), -1)
        dot = torch.einsum("bc,bcp->bp", unit_vectors, maps)
        if self.cosine_power:
            cosine = dot / maps.norm(dim=1).clamp(min=1e-8)
            dot = dot * cosine.clamp(min=SMALLEST_COSINE) ** self.cosine_power
        return dot.mean(1)

    def select(self, index: Sequence[int]) -> Objective:
        if self.images is None:
            return self
        return Direction(self.layer, self.vectors[list(index)], self.cosine_power, self.axis)


def direction(layer: str, vector: Tensor, cosine_power: float = 0.0, axis: int | None = None) -> Objective:
    """The activation along a direction of the layer's units, mean over space.

    At every position the activation a scores (a . v / |v|) * max(0.1, cos(a, v))**cosine_power (Lucid's `_dot_cossim`).

    Args:
        layer: the name of a module.
        vector: (c,) for all images, or (image, c) for one each.
        cosine_power: 0 is the projection on v; 1 or 2 also ask for activations that point along v.
        axis: where the units lie in the layer's output; None: the last axis of tokens (image, n, c), else axis 1.

    Raises:
        UnitError: (when rendered) the layer does not have `c` units.
    """
    return Direction(layer, vector.detach(), cosine_power, axis)
