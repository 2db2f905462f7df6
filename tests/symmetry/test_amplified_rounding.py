"""A network that amplifies rounding is told from one whose groups are wrong."""

import torch
from networks import seeded
from torch import nn

from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.rules.elementwise import elementwise
from featviz.symmetry.rules.registry import RULES, register, rule_of


class Amplifier(nn.Module):
    """The sine of a large multiple: sums of another order give outputs that differ by far more than rounding."""

    def __init__(self, amplification: float) -> None:
        super().__init__()
        self.amplification = amplification
        self.first, self.second = nn.Linear(3, 64), nn.Linear(64, 2)

    def forward(self, x):
        return torch.sin(
            self.amplification * self.second(torch.relu(self.first(x)).cumsum(1) if self.wrong else self.first(x))
        )

    wrong = False


def test_rounding_that_a_network_amplifies_refuses_no_group():
    model = seeded(lambda: Amplifier(1e8))
    assert permutation_groups(model, torch.rand(1, 3)).free_units == 64


def test_a_wrong_rule_is_refused_where_rounding_is_amplified(monkeypatch):
    """A cumulative sum depends on the order of its units; a rule that says otherwise is found out."""
    known = dict(RULES)
    register(torch.ops.aten.cumsum, elementwise)
    try:
        model = seeded(lambda: Amplifier(1e8))
        model.wrong = True
        groups = permutation_groups(model, torch.rand(1, 3))
    finally:
        RULES.clear()
        RULES.update(known)
        rule_of.cache_clear()
    assert groups.free_units == 0
    assert any("verification" in pin.reason for pin in groups.pinned)
