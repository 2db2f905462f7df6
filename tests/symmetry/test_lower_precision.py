"""A network that computes a part in float32, as attention that casts its queries, is proved in float64 all the same."""

import logging

import pytest
import torch
from networks import seeded
from torch import nn

from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.rules.elementwise import elementwise
from featviz.symmetry.rules.registry import RULES, register, rule_of

X = torch.rand(1, 3, generator=torch.Generator().manual_seed(0))


class Casting(nn.Module):
    """Its second layer sums over 64 units in float32.

    Args:
        between: what it does to the 64 sums.
    """

    def __init__(self, between=lambda x: x) -> None:
        super().__init__()
        self.between = between
        self.first, self.second, self.last = nn.Linear(3, 64), nn.Linear(64, 64), nn.Linear(64, 2)

    def forward(self, x):
        x = self.first(x)
        low = nn.functional.linear(x.float(), self.second.weight.float())
        return self.last(self.between(low).to(x.dtype))


TABLE = torch.rand(64, 64, generator=torch.Generator().manual_seed(1))  # no buffer: a network's `double()` leaves it


def times_table(x):
    return torch.cat([x, torch.ones(1, 64)]) @ TABLE


def attention_with_a_mask(x):
    """Over 4 tokens of 16; the mask, too, is of float32 whatever the network is."""
    x = x.view(1, 4, 16)
    return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=TABLE[:4, :4]).flatten(1)


def times_a_table_filled_in_parts(x):
    """Positions, written into views of a tensor of float32."""
    table = torch.zeros(64)
    table[:32] = torch.arange(32)
    table.view(2, 32)[1] = torch.arange(32) + 7
    return x * table


KEPT = torch.zeros(1, 64)


def written_into_what_it_keeps(x):
    return KEPT.zero_().addmm_(x, TABLE)


CASES = [(lambda x: x, 128), (times_table, 64), (attention_with_a_mask, 64), (times_a_table_filled_in_parts, 64)]


@pytest.mark.parametrize(("between", "free"), CASES)
def test_rounding_to_float32_refuses_no_group(between, free):
    """The sums before a table that is no parameter stay at their places; the units that they sum over may move."""
    groups = permutation_groups(seeded(lambda: Casting(between)), X)
    assert groups.free_units == free
    assert not any("verification" in pin.reason for pin in groups.pinned)


def test_a_wrong_rule_is_refused_in_a_lower_precision():
    """A rule says that a cumulative sum does not depend on the order of its units."""
    known = dict(RULES)
    register(torch.ops.aten.cumsum, elementwise)
    try:
        groups = permutation_groups(seeded(lambda: Casting(lambda x: x.cumsum(1))), X)
    finally:
        RULES.clear()
        RULES.update(known)
        rule_of.cache_clear()
    assert any("verification" in pin.reason for pin in groups.pinned)
    assert "second" not in {group.name for group in groups}


def test_a_network_that_writes_into_a_float32_tensor_of_its_own_is_proved_in_it_and_says_so(caplog):
    with caplog.at_level(logging.INFO, "featviz.symmetry"):
        groups = permutation_groups(seeded(lambda: Casting(written_into_what_it_keeps)), X)
    assert "own conversions to lower precision" in caplog.text
    assert any("verification" in pin.reason for pin in groups.pinned)
