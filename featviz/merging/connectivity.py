"""What averaging does to the features, layer by layer: linear connectivity of the feature maps, and the variance that is lost.

(A, B', merged, data) -> `LayerConnectivity` for every layer: cosine and norm ratio of the merged feature map to the mean of the
parents' maps (layerwise linear feature connectivity, Zhou et al. 2023, arXiv 2307.08286), and for every unit the variance in
the merged network beside the parents', beside what averaging two units of correlation c alone would leave:

    variance of (a + b) / 2  =  (va + vb + 2 c sqrt(va vb)) / 4,   (1 + c) / 2 of theirs where va = vb   (Jordan et al. 2022)

One pass over the data, in float64; no activations are kept.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featviz.data import Data, device_of
from featviz.failures import run_network
from featviz.isolation import weight_sharing_copy
from featviz.matching.unit_activations import Observer
from featviz.moments import Moments, samples_of
from featviz.subjects import Subject, as_subject, normalized_inputs
from featviz.symmetry.groups import LayerUnits

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerConnectivity:
    """Figures of one layer.

    Attributes:
        layer: its name.
        cosine: of the merged feature map with the mean of the parents' maps, averaged over images, in [-1, 1].
        norm_ratio: norm of the merged map over that of the mean map, averaged over images.
        variance_a, variance_b, variance: (unit,) of A, B' and the merged network, over images and positions.
        correlation: (unit,) of unit i of A with unit i of B', in [-1, 1].
    """

    layer: str
    cosine: float
    norm_ratio: float
    variance_a: Floats
    variance_b: Floats
    variance: Floats
    correlation: Floats

    @property
    def ratio(self) -> Floats:
        """(unit,) measured variance over the mean of the parents'; NaN where neither parent's unit varies."""
        return _over(self.variance, (self.variance_a + self.variance_b) / 2)

    @property
    def predicted(self) -> Floats:
        """(unit,) the same ratio for the mean of the parents' activations."""
        mixed = self.variance_a + self.variance_b + 2 * self.correlation * np.sqrt(self.variance_a * self.variance_b)
        return _over(mixed / 4, (self.variance_a + self.variance_b) / 2)


def layer_connectivity(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    merged: nn.Module | Subject,
    layers: Mapping[str, LayerUnits],
    data: Data,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerConnectivity]:
    """Measure layers of two parents and their merge, which are left as they were.

    Args:
        model_a, model_b: the parents, B in A's basis (`alignment.permute(model_b)`).
        merged: their merge.
        layers: name -> units, for example `alignment.groups.layers` or some of them.
        data: batches `x` or `(x, label)`, images in [0, 1]; iterated once.
        progress: called with (batches done, 0).

    Returns:
        One result per layer, in the order of `layers`.

    Raises:
        BatchError: there is no data.
        DataError: a network fails on the images.
    """
    measured = {name: _LayerSums() for name in layers}
    subjects = [as_subject(model) for model in (model_a, model_b, merged)]
    networks = [weight_sharing_copy(subject.model) for subject in subjects]
    with torch.no_grad(), ExitStack() as stack:
        seen = [stack.enter_context(Observer(network, [(name, False) for name in layers])).seen for network in networks]
        for number, inputs in enumerate(normalized_inputs(data, subjects, device_of(networks[0]))):
            for network, x in zip(networks, inputs, strict=True):
                run_network(network, x.to(device_of(network)))
            for name, units in layers.items():
                a, b, m = (found[name, False].to(inputs[0].device).double() for found in seen)
                measured[name].add(a, b, m, units.axis)
            if progress:
                progress(number + 1, 0)
    return [sums.result(name) for name, sums in measured.items()]


class _LayerSums:
    """What is summed over the batches of one layer: moments of A, B' and the merge, cosines, norm ratios."""

    def __init__(self) -> None:
        self.examples = 0
        self.cosine = self.norm_ratio = 0.0
        self.moments = Moments(paired=[(0, 1)])

    def add(self, a: Tensor, b: Tensor, m: Tensor, axis: int) -> None:
        """A batch's activations (image, ...) with units along `axis`."""
        mean, merged = ((a + b) / 2).flatten(1), m.flatten(1)
        norm, norm_merged = mean.norm(dim=1), merged.norm(dim=1)
        tiny = torch.finfo(torch.float64).tiny
        self.cosine += float(((mean * merged).sum(1) / (norm * norm_merged).clamp_min(tiny)).sum())
        self.norm_ratio += float((norm_merged / norm.clamp_min(tiny)).sum())
        self.examples += len(mean)
        self.moments.add(*(samples_of(x, axis) for x in (a, b, m)))

    def result(self, layer: str) -> LayerConnectivity:
        a, b, merged = (
            torch.where(self.moments.varies(i), self.moments.variance(i), 0.0).cpu().numpy() for i in range(3)
        )
        correlation = self.moments.correlation(0, 1).cpu().numpy()
        cosine, norm_ratio = self.cosine / self.examples, self.norm_ratio / self.examples
        return LayerConnectivity(layer, cosine, norm_ratio, a, b, merged, correlation)


def _over(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
