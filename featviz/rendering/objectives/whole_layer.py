"""Objectives of a layer as a whole: `deepdream` (whatever it detects, more of it) and `diversity` among images."""

from torch import Tensor
from torch.nn import functional as F

from featviz.rendering.objectives.base import Activations, Objective, at_least_float32, flat_maps, spatial_mean


class DeepDream(Objective):
    """See `deepdream`."""

    def __init__(self, layer: str) -> None:
        self.layer, self.layers = layer, (layer,)

    def score(self, T: Activations) -> Tensor:
        return spatial_mean(at_least_float32(T(self.layer)) ** 2)


def deepdream(layer: str) -> Objective:
    """The mean of the squares of all activations of the layer (Mordvintsev et al. 2015, "DeepDream")."""
    return DeepDream(layer)


class Diversity(Objective):
    """See `diversity`."""

    coupled = True

    def __init__(self, layer: str, axis: int | None) -> None:
        self.layer, self.layers, self.axis = layer, (layer,), axis

    def score(self, T: Activations) -> Tensor:
        maps = flat_maps(T(self.layer), self.axis)
        grams = F.normalize((maps @ maps.mT).flatten(1), dim=1)
        cosines = grams @ grams.T
        return -(cosines.sum(1) - cosines.diagonal()) / len(maps)


def diversity(layer: str, axis: int | None = None) -> Objective:
    """How different the images of a batch are: minus the cosine similarities of the layer's Gram matrices (Olah et al. 2017).

    The score of image i is -sum over j != i of cos(gram_i, gram_j), divided by the number of images. The scores add up to
    minus Lucid's `diversity`, so this one is *added* where Lucid's is subtracted: `channel("layer3", [17] * 4) + 10 *
    diversity("layer2")` gives four different images of unit 17.

    Args:
        layer: the name of a module.
        axis: where the units lie in the layer's output; None: the last axis of tokens (image, n, c), else axis 1.
    """
    return Diversity(layer, axis)
