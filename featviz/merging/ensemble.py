"""Networks that a merge is compared with: an ensemble of its parents, and an average of their activations."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.data import device_of
from featviz.errors import AlignmentError
from featviz.isolation import weight_sharing_copy
from featviz.matching.unit_activations import Observer
from featviz.merging.average import remember_average_normalization
from featviz.merging.barrier import measure_logits
from featviz.subjects import Subject, as_subject

MEANS = ("logits", "probabilities")


class Ensemble(nn.Module):
    """The mean of two networks' outputs: costs twice as much as a merge, and is usually more accurate.

    Args:
        model_a, model_b: images -> logits (batch, classes).
        mean: of "logits" (a geometric mean of the probabilities), or of "probabilities", as deep ensembles do
            (Lakshminarayanan et al. 2017); then the output is the logarithm of the mean.
    """

    def __init__(self, model_a: nn.Module, model_b: nn.Module, mean: str = "logits") -> None:
        super().__init__()
        if mean not in MEANS:
            raise AlignmentError(f"an ensemble has no mean of {mean!r}: use one of {', '.join(MEANS)}.")
        self.model_a, self.model_b, self.mean_of = model_a, model_b, mean
        remember_average_normalization(self, [as_subject(model_a)], [1.0])

    def forward(self, x: Tensor, x_b: Tensor | None = None) -> Tensor:
        """`x_b`: the images as B is fed them, where that differs from A."""
        both = torch.stack([self.model_a(x), self.model_b(x if x_b is None else x_b)])
        return both.mean(0) if self.mean_of == "logits" else both.log_softmax(-1).logsumexp(0) - math.log(2)


def evaluate_ensemble(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    data: Iterable[tuple[Tensor, Tensor]],
    mean: str = "logits",
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in percent of the `Ensemble`; the networks are left as they were.

    Args:
        model_a, model_b: images -> logits (batch, classes).
        data: batches (x, label), x in [0, 1]; iterated once.
        mean: of "logits" or "probabilities".

    Raises:
        AlignmentError: data without labels, no data, or another mean.
        DataError: as `evaluate`.
    """
    a, b = (weight_sharing_copy(as_subject(model).model) for model in (model_a, model_b))
    ensemble = Ensemble(a, b, mean)
    return measure_logits([model_a, model_b], ensemble, data, F.cross_entropy, device_of(ensemble))


class FeatureAverage(nn.Module):
    """Network A, with the output of one layer replaced by the mean of both networks' outputs there (layerwise linear feature
    connectivity, Zhou et al. 2023): a merge of the layers up to there that averages features instead of weights.

    Args:
        model_a: goes on after the layer.
        model_b: in A's basis.
        layer: name of a module. Where it is called several times, the first call's output is replaced.
    """

    def __init__(self, model_a: nn.Module, model_b: nn.Module, layer: str) -> None:
        super().__init__()
        self.model_a, self.model_b, self.layer = model_a, model_b, layer
        remember_average_normalization(self, [as_subject(model_a)], [1.0])

    def forward(self, x: Tensor) -> Tensor:
        with Observer(self.model_b, [(self.layer, False)]) as observer:
            self.model_b(x)
            output_b = observer.seen[self.layer, False]
        calls = 0

        def mix(_: nn.Module, args: object, output: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return torch.lerp(output, output_b, 0.5) if calls == 1 else output

        handle = self.model_a.get_submodule(self.layer).register_forward_hook(mix)
        try:
            return self.model_a(x)
        finally:
            handle.remove()
