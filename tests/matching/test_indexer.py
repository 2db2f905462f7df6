"""The indexer answers for every named module: unit a_to_b(u) of B is what B' shows at place u, to the last digit."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from networks import random_permutations, seeded
from torch import Tensor, nn

from featviz.matching.assignment import Matching
from featviz.matching.indexer import UnitIndexer
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import permute_module
from featviz.weights.tensors import tensors_of

# name -> network, input side
ARCHITECTURES = {
    "resnext50_32x4d": (torchvision.models.resnext50_32x4d, 64),
    "densenet121": (torchvision.models.densenet121, 64),
    "swin_t": (torchvision.models.swin_t, 64),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, 64),
    "googlenet": (lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False), 64),
}


def outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output of every named module at its first call."""
    found: dict[str, Tensor] = {}

    def hook(name: str):
        def keep(module: nn.Module, args: tuple, output: object) -> None:
            found.setdefault(name, tensors_of(output)[0].clone())

        return keep

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        model(x)
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_named_module_shows_b_at_the_places_that_the_indexer_says(name):
    make, side = ARCHITECTURES[name]
    model = seeded(make).double()
    groups = permutation_groups(model, torch.rand(1, 3, side, side))
    perms = random_permutations(groups, 1)
    nothing = {group.name: np.zeros(group.size) for group in groups}
    indexer = UnitIndexer(groups, Matching(perms, nothing, nothing))
    x = torch.rand(2, 3, side, side, dtype=torch.float64)
    before, after = outputs(copy.deepcopy(model), x), outputs(permute_module(model, groups, perms), x)
    modules = {name for name, module in model.named_modules() if name}
    assert set(indexer.layers) == modules & before.keys()
    moved = 0
    for layer in indexer.layers:
        axis = indexer.units(layer).axis
        partner = indexer.a_to_b(layer, np.arange(indexer.layers[layer]))
        expected = before[layer].index_select(axis, torch.from_numpy(partner))
        scale = expected.abs().max().clamp_min(1e-12)
        assert ((after[layer] - expected).abs().max() / scale) < 1e-9, layer
        moved += (partner != np.arange(len(partner))).any()
    assert moved > len(indexer.layers) // 2
