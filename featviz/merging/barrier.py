"""Loss and accuracy of the networks between A and B', and the barrier between them (Frankle et al. 2020):

    barrier = max over w of  loss(merge at w) - ((1 - w) * loss(A) + w * loss(B'))

The barrier of the accuracy has the opposite sign: how far it falls below that average, in percentage points.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.config import MergeConfig
from featviz.data import Data, device_of, labelled_batches
from featviz.errors import AlignmentError, DataError, summary
from featviz.failures import machine_failed, run_network
from featviz.isolation import weight_sharing_copy
from featviz.matching.alignment import Alignment
from featviz.merging.merge import merge
from featviz.subjects import Subject, as_subject, normalized_inputs


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
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    alignment: Alignment | None,
    data: Iterable[tuple[Tensor, Tensor]],
    points: int = MergeConfig.points,
    repair: str = "none",
    repair_data: Data | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    progress: Callable[[int, int], None] | None = None,
    head: str | None = None,
) -> LossBarrier:
    """Evaluate `points` merged networks between A and B', both included.

    Args:
        model_a, model_b: the parents; left as they were.
        alignment: of these two networks; None merges with B as it is.
        data: batches (x, label), x in [0, 1]; iterated `points` times.
        points: evenly spaced weights of B', from 0 to 1; 2 or more.
        repair, repair_data: as `repair` and `data` of `merge`; done between the ends.
        loss: (logits, labels) -> mean loss of the batch.
        progress: called with (points done, points).
        head: where the networks differ, whose parts are evaluated: "a" or "b".

    Raises:
        AlignmentError: fewer than two points, data without labels, or data that can be iterated only once.
        DataError: as `evaluate`.
    """
    points = MergeConfig(points=points).points
    if head == "both":
        raise AlignmentError("a barrier has one loss, and head='both' two outputs: use head='a' or 'b'.")
    if iter(data) is data:
        raise AlignmentError("data is a generator, which serves only once: give a list or a DataLoader.")
    weights = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    losses, accuracies = [], []
    for number, weight in enumerate(weights):
        model = merge(model_a, model_b, alignment, weight, repair, repair_data, head=head)
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
    model: nn.Module | Subject,
    data: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> tuple[float, float]:
    """Mean loss and accuracy in percent, in evaluation mode; the network is left as it was.

    Args:
        model: images -> logits (batch, classes).
        data: batches (x, label), x in [0, 1]; iterated once.
        loss: (logits, labels) -> mean loss of the batch.

    Raises:
        BatchError: data without labels, or no data.
        DataError: the network fails on the images, or the loss on the labels, as of more classes than it has.
    """
    network = weight_sharing_copy(as_subject(model).model)
    return measure_logits([model], network, data, loss, device_of(network))


def measure_logits(
    subjects: Sequence[nn.Module | Subject],
    network: nn.Module,
    data: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> tuple[float, float]:
    """Mean loss and accuracy in percent of a network that takes the images as each of the subjects is fed them."""
    total, right, count = 0.0, 0, 0
    labels = Tensor()

    def images() -> Iterator[Tensor]:
        nonlocal labels
        for x, labels in labelled_batches(data, device):  # noqa: B007 (read outside, batch by batch)
            yield x

    with torch.inference_mode():
        for inputs in normalized_inputs(images(), subjects, device):
            logits = run_network(network, *inputs)
            if not isinstance(logits, Tensor):
                raise DataError(
                    f"the network gives a {type(logits).__name__} and not one tensor (batch, classes): evaluate a network of "
                    "one output, such as each of the two of head='both'."
                )
            total += _loss_of(loss, logits, labels) * len(labels)
            right += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    return total / count, 100 * right / count


def _loss_of(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> float:
    try:
        return float(loss(logits, labels))
    except Exception as error:
        if machine_failed(error):
            raise
        raise DataError(
            f"the loss fails on outputs {tuple(logits.shape)} and labels from {labels.min()} to {labels.max()} "
            f"({summary(error)}): give labels of the classes that the network has."
        ) from error
