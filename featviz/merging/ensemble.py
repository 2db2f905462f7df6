"""What a merge is measured against besides its parents: both of them asked at once."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from featviz.errors import AlignmentError
from featviz.matching.activations import Observer
from featviz.merging.barrier import evaluate

MEANS = ("logits", "probabilities")


class Ensemble(nn.Module):
    """Logits of both networks together: twice the work of a merge, and usually the ceiling of one.

    Args:
        mean: of "logits" (a geometric mean of the probabilities), or of "probabilities", whose logarithm is given, as deep
            ensembles do (Lakshminarayanan et al. 2017).
    """

    def __init__(self, model_a: nn.Module, model_b: nn.Module, mean: str = "logits") -> None:
        super().__init__()
        if mean not in MEANS:
            raise AlignmentError(f"an ensemble has no mean of {mean!r}: use one of {', '.join(MEANS)}.")
        self.model_a, self.model_b, self.mean = model_a, model_b, mean

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([self.model_a(x), self.model_b(x)])
        return both.mean(0) if self.mean == "logits" else both.log_softmax(-1).logsumexp(0) - math.log(2)


def evaluate_ensemble(
    model_a: nn.Module, model_b: nn.Module, data: Iterable[tuple[Tensor, Tensor]], mean: str = "logits"
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in percent of the `Ensemble`; the networks are left as they were.

    Raises:
        AlignmentError: data without labels, no data, or a mean of something else.
    """
    return evaluate(Ensemble(model_a, model_b, mean), data)


class FeatureAverage(nn.Module):
    """Network A continued from the mean of both networks' activations at one layer (layerwise linear feature connectivity,
    Zhou et al. 2023): what a merge of the layers up to there could reach if it averaged features, not weights.

    Args:
        model_b: in A's basis.
    """

    def __init__(self, model_a: nn.Module, model_b: nn.Module, layer: str) -> None:
        super().__init__()
        self.model_a, self.model_b, self.layer = model_a, model_b, layer

    def forward(self, x: Tensor) -> Tensor:
        with Observer(self.model_b, [(self.layer, False)]) as observer:
            self.model_b(x)
            theirs = observer.seen[self.layer, False]
        calls = 0

        def mix(_: nn.Module, args: object, output: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return torch.lerp(output, theirs, 0.5) if calls == 1 else output  # the first call, as everywhere

        handle = self.model_a.get_submodule(self.layer).register_forward_hook(mix)
        try:
            return self.model_a(x)
        finally:
            handle.remove()
