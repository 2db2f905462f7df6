"""A rule for an operator of one's own: registered from outside, used, and proved."""

import pytest
import torch
from networks import random_permutations, relative_difference, seeded
from torch import Tensor, nn

from featviz.errors import ModelError
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import permute_module
from featviz.symmetry.rules import Call, elementwise, register
from featviz.symmetry.rules.registry import RULES
from featviz.symmetry.unit_tracer import UnitTracer, axes_of


@torch.library.custom_op("featviz_tests::swish", mutates_args=())
def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


@torch.library.custom_op("featviz_tests::maxout", mutates_args=())
def maxout(x: Tensor) -> Tensor:
    """The larger of channel i and channel n + i."""
    one, other = x.chunk(2, 1)
    return torch.maximum(one, other)


def maxout_rule(tracer: UnitTracer, call: Call) -> None:
    found = []
    for ids in tracer.ids_of(call["x"]):
        if 1 in axes_of(ids):
            ids, others = ids.chunk(2, 1)
            tracer.same_unit(ids, others)
        found.append(ids)
    tracer.set_ids(call.out, found)


class Uses(nn.Module):
    def __init__(self, operator) -> None:
        super().__init__()
        self.halves = operator is maxout
        width = 4 if self.halves else 8
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(width, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two((maxout if self.halves else swish)(self.one(x)))


@pytest.fixture
def _rules_of_before():
    before = dict(RULES)
    yield
    for operator in set(RULES) - set(before):
        del RULES[operator]
    for operator, function in before.items():
        register(operator, function)


@pytest.mark.usefixtures("_rules_of_before")
@pytest.mark.parametrize(
    ("operator", "given", "function", "free"),
    [
        (swish, "featviz_tests::swish", elementwise, 8),
        (maxout, torch.ops.featviz_tests.maxout, maxout_rule, 4),
        (maxout, torch.ops.featviz_tests.maxout.default, maxout_rule, 4),
        (maxout, maxout, maxout_rule, 4),
    ],
)
def test_a_registered_rule_frees_the_units_of_a_custom_operator(operator, given, function, free):
    model, x = seeded(lambda: Uses(operator)), torch.rand(1, 3, 8, 8)
    before = permutation_groups(model, x)
    assert before.free_units == 0
    assert before.unknown
    register(given, function)
    groups = permutation_groups(model, x, verify=False)
    assert groups.free_units == free
    assert not groups.unknown
    permuted = permute_module(model, groups, random_permutations(groups, 1))
    assert relative_difference(model, permuted, x) < 1e-10


@pytest.mark.usefixtures("_rules_of_before")
def test_a_wrong_rule_is_found_by_the_proof():
    register(
        maxout, lambda tracer, call: tracer.set_ids(call.out, [i.chunk(2, 1)[0] for i in tracer.ids_of(call["x"])])
    )
    groups = permutation_groups(seeded(lambda: Uses(maxout)), torch.rand(1, 3, 8, 8))
    assert groups.free_units == 0
    assert any("verification" in pin.reason for pin in groups.pinned)


@pytest.mark.parametrize("name", ["featviz_tests::missing", "swish", "nowhere::swish"])
def test_an_operator_that_is_not_loaded_is_one_sentence(name):
    with pytest.raises(ModelError, match=f"no operator '{name}'"):
        register(name, elementwise)
