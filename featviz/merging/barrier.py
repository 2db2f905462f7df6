"""Loss and accuracy along the straight line from A to B', and the barrier on it.

barrier = max over the line of: loss - (the straight line between the losses of its ends)   (Frankle et al. 2020)

The barrier of the accuracy is the same with the sign turned: how far it falls below the line, in percentage points.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.config import MergeConfig
from featviz.data import Data, device_of
from featviz.errors import AlignmentError
from featviz.isolation import evaluation_mode
from featviz.matching.alignment import Alignment
from featviz.merging.average import merge


@dataclass(frozen=True)
class LossBarrier:
    """The line at `weights` (of B'): mean loss, accuracy in percent, and the barriers of both.

    `barrier` is in units of the loss, `accuracy_barrier` in percentage points. Neither is negative: both ends are on the line.
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
    """Evaluate `points` merged networks between A and B'.

    Args:
        alignment: of these two models; None follows the line to B as it is.
        data: batches (x, label), iterated `points` times.
        repair, repair_data: as `merge`; applied at the inner points.
        loss: (logits, labels) -> mean loss of the batch.

    Raises:
        AlignmentError: fewer than two points, data without labels, or data that serves only once.
    """
    if points < 2:
        raise AlignmentError(f"a line of {points} points has no barrier: use 2 or more (25 in Git Re-Basin).")
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
    rise, fall = max(_above_line(weights, losses)), -min(_above_line(weights, accuracies))
    return LossBarrier(tuple(weights), tuple(losses), tuple(accuracies), rise, fall)


def _above_line(weights: list[float], values: list[float]) -> list[float]:
    """How far every value lies above the straight line between the first and the last."""
    return [at - (1 - w) * values[0] - w * values[-1] for w, at in zip(weights, values, strict=True)]


def evaluate(
    model: nn.Module,
    data: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> tuple[float, float]:
    """Mean loss and accuracy in percent, in eval mode; the model is left as it was.

    Raises:
        AlignmentError: data without labels, or no data.
    """
    device = device_of(model)
    total, right, count = 0.0, 0, 0
    with evaluation_mode(model), torch.inference_mode():
        for batch in data:
            if isinstance(batch, Tensor) or len(batch) < 2:
                raise AlignmentError("a loss needs labels: `data` has to yield batches (x, label).")
            x, y = batch[0].to(device), batch[1].to(device)
            logits = model(x)
            total += float(loss(logits, y)) * len(x)
            right += int((logits.argmax(1) == y).sum())
            count += len(x)
    if not count:
        raise AlignmentError("there is no data to evaluate on: `data` yielded no batch (a generator serves only once).")
    return total / count, 100 * right / count
