"""What kind of unit is it? Mean, deviation, sparsity and class selectivity of every unit on natural images.

Class selectivity is that of Morcos et al. 2018 (arXiv 1803.06959), of a unit's activations behind a ReLU:

    (m - rest) / (m + rest)      m: the largest of the class means, rest: the mean of the other classes' means

0: all classes alike, 1: the unit answers to one class alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featviz.data import Data
from featviz.errors import DataError
from featviz.evidence.fates.fold_sums import Floats
from featviz.evidence.layer_names import measurable_layers
from featviz.evidence.layer_pass import LayerChunk, Progress, layer_pass
from featviz.subjects import Subject, as_subject


@dataclass(frozen=True, eq=False)
class UnitStatistics:
    """The n units of one layer, over images and positions.

    mean, deviation: (n,) of the layer's output. positive: (n,) share of the outputs above 0: what a ReLU lets through.
    selectivity: (n,) class selectivity behind a ReLU, in [0, 1]; NaN for a unit that is never above 0, and without labels.
    best_class: (n,) the class with the largest mean behind a ReLU; -1 where there is no selectivity.
    """

    layer: str
    mean: Floats
    deviation: Floats
    positive: Floats
    selectivity: Floats
    best_class: NDArray[np.int64]

    def __repr__(self) -> str:
        return f"UnitStatistics({self.layer!r}, {len(self.mean)} units)"

    def rows(self) -> list[dict[str, object]]:
        """One record per unit, ready for a table or JSON."""
        return [
            {
                "layer": self.layer,
                "unit": unit,
                "mean": round(float(self.mean[unit]), 5),
                "deviation": round(float(self.deviation[unit]), 5),
                "positive": round(float(self.positive[unit]), 5),
                "selectivity": None if np.isnan(self.selectivity[unit]) else round(float(self.selectivity[unit]), 5),
                "best class": int(self.best_class[unit]),
            }
            for unit in range(len(self.mean))
        ]


def unit_statistics(
    model: nn.Module | Subject,
    layers: str | Sequence[str] | None = None,
    *,
    data: Data,
    memory: int | None = None,
    progress: Progress = None,
) -> dict[str, UnitStatistics]:
    """Measure every unit's mean, deviation, sparsity and, where the data have labels, class selectivity.

    >>> found = unit_statistics(a, ["layer3.*"], data=loader)  # doctest: +SKIP
    >>> found["layer3.1.bn1"].selectivity[17]  # doctest: +SKIP

    Args:
        model: the network, left as it is.
        layers: module names or patterns; None: all norms, or all layers with weights.
        data: batches `x` or `(x, label)` of images in [0, 1].
        memory: MiB of layer outputs that may be held at once; None: 256 on a CPU.
        progress: called with (images done, 0).

    Returns:
        Layer -> `UnitStatistics`, in the order of the network.

    Raises:
        UnitError: a layer that the network does not have. DataError: no data, or labels on some batches alone.
    """
    subject = as_subject(model, "the network")
    chosen = measurable_layers(subject.model, layers, {})
    sums = {layer: _Sums() for layer in chosen}
    layer_pass(
        {"": subject}, chosen, data, lambda chunk: sums[chunk.layer].add(chunk), memory=memory, progress=progress
    )
    return {layer: sums[layer].result(layer) for layer in chosen}


class _Sums:
    """Sums over images of a layer's figures, in float64."""

    def __init__(self) -> None:
        self._images = 0
        self._firsts: list[Tensor] = []  # per unit: sums of the map's mean, mean square, share above 0
        self._classes: dict[int, tuple[int, Tensor]] = {}  # label -> images, sum of the map's mean behind a ReLU
        self._labelled = 0

    def add(self, chunk: LayerChunk) -> None:
        (values,) = chunk.values.values()  # fold, unit, row, position
        parts = [
            x.mean(-1, dtype=torch.float64).sum((0, 2)).cpu() for x in (values, values.square(), (values > 0).float())
        ]
        self._firsts = [old + new for old, new in zip(self._firsts, parts, strict=True)] if self._firsts else parts
        self._images += chunk.images
        if chunk.labels is None:
            return
        self._labelled += chunk.images
        rectified = values.clamp_min(0).mean(-1, dtype=torch.float64).permute(0, 2, 1).flatten(0, 1).cpu()
        labels = chunk.labels.flatten().cpu()
        for label in labels.unique().tolist():
            count, total = self._classes.get(label, (0, torch.zeros(rectified.shape[1], dtype=torch.float64)))
            of_class = labels == label
            self._classes[label] = count + int(of_class.sum()), total + rectified[of_class].sum(0)

    def result(self, layer: str) -> UnitStatistics:
        mean, square, positive = (total.numpy() / self._images for total in self._firsts)
        selectivity, best = np.full(len(mean), np.nan), np.full(len(mean), -1)
        if self._labelled and self._labelled != self._images:
            raise DataError("only some batches have labels: give (x, label) in all batches, or in none.")
        if len(self._classes) > 1:
            labels = np.array(sorted(self._classes))
            means = np.stack([total.numpy() / count for count, total in (self._classes[label] for label in labels)])
            largest = means.max(0)
            rest = (means.sum(0) - largest) / (len(labels) - 1)
            on = largest > 0
            selectivity[on] = (largest - rest)[on] / (largest + rest)[on]
            best[on] = labels[means.argmax(0)][on]
        return UnitStatistics(layer, mean, np.sqrt(np.maximum(square - mean**2, 0)), positive, selectivity, best)
