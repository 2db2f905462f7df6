"""Copies of networks, also of those that others have looked at, and the guards of shared settings."""

import functools

import pytest
import torch
from lucent.optvis.render import hook_model
from networks import TinyCNN, seeded
from torch import Tensor, nn

import featviz
from featviz.errors import ModelError
from featviz.isolation import ProcessSetting, copy_of, evaluation_mode, weight_sharing_copy


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


def test_a_sharing_copy_takes_no_gradient_and_shares_weights_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    made = weight_sharing_copy(model)
    assert made[0].weight.data_ptr() == model[0].weight.data_ptr()
    assert made[1].running_mean.data_ptr() != model[1].running_mean.data_ptr()
    assert not any(module.training for module in made.modules())
    assert not any(weight.requires_grad for weight in made.parameters())
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())


def test_weights_that_are_one_in_the_network_are_one_in_the_copy():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    made = weight_sharing_copy(model)
    assert made[1].weight is made[0].weight


def test_an_optimizers_step_on_the_network_is_no_error_for_the_copys_gradient():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    x = torch.rand(2, 4, requires_grad=True)
    y = weight_sharing_copy(model)(x)
    with torch.no_grad():
        model[1].weight.mul_(2)
    y.sum().backward()
    assert x.grad is not None


class Bound(nn.Module):
    """Reaches its own parts by a method, a closure and a partial, kept as hooks and as attributes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.seen: list[Tensor] = []
        if kind == "method":
            self.conv.register_forward_hook(self._after)
        elif kind == "partial":
            self.conv.register_forward_hook(functools.partial(Bound._after, self))
        elif kind == "closure":
            self.conv.register_forward_hook(lambda module, args, output: self._after(module, args, output))
        else:
            self.then = lambda x: self._after(None, None, x)

    def _after(self, module: object, args: object, output: Tensor) -> Tensor:
        self.seen.append(output.detach())
        return self.norm(output)

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.conv(x)) if hasattr(self, "then") else self.conv(x)


@pytest.mark.parametrize("kind", ["method", "partial", "closure", "attribute"])
@pytest.mark.parametrize("copied", [copy_of, weight_sharing_copy])
def test_functions_over_the_networks_own_parts_refer_to_the_copys(kind, copied):
    model = Bound(kind).train()
    before = model.norm.running_mean.clone()
    copied(model)(torch.rand(1, 3, 8, 8))
    assert not model.seen
    assert torch.equal(model.norm.running_mean, before)


class Growing(dict):
    """Another thread adds to it during the first attempt to copy it."""

    attempts = 0

    def __deepcopy__(self, memo: object) -> dict:
        self.attempts += 1
        if self.attempts == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return dict(self)


def test_a_network_that_another_thread_runs_meanwhile_is_copied():
    model = nn.Linear(2, 2)
    model.kept = Growing()
    assert copy_of(model).kept == {}
    assert model.kept.attempts == 2


def test_evaluation_mode_brings_back_every_flag_whatever_happens():
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), nn.ReLU())).train()
    model[1].eval()
    model[1][0].train()
    before = [module.training for module in model.modules()]

    def fail() -> None:
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        fail()
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_setting_of_the_process_is_restored_by_the_last_to_leave(order):
    written = ["as it was"]

    def change():
        written.append("changed")
        return lambda: written.append("as it was")

    setting = ProcessSetting(change)
    users = [setting(), setting()]
    for user in users:
        user.__enter__()
    users[order[0]].__exit__(None, None, None)
    assert written[-1] == "changed"
    users[order[1]].__exit__(None, None, None)
    assert written == ["as it was", "changed", "as it was"]
