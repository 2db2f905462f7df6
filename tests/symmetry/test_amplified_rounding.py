"""A network that amplifies rounding is told from one whose groups are wrong."""

import logging

import torch
from networks import seeded
from torch import nn

from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.rules.elementwise import elementwise
from featviz.symmetry.rules.registry import RULES, register, rule_of

X = torch.rand(1, 3, generator=torch.Generator().manual_seed(0))


class Amplifier(nn.Module):
    """The sine of a large multiple: sums in another order give outputs that differ by far more than rounding.

    Args:
        cumulative: put a cumulative sum over the units in between, which depends on their order.
    """

    def __init__(self, cumulative: bool) -> None:
        super().__init__()
        self.cumulative = cumulative
        self.first, self.second = nn.Linear(3, 64), nn.Linear(64, 2)

    def forward(self, x):
        x = self.first(x)
        return torch.sin(1e9 * self.second(x.cumsum(1) if self.cumulative else x))


def test_rounding_that_a_network_amplifies_refuses_no_group_and_is_logged(caplog):
    with caplog.at_level(logging.INFO, "featviz.symmetry"):
        groups = permutation_groups(seeded(lambda: Amplifier(False)), X)
    assert groups.free_units == 64
    assert "counts as rounding" in caplog.text


def test_a_wrong_rule_is_refused_where_rounding_is_amplified():
    """A rule says that a cumulative sum does not depend on the order of its units."""
    known = dict(RULES)
    register(torch.ops.aten.cumsum, elementwise)
    try:
        groups = permutation_groups(seeded(lambda: Amplifier(True)), X)
    finally:
        RULES.clear()
        RULES.update(known)
        rule_of.cache_clear()
    assert groups.free_units == 0
    assert any("verification" in pin.reason for pin in groups.pinned)
