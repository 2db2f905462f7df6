"""Where is a feature in another network? For every unit of one network, the unit of each other that is most like it.

(network, others, layers, data) -> for every unit and every other network: the largest correlation with one of its units, whose
it is, and the correlation with the unit of the same number

Correlations are over images and positions. The largest of many is above 0 by chance alone: compare networks of equal widths, or
with a network that cannot have the feature (fresh weights, the unaligned average). That units of independently trained networks
have near partners is convergent learning (Li et al. 2015, arXiv 1511.07543).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featviz.data import Data
from featviz.errors import DataError, ModelError
from featviz.evidence.fates.fold_sums import Floats
from featviz.evidence.layer_names import measurable_layers
from featviz.evidence.layer_pass import LayerChunk, Progress, layer_pass
from featviz.moments import Moments
from featviz.subjects import Subject, as_subject


@dataclass(frozen=True, eq=False)
class NearestUnits:
    """For the n units of one layer of a network, what is most like each of them in the layer of another network.

    correlation: (n,) the largest with a unit of the other network; 0 for a unit that does not vary. unit: (n,) whose it is.
    own: (n,) the correlation with the other network's unit of the same number; NaN where it has fewer units.
    """

    layer: str
    other: str
    correlation: Floats
    unit: NDArray[np.int64]
    own: Floats

    def __repr__(self) -> str:
        return f"NearestUnits({self.layer!r} in {self.other!r}, {len(self.unit)} units)"

    def rows(self) -> list[dict[str, object]]:
        """One record per unit, ready for a table or JSON."""
        columns = zip(self.correlation, self.unit, self.own, strict=True)
        return [
            {
                "layer": self.layer,
                "unit": number,
                "in": self.other,
                "nearest": int(unit),
                "correlation": round(float(best), 5),
                "own": None if np.isnan(own) else round(float(own), 5),
            }
            for number, (best, unit, own) in enumerate(columns)
        ]


def nearest_units(
    model: nn.Module | Subject,
    others: Mapping[str, nn.Module | Subject],
    layers: str | Sequence[str] | None = None,
    *,
    data: Data,
    memory: int | None = None,
    progress: Progress = None,
) -> dict[str, dict[str, NearestUnits]]:
    """Find for every unit of a network the most similar unit of the same layer in other networks, whatever its number is.

    It needs no alignment, and takes methods that combine units as well as those that permute them.

    >>> found = nearest_units(a, {"merged": merged, "B": b}, ["layer3.1.bn1"], data=loader)  # doctest: +SKIP
    >>> found["merged"]["layer3.1.bn1"].correlation[17]  # doctest: +SKIP

    Args:
        model: the network whose units are looked for.
        others: networks by name, of any widths; they are measured in the same pass.
        layers: module names or patterns, which all networks have; None: all norms, or all layers with weights.
        data: batches `x` or `(x, label)` of images in [0, 1]; 1,000 images or more.
        memory: MiB of layer outputs that may be held at once; None: 256 on a CPU.
        progress: called with (images done, 0).

    Returns:
        Name of the other network -> layer -> `NearestUnits`.

    Raises:
        DataError: no other network, or no data. UnitError: a network lacks a layer. ModelError: an activation is not finite.
    """
    if not others:
        raise DataError("there is no other network to look in: give at least one by its name.")
    first = as_subject(model, "the network")
    subjects = {"": first} | {name: as_subject(other, name) for name, other in others.items()}
    if len(subjects) == len(others):
        raise DataError("a network has an empty name: give every other network a name.")
    chosen = measurable_layers(first.model, layers, {})
    pairs = [(0, number) for number in range(1, len(subjects))]
    moments = {layer: Moments(crossed=pairs, dtype=_precision(first.model)) for layer in chosen}

    def take(chunk: LayerChunk) -> None:
        moments[chunk.layer].add(*(values.flatten(2).transpose(0, 1).flatten(1).mT for values in chunk.values.values()))

    layer_pass(subjects, chosen, data, take, memory=memory, progress=progress)
    found: dict[str, dict[str, NearestUnits]] = {name: {} for name in others}
    for layer in chosen:
        sums = moments.pop(layer)
        for number, name in enumerate(others, start=1):
            found[name][layer] = _nearest(layer, name, sums.correlation(0, number).cpu().numpy())
    return found


def _nearest(layer: str, other: str, correlations: Floats) -> NearestUnits:
    if not np.isfinite(correlations).all():
        raise ModelError(
            f"an activation of {layer} is not finite in one of the networks: check the weights and the data for NaN."
        )
    units, width = correlations.shape
    own = np.full(units, np.nan)
    shared = min(units, width)
    own[:shared] = np.diagonal(correlations)[:shared]
    return NearestUnits(layer, other, correlations.max(1), correlations.argmax(1), own)


def _precision(model: nn.Module) -> torch.dtype:
    """In which products are summed: the network's own precision, at least float32."""
    parameter = next(model.parameters(), None)
    return torch.float64 if parameter is not None and parameter.dtype == torch.float64 else torch.float32
