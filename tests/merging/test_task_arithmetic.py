"""Fine-tuned networks of one base: sums of differences, unequal weights, and parts that the base does not have."""

import copy

import pytest
import torch
from networks import TinyResNet, seeded
from torch import nn

import featviz
from featviz.errors import AlignmentError, ModelError
from featviz.merging.average import average

DATA = [torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]


def tuned(base: nn.Module, seed: int, step: float = 0.1) -> nn.Module:
    model = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(step * torch.randn(parameter.shape, generator=generator))
        for norm in (model.bn1, model.bn2):
            norm.running_var.mul_(1 + torch.rand(norm.running_var.shape, generator=generator))
    return model


@pytest.fixture
def family() -> tuple[nn.Module, nn.Module, nn.Module]:
    base = seeded(TinyResNet)
    return base, tuned(base, 1), tuned(base, 2)


def test_task_arithmetic_is_the_base_and_weighted_differences(family):
    base, a, b = family
    before = [copy.deepcopy(model.state_dict()) for model in family]
    merged = featviz.task_arithmetic(base, {"a": a, "b": b}, weights={"a": 0.4, "b": -0.3})
    for name, x in base.named_parameters():
        expected = x + 0.4 * (a.get_parameter(name) - x) - 0.3 * (b.get_parameter(name) - x)
        torch.testing.assert_close(merged.get_parameter(name), expected)
    for model, state in zip(family, before, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    return all(torch.allclose(x, y, rtol=0, atol=1e-6) for (_, x), y in pairs)


def test_one_difference_of_weight_1_is_that_network_and_of_weight_0_the_base(family):
    base, a, b = family
    assert same(featviz.task_arithmetic(base, {"a": a}), a)
    assert same(featviz.task_arithmetic(base, {"a": a, "b": b}, 0), base)


def test_running_variances_stay_positive_when_a_task_is_unlearned(family):
    base, a, _ = family
    merged = featviz.task_arithmetic(base, {"a": a}, -5.0)
    assert torch.equal(merged.bn1.running_var, base.bn1.running_var)  # the smaller one
    assert torch.isfinite(merged(DATA[0])).all()
    repaired = featviz.task_arithmetic(base, {"a": a}, -0.5, repair="auto", data=DATA)
    assert not torch.equal(repaired.bn1.running_var, base.bn1.running_var)


def test_another_head_stays_the_bases(family, caplog):
    base, a, _ = family
    a.fc, a.more = nn.Linear(16, 9), nn.Linear(2, 2)
    merged = featviz.task_arithmetic(base, {"a": a}, 0.5)
    assert torch.equal(merged.fc.weight, base.fc.weight)
    torch.testing.assert_close(merged.conv1.weight, (base.conv1.weight + a.conv1.weight) / 2)
    assert "a: fc.weight, fc.bias, more.weight, ... differ from the base" in caplog.text


@pytest.mark.parametrize(
    ("models", "weights", "error", "part"),
    [
        ({}, 1.0, AlignmentError, "no fine-tuned networks"),
        ({"a": "tuned"}, {"b": 1.0}, AlignmentError, "weights of b for the networks a: give one for each"),
        ({"a": "tuned"}, {"a": 50}, AlignmentError, "weight of a is 50: it lies between -10 and 10"),
        ({"a": "tuned"}, float("nan"), AlignmentError, "weight of a is nan"),
        ({"a": "other"}, 1.0, ModelError, "a shares no parameter with the base"),
        ({"a": "broken"}, 1.0, ModelError, r"a has NaN or Inf in fc\.bias"),
    ],
)
def test_bad_tasks_are_refused(family, models, weights, error, part):
    base, a, b = family
    b.fc.bias.data[0] = torch.nan
    known = {"tuned": a, "other": nn.Linear(2, 2), "broken": b}
    with pytest.raises(error, match=part):
        featviz.task_arithmetic(base, {name: known[kind] for name, kind in models.items()}, weights)


def test_many_networks_merge_with_unequal_weights(family):
    weights = [0.5, 0.75, -0.25]
    merged = featviz.merge_many(family, None, weights)
    for name, _ in merged.named_parameters():
        expected = sum(w * model.get_parameter(name) for w, model in zip(weights, family, strict=True))
        torch.testing.assert_close(merged.get_parameter(name), expected)
    assert same(featviz.merge_many(family, None), average(family))
    alignment = featviz.align_many(family, DATA[0], "weights")
    assert same(featviz.merge_many(family, alignment, [0, 0, 1]), alignment.permute(family)[2])
    for bad in ([0.5, 0.5], [0.5, 0.5, 0.5], [1, 1, 1]):
        with pytest.raises(AlignmentError, match="weights with the sum"):
            featviz.merge_many(family, None, bad)
    with pytest.raises(ModelError, match="differ"):
        featviz.merge_many([family[0], nn.Linear(2, 2)], None)
