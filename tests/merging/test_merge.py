"""P6 and the repairs: the ends of the line are A and B', statistics are what a plain pass over the data says."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from networks import TinyCNN, TinyResNet, seeded
from torch import nn
from torch.nn import functional as F

import featviz
from featviz.config import MergeConfig
from featviz.errors import AlignmentError
from featviz.merging.average import average
from featviz.merging.batchnorm import reset_batchnorm
from featviz.merging.repair import repair_channels

EXAMPLE = torch.rand(1, 3, 8, 8)
DATA = [torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]
LABELLED = [(x, torch.arange(16) % 4) for x in DATA]


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return seeded(TinyResNet, 0), seeded(TinyResNet, 1)


def test_weight_0_is_a_and_weight_1_is_permuted_b(pair):
    alignment = featviz.align(*pair, EXAMPLE)
    assert equal(featviz.merge(*pair, alignment, weight=0, data=DATA), pair[0])
    assert equal(featviz.merge(*pair, alignment, weight=1, data=DATA), alignment.permute(pair[1]))


@pytest.mark.parametrize("weight", [-0.5, 1.5])
def test_a_weight_outside_0_and_1_extends_the_line(pair, weight):
    merged = featviz.merge(*pair, None, weight=weight)
    for (name, x), y in zip(pair[0].named_parameters(), pair[1].parameters(), strict=True):
        torch.testing.assert_close(merged.get_parameter(name), (1 - weight) * x + weight * y)
    statistics = featviz.merge(*pair, None, weight=weight, data=DATA).bn1
    assert not torch.equal(statistics.running_var, merged.bn1.running_var)  # measured afresh
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    assert equal(featviz.merge(a, b, None, weight=weight, data=DATA), featviz.merge(a, b, None, weight=weight))


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"weight": 50}, "weight of B is 50: it lies between -10 and 10"),
        ({"weight": float("nan")}, "weight of B is nan"),
        ({"weight": "half"}, "weight of B is 'half'"),
        ({"weight": True}, "weight of B is True"),
        ({"repair": "magic"}, "no repair 'magic': use one of auto, none"),
        ({"repair": None}, "no repair None"),
        ({"points": 1}, "barrier of 1 points"),
        ({"points": 2.5}, r"barrier of 2\.5 points"),
        ({"points": 10**6}, "from 2 to 10000"),
    ],
)
def test_a_merge_configuration_refuses_nonsense(value, part):
    with pytest.raises(AlignmentError, match=part):
        MergeConfig(**value)


def test_numbers_of_numpy_and_torch_are_numbers(pair):
    assert MergeConfig(weight=np.float32(0.25), points=np.int64(3)) == MergeConfig(weight=0.25, points=3)
    assert equal(featviz.merge(*pair, None, weight=torch.tensor(0.5)), featviz.merge(*pair, None))


def test_half_precision_is_averaged_in_single_precision():
    models = [nn.Linear(1, 1, bias=False).half() for _ in range(3)]
    for model, value in zip(models, (1, 1 + 2**-10, 1 + 2**-10), strict=True):
        model.weight.data.fill_(value)
    assert average(models, [0.5, 0.25, 0.25]).weight.item() == 1  # 1 + 2**-11, rounded to even
    assert average(models, [0.4, 0.3, 0.3]).weight.item() == 1 + 2**-10


def test_equal_infinite_values_stay_infinite():
    models = [seeded(TinyCNN, seed) for seed in range(2)]
    for model in models:
        model.register_buffer("limits", torch.tensor([-torch.inf, 1.0, torch.inf]))
    assert average(models).limits.tolist() == [-torch.inf, 1, torch.inf]


@pytest.mark.parametrize("weight", [0.3, 0.5])
def test_a_network_merged_with_itself_is_itself(pair, weight):
    alignment = featviz.align(pair[0], pair[0], EXAMPLE)
    assert equal(featviz.merge(pair[0], pair[0], alignment, weight=weight), pair[0])


def test_a_merge_is_the_plain_average_in_the_basis_of_a(pair):
    alignment = featviz.align(*pair, EXAMPLE)
    merged = featviz.merge(*pair, alignment, weight=0.25).state_dict()
    permuted = alignment.permute(pair[1]).state_dict()
    for name, tensor in pair[0].state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(merged[name], 0.75 * tensor + 0.25 * permuted[name])


def test_counters_are_never_averaged(pair):
    pair[0].bn1.num_batches_tracked.fill_(7)
    pair[1].bn1.num_batches_tracked.fill_(100)
    assert featviz.merge(*pair, None).bn1.num_batches_tracked == 7


def test_whole_numbers_are_those_of_a_whatever_the_repair(pair):
    for model, number in zip(pair, (3, 9), strict=True):
        model.register_buffer("seen", torch.tensor([number]))
        model.bn1.num_batches_tracked.fill_(number)
    for repair in ("none", "batchnorm", "rescale", "repair"):
        merged = featviz.merge(*pair, None, repair=repair, data=DATA)
        assert (merged.seen, merged.bn1.num_batches_tracked) == (3, 3)


class TiedAndHidden(nn.Module):
    """A weight that two layers share, and a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.scale = nn.Buffer(torch.rand(4), persistent=False)

    def forward(self, x):
        return self.second(F.relu(self.first(x)) * self.scale)


def test_a_shared_weight_is_averaged_once_and_a_hidden_buffer_too():
    models = [seeded(TiedAndHidden, seed) for seed in range(3)]
    example = torch.rand(2, 4)
    pair, three = models[:2], featviz.align_many(models, example, "weights")
    alignment = featviz.align(*pair, example)
    for merged, parts in (
        (featviz.merge(*pair, alignment), [pair[0], alignment.permute(pair[1])]),
        (featviz.merge_many(models, three), three.permute(models)),
    ):
        assert merged.second.weight is merged.first.weight
        torch.testing.assert_close(merged.first.weight, torch.stack([part.first.weight for part in parts]).mean(0))
        torch.testing.assert_close(merged.scale, torch.stack([part.scale for part in parts]).mean(0))


def test_the_callers_models_are_untouched(pair):
    before = [copy.deepcopy(model.state_dict()) for model in pair]
    pair[0].train()
    alignment = featviz.align(*pair, EXAMPLE)
    featviz.merge(*pair, alignment, data=DATA)
    for model, state in zip(pair, before, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert pair[0].training


def test_reset_statistics_are_those_of_all_data_at_once(pair):
    """One batch of everything, by torch's own training mode, is the plain reference."""
    together = torch.cat(DATA)
    model, reference = copy.deepcopy(pair[0]), copy.deepcopy(pair[0])
    reset_batchnorm(model, [together])
    for norm in (reference.bn1, reference.bn2):
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        reference(together)
    for name in ("bn1", "bn2"):
        ours, theirs = getattr(model, name), getattr(reference, name)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-5, atol=1e-6)


def test_reset_statistics_pool_all_batches_not_the_last(pair):
    model = copy.deepcopy(pair[0])
    reset_batchnorm(model, [x * (1 + n) for n, x in enumerate(DATA)])
    with torch.no_grad():
        seen = torch.cat([model.conv1(x * (1 + n)) for n, x in enumerate(DATA)])
    torch.testing.assert_close(model.bn1.running_var, seen.var((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.bn1.running_mean, seen.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_repaired_layers_have_the_average_mean_and_deviation_of_their_parents():
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    merged = featviz.merge(a, b, None)
    repair_channels(merged, a, b, 0.5, [torch.cat(DATA)])

    def moments(model, layer):
        x = torch.cat(DATA)
        with torch.no_grad():
            h = model.conv1(x) if layer == 1 else model.conv2(F.relu(model.conv1(x)))
        return h.mean((0, 2, 3)), h.std((0, 2, 3), correction=0)

    for layer in (1, 2):
        for ours, x, y in zip(*(moments(m, layer) for m in (merged, a, b)), strict=True):
            torch.testing.assert_close(ours, (x + y) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged.fc.weight, (a.fc.weight + b.fc.weight) / 2)


def moments(model: nn.Module, layer: str, data) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of every unit of a layer (second axis, or the last of three) over all data at once."""
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, args, out: seen.append(out.detach().double()))
    with torch.no_grad():
        model(torch.cat(list(data)))
    handle.remove()
    rows = seen[0].movedim(1 if seen[0].dim() == 4 and not layer.endswith("inner") else -1, 0).flatten(1)
    return rows.mean(1), rows.std(1, correction=0)


def test_rescale_gives_the_deviation_and_leaves_the_mean_to_follow():
    """Qu & Horvath 2024: the output is multiplied by goal over own deviation; its mean is multiplied, too."""
    a, b = seeded(TinyCNN, 0).double(), seeded(TinyCNN, 1).double()
    data = [torch.cat(DATA).double()]
    plain = featviz.merge(a, b, None)
    merged = featviz.merge(a, b, None, weight=0.5, repair="rescale", data=data)
    (mean, own), (_, dev_a), (_, dev_b) = (moments(m, "conv1", data) for m in (plain, a, b))
    factor = (dev_a + dev_b) / 2 / own
    found = moments(merged, "conv1", data)
    torch.testing.assert_close(found, (factor * mean, factor * own))
    torch.testing.assert_close(merged.conv1.weight, factor.view(-1, 1, 1, 1) * plain.conv1.weight)
    torch.testing.assert_close(merged.conv1.bias, factor * plain.conv1.bias)
    second = (moments(m, "conv2", data)[1] for m in (merged, a, b))
    torch.testing.assert_close(next(second), sum(second) / 2)  # behind a corrected layer
    torch.testing.assert_close(merged.fc.weight, plain.fc.weight)


def test_rescale_measures_the_variance_of_batchnorm_and_keeps_its_mean(pair):
    a, b = (model.double() for model in pair)
    data = [torch.cat(DATA).double()]
    plain, merged = featviz.merge(a, b, None), featviz.merge(a, b, None, repair="rescale", data=data)
    for name in ("bn1", "bn2"):
        torch.testing.assert_close(getattr(merged, name).running_mean, getattr(plain, name).running_mean)
    count = len(data[0]) * 64
    for norm, conv in (("bn1", "conv1"), ("bn2", "conv2")):  # each sees what the corrected layers before it give
        variance = moments(merged, conv, data)[1].square() * count / (count - 1)
        torch.testing.assert_close(getattr(merged, norm).running_var, variance, rtol=1e-2, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in merged.modules())


class BiasedNorms(nn.Sequential):
    """VGG's habit: convolutions with biases before BatchNorm."""

    def __init__(self) -> None:
        blocks = [(nn.Conv2d(n, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()) for n in (3, 6)]
        super().__init__(
            *(m for block in blocks for m in block), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        )


def test_a_bias_before_batchnorm_is_corrected_and_the_norm_takes_no_notice():
    a, b = seeded(BiasedNorms, 0).double(), seeded(BiasedNorms, 1).double()
    data = [torch.cat(DATA).double()]
    repaired, reset = (featviz.merge(a, b, None, repair=repair, data=data) for repair in ("repair", "batchnorm"))
    for layer in ("0", "3"):
        found, *parents = (moments(m, layer, data) for m in (repaired, a, b))
        for ours, x, y in zip(found, *parents, strict=True):
            torch.testing.assert_close(ours, (x + y) / 2, rtol=1e-2, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(repaired(data[0]), reset(data[0]), rtol=1e-2, atol=1e-2)


class ConvNextLike(nn.Module):
    """A stem, one block as ConvNeXt has it (depthwise, LayerNorm, two linear layers, skip), and logits."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2, stride=2)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.stem(x)
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return self.head((x + self.outer(F.gelu(self.inner(h))).permute(0, 3, 1, 2)).mean((2, 3)))


def test_in_a_network_with_layernorm_the_layers_with_a_bias_are_corrected_and_the_norm_is_the_average():
    a, b = seeded(ConvNextLike, 0).double(), seeded(ConvNextLike, 1).double()
    data = [torch.cat(DATA).double()]
    alignment = featviz.align(a, b, EXAMPLE)
    permuted = alignment.permute(b)
    plain, merged = (featviz.merge(a, b, alignment, repair=repair, data=data) for repair in ("none", "auto"))
    for layer in ("stem", "depthwise", "inner"):
        found, *parents = (moments(m, layer, data) for m in (merged, a, permuted))
        for ours, x, y in zip(found, *parents, strict=True):
            torch.testing.assert_close(ours, (x + y) / 2, rtol=1e-6, atol=1e-6)
    for name in ("norm", "head"):
        torch.testing.assert_close(getattr(merged, name).weight, getattr(plain, name).weight)
    assert not torch.allclose(merged.outer.weight, plain.outer.weight)


def test_the_repair_fits_the_network(pair):
    cnn = seeded(TinyCNN, 0)
    with pytest.raises(AlignmentError, match="use repair='repair'"):
        featviz.merge(cnn, cnn, None, repair="batchnorm", data=DATA)
    with pytest.raises(AlignmentError, match="give data"):
        featviz.merge(*pair, None, repair="batchnorm")
    with pytest.raises(AlignmentError, match=r"weight 1\.5 of B, outside 0 to 1"):
        featviz.merge(*pair, None, weight=1.5, repair="rescale", data=DATA)
    with pytest.raises(AlignmentError, match="there is no repair 'magic'"):
        featviz.merge(*pair, None, repair="magic")
    with pytest.raises(AlignmentError, match="yielded no batch"):
        featviz.merge(*pair, None, repair="batchnorm", data=iter([]))


def test_the_barrier_is_the_rise_above_the_linear_interpolation():
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    curve = featviz.loss_barrier(a, b, None, LABELLED, points=5)
    assert curve.weights == (0, 0.25, 0.5, 0.75, 1)
    line = [(1 - w) * curve.losses[0] + w * curve.losses[-1] for w in curve.weights]
    assert curve.barrier == pytest.approx(max(x - y for x, y in zip(curve.losses, line, strict=True)))
    assert curve.losses[0] == pytest.approx(featviz.evaluate(a, LABELLED)[0])
    same = featviz.loss_barrier(a, a, None, LABELLED, points=3)
    assert same.barrier == pytest.approx(0, abs=1e-6)


def test_the_barrier_says_what_data_it_needs():
    a = seeded(TinyCNN, 0)
    with pytest.raises(AlignmentError, match="needs labels"):
        featviz.loss_barrier(a, a, None, DATA)
    with pytest.raises(AlignmentError, match="serves only once"):
        featviz.loss_barrier(a, a, None, iter(LABELLED))
    with pytest.raises(AlignmentError, match="points"):
        featviz.loss_barrier(a, a, None, LABELLED, points=1)


def test_repair_leaves_layers_alone_that_a_network_does_not_call():
    class WithAuxiliary(TinyCNN):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Conv2d(3, 4, 1)

    a, b = seeded(WithAuxiliary, 0), seeded(WithAuxiliary, 1)
    merged = featviz.merge(a, b, None, repair="repair", data=[torch.rand(8, 3, 8, 8)])
    average = featviz.merge(a, b, None)
    assert torch.equal(merged.auxiliary.weight, average.auxiliary.weight)
    assert not all(map(torch.equal, merged.parameters(), average.parameters()))


def test_rescale_measures_what_follows_a_norm_with_its_activation():
    class NormWithReLU(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    def network() -> nn.Sequential:
        norms = NormWithReLU(8), nn.BatchNorm2d(8)
        return nn.Sequential(nn.Conv2d(3, 8, 1), norms[0], nn.Conv2d(8, 8, 1), norms[1], nn.ReLU()).eval()

    x = torch.randn(64, 3, 8, 8)  # no images in [0, 1]: fed as it is
    merged = featviz.merge(seeded(network, 0), seeded(network, 1), None, repair="rescale", data=[x])
    with torch.no_grad():
        assert torch.allclose(merged[3].running_var, merged[:3](x).var((0, 2, 3)), rtol=1e-3)


def renamed_network(seed: int, first: str, second: str, head: str, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    layers = {first: nn.Conv2d(3, 8, 3), "relu": nn.ReLU(), second: nn.Conv2d(8, 6, 3), "pool": nn.AdaptiveAvgPool2d(1)}
    return nn.Sequential(OrderedDict(layers | {"flat": nn.Flatten(), head: nn.Linear(6, classes)})).eval()


@pytest.mark.parametrize("head", [None, "a", "b"])
@pytest.mark.parametrize("repair", ["repair", "rescale"])
def test_networks_of_other_names_are_repaired_as_those_of_one_name(repair, head):
    classes = 4 if head is None else 7
    a, same = renamed_network(0, "c1", "c2", "h"), renamed_network(1, "c1", "c2", "h", classes)
    other = renamed_network(1, "c2", "d2", "g", classes)  # one of A's names, of another layer
    data, example = [torch.rand(16, 3, 8, 8)], torch.rand(1, 3, 8, 8)
    rename = {"c2": "c1", "d2": "c2", "g": "h"}
    one = featviz.merge(a, same, featviz.align(a, same, example), repair=repair, data=data, head=head)
    two = featviz.merge(a, other, featviz.align(a, other, example, rename=rename), repair=repair, data=data, head=head)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    plain = featviz.merge(a, same, featviz.align(a, same, example), head=head)
    assert not torch.equal(one.get_parameter("c2.bias"), plain.get_parameter("c2.bias")) or repair == "rescale"
