"""The barrier on a line whose losses are known, and the ensembles against plain numpy."""

import numpy as np
import pytest
import torch
from networks import TinyCNN, seeded
from torch import nn

import featviz
from featviz.config import MergeConfig
from featviz.errors import AlignmentError

RANDOM = torch.Generator().manual_seed(0)
DATA = [(torch.randn(8 + 3 * n, 3, 8, 8, generator=RANDOM).double(), torch.arange(8 + 3 * n) % 4) for n in range(3)]


class Slope(nn.Module):
    """x -> (slope * x, 0): a loss of the first logit is a polynomial in the weight."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, x):
        return torch.cat([self.slope * x, torch.zeros_like(x)], 1)


ONES = [(torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.long))]


def test_the_barrier_of_a_parabola_is_its_height():
    def hill(logits, _):
        return (4 - logits[:, 0].square()).mean()  # slopes -2 ... 2: 0 at the ends, 4 in the middle

    curve = featviz.loss_barrier(Slope(-2.0), Slope(2.0), None, ONES, loss=hill)
    assert len(curve.weights) == MergeConfig.points == 25
    assert curve.barrier == pytest.approx(4, abs=1e-12)
    assert curve.losses == pytest.approx([4 - (4 * w - 2) ** 2 for w in curve.weights])


def test_a_barrier_rises_above_the_line_and_not_above_the_higher_end():
    def tilted(logits, _):
        return (logits[:, 0] * (2 - logits[:, 0])).mean()  # 0 at slope 0, 0.75 at 1.5, 1 at 1

    curve = featviz.loss_barrier(Slope(0.0), Slope(1.5), None, ONES, points=151, loss=tilted)
    weights = np.linspace(0, 1, 151)
    expected = (1.5 * weights * (2 - 1.5 * weights) - 0.75 * weights).max()
    assert curve.barrier == pytest.approx(expected, abs=1e-12)


def test_a_valley_has_no_barrier():
    curve = featviz.loss_barrier(Slope(-1.0), Slope(1.0), None, ONES, loss=lambda z, _: z[:, 0].square().mean())
    assert curve.barrier == 0


def test_the_barrier_of_the_accuracy_is_the_fall_below_the_line():
    """The right class is the first where slope * x > 0: from 1 to -0.5 three of four, then one, are right."""
    data = [(torch.tensor([[1.0], [1.0], [1.0], [-1.0]]).double(), torch.zeros(4, dtype=torch.long))]
    curve = featviz.loss_barrier(Slope(1.0), Slope(-0.5), None, data, points=4)
    assert curve.accuracies[0] == curve.accuracies[1] == 75
    line = [75 + w * (curve.accuracies[-1] - 75) for w in curve.weights]
    falls = [interpolated - at for interpolated, at in zip(line, curve.accuracies, strict=True)]
    assert curve.accuracy_barrier == pytest.approx(max(falls))


def plain(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model(x).numpy() for x, _ in DATA])


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_ensembles_average_logits_or_probabilities():
    a, b = seeded(TinyCNN, 0).double(), seeded(TinyCNN, 1).double()
    labels = np.concatenate([y.numpy() for _, y in DATA])
    means = {
        "logits": softmax((plain(a) + plain(b)) / 2),
        "probabilities": (softmax(plain(a)) + softmax(plain(b))) / 2,
    }
    losses = set()
    for mean, expected in means.items():
        loss, accuracy = featviz.evaluate_ensemble(a, b, DATA, mean)
        assert loss == pytest.approx(cross_entropy(expected, labels))
        assert accuracy == pytest.approx(100 * (expected.argmax(1) == labels).mean())
        losses.add(round(loss, 6))
    assert len(losses) == 2
    with pytest.raises(AlignmentError, match=r"no mean of 'votes'.*logits, probabilities"):
        featviz.evaluate_ensemble(a, b, DATA, "votes")
