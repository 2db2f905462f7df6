"""What averaging does to the features, layer by layer: linear connectivity of the feature maps, and the variance that is lost.

(A, B', merged, data) -> `LayerConnectivity` for every layer: cosine and norm ratio of the merged feature map to the mean of the
parents' maps (layerwise linear feature connectivity, Zhou et al. 2023, arXiv 2307.08286), and for every unit the variance in
the merged network beside the parents', beside what averaging two units of correlation c alone would leave:

    variance of (a + b) / 2  =  (va + vb + 2 c sqrt(va vb)) / 4,   (1 + c) / 2 of theirs where va = vb   (Jordan et al. 2022)

One pass over the data, sums in float64, nothing kept of it.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featviz.data import Data, device_of, inputs_of
from featviz.errors import AlignmentError
from featviz.matching.activations import Observer
from featviz.symmetry.groups import LayerUnits

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerConnectivity:
    """One layer's figures.

    cosine: of the merged map with the parents' mean map, mean over examples, in [-1, 1]. norm_ratio: of their norms, mean over
    examples. variance_a, variance_b, variance: (unit,) of A, B' and the merged network, over examples and positions.
    correlation: (unit,) of A's and B's (in A's basis) unit at the same place.
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
    model_a: nn.Module,
    model_b: nn.Module,
    merged: nn.Module,
    layers: Mapping[str, LayerUnits],
    data: Data,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerConnectivity]:
    """Measure layers of two parents and their merge; the networks come back as they were.

    Args:
        model_a, model_b: the parents, B in A's basis (`alignment.permute(model_b)`).
        layers: name -> units, for example `alignment.groups.layers` or some of them.
        data: batches `x` or `(x, label)`.

    Raises:
        AlignmentError: there is no data.
    """
    sums = {name: _Sums() for name in layers}
    subjects = (model_a, model_b, merged)
    batches = 0
    with torch.no_grad(), ExitStack() as stack:
        seen = [stack.enter_context(Observer(model, [(name, False) for name in layers])).seen for model in subjects]
        for x in inputs_of(data, device_of(model_a)):
            for model in subjects:
                model(x.to(device_of(model)))
            for name, units in layers.items():
                a, b, m = (found[name, False].to(x.device).double() for found in seen)
                sums[name].add(a, b, m, units.axis)
            batches += 1
            if progress:
                progress(batches, 0)
    if not batches:
        raise AlignmentError("there is no data to measure on: `data` yielded no batch (a generator serves only once).")
    return [total.result(name) for name, total in sums.items()]


class _Sums:
    """Streaming sums of one layer, shifted by the first batch's means of each network."""

    def __init__(self) -> None:
        self.examples = self.samples = 0
        self.cosine = self.norm_ratio = 0.0
        self.shifts: list[Tensor] = []
        self.first: list[Tensor] = []  # sums of a, b, m (unit,)
        self.second: list[Tensor] = []  # of a*a, b*b, m*m, a*b (unit,)

    def add(self, a: Tensor, b: Tensor, m: Tensor, axis: int) -> None:
        mean = ((a + b) / 2).flatten(1)
        flat = m.flatten(1)
        norms = mean.norm(dim=1), flat.norm(dim=1)
        tiny = torch.finfo(torch.float64).tiny
        self.cosine += float(((mean * flat).sum(1) / (norms[0] * norms[1]).clamp_min(tiny)).sum())
        self.norm_ratio += float((norms[1] / norms[0].clamp_min(tiny)).sum())
        self.examples += len(mean)
        rows = [x.movedim(axis, 0).flatten(1) for x in (a, b, m)]
        if not self.shifts:
            self.shifts = [row.mean(1, keepdim=True) for row in rows]
        rows = [row - shift for row, shift in zip(rows, self.shifts, strict=True)]
        first = [row.sum(1) for row in rows]
        second = [*(row.square().sum(1) for row in rows), (rows[0] * rows[1]).sum(1)]
        self.first = _added(self.first, first)
        self.second = _added(self.second, second)
        self.samples += rows[0].shape[1]

    def result(self, layer: str) -> LayerConnectivity:
        means = [total / self.samples for total in self.first]
        moments = [total / self.samples for total in self.second]
        va, vb, vm = (
            (square - mean.square()).clamp_min(0).cpu().numpy() for square, mean in zip(moments[:3], means, strict=True)
        )
        covariance = (moments[3] - means[0] * means[1]).cpu().numpy()
        deviations = np.sqrt(va * vb)
        alive = deviations > 1e-12 * max(float(deviations.max(initial=0)), 1e-300)
        correlation = np.where(alive, covariance / np.where(alive, deviations, 1), 0).clip(-1, 1)
        cosine, ratio = (total / self.examples for total in (self.cosine, self.norm_ratio))
        return LayerConnectivity(layer, cosine, ratio, va, vb, vm, correlation)


def _added(old: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    return new if not old else [total + more for total, more in zip(old, new, strict=True)]


def _over(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
