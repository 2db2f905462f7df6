"""Attention in one kernel has the units of its formula, whatever its mask."""

import pytest
import torch
from networks import Attending, seeded
from torch.nn import functional as F

from featviz.symmetry.discovery import permutation_groups

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LOWER = torch.ones(16, 16).tril() == 1
FAR = -0.1 * (torch.arange(16)[:, None] - torch.arange(16)).abs()


def formula(q, k, v, mask=0.0):
    return (q @ k.mT / q.shape[-1] ** 0.5 + mask).softmax(-1) @ v


CASES = {
    "plain": (F.scaled_dot_product_attention, formula),
    "scale": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=2.0),
        lambda q, k, v: (2 * q @ k.mT).softmax(-1) @ v,
    ),
    "causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v: formula(q, k, v, torch.zeros(16, 16).masked_fill(~LOWER, -torch.inf)),
    ),
    "mask": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, FAR.to(q.dtype)),
        lambda q, k, v: formula(q, k, v, FAR.to(q.dtype)),
    ),
    "one query for all": (
        lambda q, k, v: F.scaled_dot_product_attention(torch.ones_like(q), k, v),
        lambda q, k, v: formula(torch.ones_like(q), k, v),
    ),
    "values of one head": (
        lambda q, k, v: F.scaled_dot_product_attention(q[:, :1], k[:, :1], v[:, :1]).expand_as(v),
        lambda q, k, v: formula(q[:, :1], k[:, :1], v[:, :1]).expand_as(v),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_attention_in_one_kernel_has_the_groups_of_its_formula(case):
    kernel, written_out = (
        permutation_groups(seeded(lambda attend=attend: Attending(attend=attend)), X) for attend in CASES[case]
    )
    assert kernel.free_units == written_out.free_units > 0
    assert [(g.name, g.size, g.blocks) for g in kernel] == [(g.name, g.size, g.blocks) for g in written_out]
    assert not kernel.unknown
    for name, units in written_out.layers.items():
        assert (kernel.layers[name].group == units.group).all(), name
        assert (kernel.layers[name].element == units.element).all(), name
