"""A network that others have looked at can still be copied."""

import pytest
import torch
from lucent.optvis.render import hook_model
from networks import TinyCNN, seeded
from torch import nn

import featviz
from featviz.errors import ModelError
from featviz.isolation import copy_of


def test_a_network_with_lucents_hooks_is_copied_aligned_and_rendered():
    model = seeded(TinyCNN)
    hook_model(model, lambda: None)
    model(torch.rand(1, 3, 8, 8))  # the hooks now hold activations with their graph
    with pytest.raises(RuntimeError, match="graph leaves"):
        __import__("copy").deepcopy(model)
    assert (copy_of(model).conv1.weight == model.conv1.weight).all()
    alignment = featviz.align(model, seeded(TinyCNN, 1), torch.rand(1, 3, 8, 8))
    assert len(alignment.groups) == 2
    assert featviz.render(model, "conv2:0", featviz.RenderConfig(size=8, steps=2)).images.shape == (1, 3, 8, 8)


def test_hooks_go_on_in_the_copy_and_its_list_is_its_own():
    model, called = seeded(TinyCNN), []
    model.conv1.register_forward_hook(lambda *_: called.append(1))
    made = copy_of(model)
    made.conv1.register_forward_hook(lambda *_: called.append(2))
    model(torch.rand(1, 3, 8, 8))
    assert called == [1]
    made(torch.rand(1, 3, 8, 8))
    assert called == [1, 1, 2]


def test_a_kept_activation_loses_its_graph():
    model = seeded(TinyCNN)
    model.last = model(torch.rand(1, 3, 8, 8))
    assert not copy_of(model).last.requires_grad


def test_what_cannot_be_copied_is_said():
    model = nn.Linear(2, 2)
    model.steps = (step for step in range(3))
    with pytest.raises(ModelError, match=r"cannot be copied .*generator"):
        copy_of(model)
