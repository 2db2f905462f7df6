"""Normalised weights, recurrent networks, random functions, infinite buffers, free outputs: exact, or one true sentence."""

import copy
import logging
import warnings

import pytest
import torch
from networks import random_permutations, relative_difference, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from featviz.errors import ModelError
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import layer_permutation, permute_module

X = torch.rand(1, 3, 8, 8)


def exact(model: nn.Module, x: Tensor, *others: Tensor, verify: bool = False):
    """The groups, of which three random permutations change nothing, on this input nor on others."""
    groups = permutation_groups(model, x, verify=verify)
    assert not groups.unknown
    for seed in range(3):
        permuted = permute_module(model, groups, random_permutations(groups, seed))
        for given in (x, *others):
            assert relative_difference(model, permuted, given) < 1e-10
    return groups


class Normalised(nn.Module):
    """Three layers whose weights are computed from others."""

    def __init__(self, wrap, groups: int = 1) -> None:
        super().__init__()
        self.one, self.two = wrap(nn.Conv2d(3, 6, 3)), wrap(nn.Conv2d(6, 8, 3, groups=groups))
        self.fc = wrap(nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.two(F.relu(self.one(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    "wrap",
    [nn.utils.weight_norm, parametrizations.weight_norm, nn.utils.spectral_norm, parametrizations.spectral_norm,
     lambda layer: parametrizations.weight_norm(layer, dim=1), lambda layer: parametrizations.weight_norm(layer, dim=None)],
    ids=["weight_norm", "new weight_norm", "spectral_norm", "new spectral_norm", "over the inputs", "over all"],
)  # fmt: skip
def test_units_of_normalised_weights_may_be_permuted(wrap):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old functions are deprecated, and in use
        model, grouped = seeded(lambda: Normalised(wrap)), seeded(lambda: Normalised(wrap, 2))
    groups = exact(model, X)
    assert groups.sizes == {"one": 6, "two": 8}
    exact(grouped, X)
    assert not any("parametrizations" in name for name in [*groups.layers, *groups.sizes])


class Recurrent(nn.Module):
    def __init__(self, kind, **options) -> None:
        super().__init__()
        width = options.get("proj_size") or 8
        self.embed, self.rnn = nn.Linear(5, 6), kind(6, 8, batch_first=True, **options)
        self.fc = nn.Linear(width * (1 + self.rnn.bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        y, last = self.rnn(F.relu(self.embed(x)))
        cell = last[1] if isinstance(last, tuple) else last
        return self.fc(y[:, -1]) + y.mean() + cell.square().sum()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2, "bias": False}, {"proj_size": 4}])
def test_a_recurrent_network_is_exact_on_sequences_of_any_length(kind, options):
    if "proj_size" in options and kind is not nn.LSTM:
        return
    model = seeded(lambda: Recurrent(kind, **options))
    for length in (1, 4):
        groups = exact(model, torch.rand(1, length, 5), torch.rand(2, 7, 5))
        layers = options.get("num_layers", 1) * (1 + model.rnn.bidirectional)
        assert groups.free_units == 6 + layers * 8 + options.get("proj_size", 0)


class Cells(nn.Module):
    def __init__(self, kind) -> None:
        super().__init__()
        self.first, self.cell, self.fc = nn.Parameter(torch.rand(8)), kind(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = self.first.expand(len(x), 8)
        state = (state, torch.zeros_like(state)) if isinstance(self.cell, nn.LSTMCell) else state
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.fc(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_recurrent_cells_are_exact(kind):
    for length in (1, 3):
        groups = exact(seeded(lambda: Cells(kind)), torch.rand(1, length, 5), torch.rand(2, 4, 5))
        assert groups.free_units == 8


def test_a_fixed_first_state_holds_the_units_of_a_recurrent_network():
    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x, torch.arange(8.0).to(x)[None, None])[0][:, -1])

    groups = exact(seeded(Started), torch.rand(1, 3, 5))
    assert groups.free_units == 0


class Random(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.conv, self.fc, self.p = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), p

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(self.conv(x), self.p, training=True).mean((2, 3)))


def test_a_network_whose_function_is_random_is_refused_by_name():
    with pytest.raises(ModelError, match=r"something else each time it runs \(aten\..*dropout|bernoulli"):
        permutation_groups(seeded(lambda: Random(0.5)), X)
    assert permutation_groups(seeded(lambda: Random(0.0)), X).sizes == {"conv": 6}


def test_randomness_that_no_operator_shows_is_refused():
    class Hidden(Random):
        def forward(self, x: Tensor) -> Tensor:
            import random

            return self.fc(self.conv(x)[:, random.sample(range(6), 6)].mean((2, 3)))

    with pytest.raises(ModelError, match="something else each time it runs"):
        permutation_groups(seeded(lambda: Hidden(0.0)), X)


def test_a_network_of_which_no_unit_may_move_says_so(caplog):
    with caplog.at_level(logging.WARNING, "featviz"):
        permutation_groups(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4))), X)
    assert "no unit of this network may be permuted" in caplog.text
    assert "the network's output" in caplog.text
    caplog.clear()
    permutation_groups(seeded(lambda: Random(0.0)), X)
    assert not caplog.text


class Bounded(nn.Module):
    """Bounds of quantisation that are infinite, one per channel, and a causal mask of -inf before a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.fc = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 6), nn.Linear(6, 4)
        self.register_buffer("low", torch.full((6, 1, 1), -torch.inf))
        self.register_buffer("high", torch.full((6, 1, 1), torch.inf))
        self.register_buffer("mask", torch.full((16, 16), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.minimum(torch.maximum(self.conv(x), self.low), self.high).flatten(2).mT
        scores = x @ x.mT + self.mask
        return self.fc(F.relu(self.out(scores.softmax(-1) @ x)).mean(1))


def test_infinite_buffers_are_no_fault():
    model = seeded(Bounded)
    groups = exact(model, X, verify=True)
    assert groups.sizes == {"conv": 6, "out": 6}
    permuted = permute_module(model, groups, random_permutations(groups, 1))
    assert not any(tensor.isnan().any() for tensor in permuted.state_dict().values())


def test_infinities_of_the_output_are_compared_by_their_places():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(F.relu(self.one(x))).masked_fill(torch.arange(5) > 2, -torch.inf)

    assert permutation_groups(seeded(Masked), torch.rand(1, 4)).sizes == {"one": 6}


def part() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())


@pytest.mark.parametrize("end", [nn.Identity, nn.Flatten], ids=["a map", "flattened"])
def test_outputs_that_are_free_are_permuted_with_their_layer(end):
    model = seeded(lambda: nn.Sequential(part(), end()))
    pinned = permutation_groups(model, X)
    assert pinned.sizes == {"0.0": 6}
    groups = permutation_groups(model, X, free_outputs=True)
    assert groups.sizes == {"0.0": 6, "0.3": 8}
    perms = random_permutations(groups, 1)
    permuted = permute_module(model, groups, perms)
    (units,) = groups.outputs
    assert units is not None
    order = layer_permutation(units, groups.groups, perms)
    with torch.no_grad():
        one, other = (copy.deepcopy(m).double()(X.double()) for m in (model, permuted))
    assert not torch.equal(one, other)
    assert (one[:, order] - other).abs().max() < 1e-12


def test_a_layer_that_is_fixed_because_it_is_an_output_says_so():
    groups = permutation_groups(seeded(part), X)
    assert groups.layers["3"].reason == groups.layers["4"].reason == "the network's output"
    assert groups.layers["0"].reason == ""
    assert ("3.weight", "the network's output") in [(pin.parameter, pin.reason) for pin in groups.pinned]


def test_an_output_whose_units_are_not_along_one_axis_stays_pinned():
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.mean((2, 3))).unflatten(1, (3, 4))

    groups = permutation_groups(seeded(Rows), X, free_outputs=True)
    assert groups.free_units == 0
