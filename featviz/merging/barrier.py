"""Loss and accuracy of the networks between A and B', and the barrier between them (Frankle et al. 2020):

    barrier = max over w of  loss(merge at w) - ((1 - w) * loss(A) + w * loss(B'))

The barrier of the accuracy has the opposite sign: how far it falls below that average, in percentage points.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.config import MergeConfig
from featviz.data import Data, device_of, labelled_batches
from featviz.errors import AlignmentError
from featviz.isolation import weight_sharing_copy
from featviz.matching.alignment import Alignment
from featviz.merging.merge import merge


@dataclass(frozen=True)
class LossBarrier:
    """What `loss_barrier` measured.

    Attributes:
        weights: of B', from 0 to 1, evenly spaced.
        losses, accuracies: mean loss and accuracy in percent at every weight.
        barrier: in units of the loss, 0 or more.
        accuracy_barrier: in percentage points, 0 or more.
    """

    weights: tuple[float, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    barrier: float
    accuracy_barrier: float


def loss_barrier(
    model_a: nn.Module,
    model_b: nn.Module,
    alignment: Alignment | None,
    data: Iterable[tuple[Tensor, Tensor]],
    points: int = MergeConfig.points,
    repair: str = "none",
    repair_data: Data | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    progress: Callable[[int, int], None] | None = None,
) -> LossBarrier:
    """Evaluate `points` merged networks between A and B', both included.

    Args:
        model_a, model_b: the parents; left as they were.
        alignment: of these two networks; None merges with B as it is.
        data: batches (x, label); iterated `points` times.
        points: evenly spaced weights of B', from 0 to 1; 2 or more.
        repair, repair_data: as `repair` and `data` of `merge`; done between the ends.
        loss: (logits, labels) -> mean loss of the batch.
        progress: called with (points done, points).

    Raises:
        AlignmentError: fewer than two points, data without labels, or data that can be iterated only once.
    """
    points = MergeConfig(points=points).points
    if iter(data) is data:
        raise AlignmentError("data is a generator, which serves only once: give a list or a DataLoader.")
    weights = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    losses, accuracies = [], []
    for number, weight in enumerate(weights):
        model = merge(model_a, model_b, alignment, weight, repair, repair_data)
        mean, accuracy = evaluate(model, data, loss)
        losses.append(mean)
        accuracies.append(accuracy)
        if progress:
            progress(number + 1, points)
    rise, fall = max(_above_average(weights, losses)), -min(_above_average(weights, accuracies))
    return LossBarrier(tuple(weights), tuple(losses), tuple(accuracies), rise, fall)


def _above_average(weights: list[float], values: list[float]) -> list[float]:
    """How far every value lies above the weighted average of the first and the last."""
    return [at - (1 - w) * values[0] - w * values[-1] for w, at in zip(weights, values, strict=True)]


def evaluate(
    model: nn.Module,
    data: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> tuple[float, float]:
    """Mean loss and accuracy in percent, in evaluation mode; the network is left as it was.

    Args:
        model: images -> logits (batch, classes).
        data: batches (x, label); iterated once.
        loss: (logits, labels) -> mean loss of the batch.

    Raises:
        BatchError: data without labels, or no data.
    """
    network = weight_sharing_copy(model)
    total, right, count = 0.0, 0, 0
    with torch.inference_mode():
        for x, labels in labelled_batches(data, device_of(model)):
            logits = network(x)
            total += float(loss(logits, labels)) * len(x)
            right += int((logits.argmax(1) == labels).sum())
            count += len(x)
    return total / count, 100 * right / count
