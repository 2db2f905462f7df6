"""Networks with other heads, extra modules or other names: what they share is matched, and B' computes what B does."""

import copy

import numpy as np
import pytest
import torch
from networks import TinyResNet, planted, relative_difference, seeded
from torch import nn

import featviz
from featviz.config.matching_methods import PERMUTATION, methods
from featviz.errors import AlignmentError, ModelError, UnitError

EXAMPLE = torch.rand(1, 3, 8, 8)
DATA = [torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
PERMUTING = [name for name, method in methods().items() if method.gives == PERMUTATION]


class Extra(TinyResNet):
    """With a further convolution in front of its head of 7 classes."""

    def __init__(self) -> None:
        super().__init__(classes=7)
        self.extra = nn.Conv2d(16, 16, 1)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn2(self.conv2(x)))
        x = torch.relu(self.conv3(x))
        return self.fc((x + self.extra(x)).mean((2, 3)))


class Renamed(nn.Module):
    """TinyResNet in another spelling."""

    def __init__(self) -> None:
        super().__init__()
        plain = TinyResNet()
        self.mean, self.std = plain.mean, plain.std
        self.stem, self.norm = plain.conv1, plain.bn1
        self.block = nn.ModuleDict({"conv": plain.conv2, "norm": plain.bn2})
        self.last, self.head = plain.conv3, plain.fc

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.block["norm"](self.block["conv"](x)))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


NAMES = {
    "stem": "conv1",
    "norm": "bn1",
    "block.conv": "conv2",
    "block.norm": "bn2",
    "last": "conv3",
    "head": "fc",
}


def by_function(name: str) -> str:
    """As `NAMES`, for a parameter."""
    return next(new + name[len(old) :] for old, new in NAMES.items() if name.startswith(f"{old}."))


def with_head(trunk: nn.Module, classes: int, seed: int = 5) -> nn.Module:
    """The network with another head; the hidden units stay."""
    torch.manual_seed(seed)
    other = copy.deepcopy(trunk)
    other.fc = nn.Linear(16, classes)
    return other.eval()


def given(method: str) -> list[torch.Tensor] | None:
    return DATA if methods()[method].needs_data else None


@pytest.mark.parametrize("make", [lambda: TinyResNet(classes=7), Extra], ids=["other classes", "an extra module"])
@pytest.mark.parametrize("method", PERMUTING)
def test_b_permuted_computes_the_same_function(method, make):
    a, b = seeded(TinyResNet, 0), seeded(make, 1)
    alignment = featviz.align(a, b, EXAMPLE, method, given(method), restarts=1)
    assert relative_difference(b, alignment.permute(b), DATA[0]) < 1e-10
    assert method == "identity" or alignment.moved_units > 0


@pytest.mark.parametrize("method", ["weights", "activations", "sinkhorn"])
def test_a_planted_permutation_is_recovered_where_heads_differ(method):
    a = seeded(TinyResNet)
    permuted, _, truth = planted(a, EXAMPLE, 3)
    b = with_head(permuted, 7)
    alignment = featviz.align(a, b, EXAMPLE, method, given(method), restarts=1)
    for name, perm in truth.items():
        seen = alignment.scores[name] > 0  # a unit that is never active is matched by exclusion
        assert (alignment.permutations[name] == perm)[seen].all()
        assert seen.mean() > 0.8
    assert alignment.groups.sizes == {"conv1": 8, "conv3": 16}


def test_what_belongs_to_one_network_is_listed_and_logged(caplog):
    a, b = seeded(TinyResNet, 0), seeded(Extra, 1)
    with caplog.at_level("WARNING", logger="featviz"):
        alignment = featviz.align(a, b, EXAMPLE)
    assert alignment.private.a == ("fc.weight", "fc.bias")
    assert set(alignment.private.b) == {"fc.weight", "fc.bias", "extra.weight", "extra.bias"}
    assert "private to A, and not matched: fc.weight, fc.bias." in caplog.text
    assert "private to B" in caplog.text
    assert alignment.shared_parameters["conv1.weight"] == "conv1.weight"
    same = featviz.align(a, seeded(TinyResNet, 1), EXAMPLE)
    assert same.private == ((), ())
    assert same.shared_parameters is None


def test_the_indexer_answers_for_layers_that_both_share():
    a, b = seeded(TinyResNet, 0), seeded(Extra, 1)
    indexer = featviz.align(a, b, EXAMPLE).indexer
    assert set(indexer.layers) == {"conv1", "bn1", "conv2", "bn2", "conv3"}
    assert indexer.match("conv3", 2).layer == "conv3"
    with pytest.raises(UnitError, match=r"the units of fc are not the same in A and in B"):
        indexer.match("fc", 0)


def test_the_alignment_of_networks_that_differ_survives_its_file(tmp_path):
    a, b = seeded(TinyResNet, 0), seeded(Extra, 1)
    alignment = featviz.align(a, b, EXAMPLE)
    alignment.save(tmp_path / "ab.safetensors")
    again = featviz.load_alignment(tmp_path / "ab.safetensors")
    assert again.private == alignment.private
    assert again.shared_parameters == alignment.shared_parameters
    assert again.indexer.table("conv3") == alignment.indexer.table("conv3")
    assert torch.equal(again.permute(b)(DATA[0]), alignment.permute(b)(DATA[0]))
    again.check(a, b)


def test_parts_are_private_by_name():
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    alignment = featviz.align(a, b, EXAMPLE, ignore=["fc.*", "bn2.*"])
    assert {"fc.weight", "fc.bias", "bn2.weight", "bn2.running_mean"} <= set(alignment.private.a)
    assert alignment.private.a == alignment.private.b
    assert relative_difference(b, alignment.permute(b), DATA[0]) < 1e-10
    with pytest.raises(ModelError, match=r"ignore has 'fcc\.\*', which is no parameter of A or B: did you mean fc\."):
        featviz.align(a, b, EXAMPLE, ignore=["fcc.*"])


@pytest.mark.parametrize("rename", [NAMES, by_function], ids=["a dictionary", "a function"])
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_another_spelling_of_the_same_network_is_the_same_network(method, rename):
    a, plain = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    b = Renamed().eval()
    inverse = {v: k for k, v in NAMES.items()}
    b.load_state_dict(
        {inverse[k.rpartition(".")[0]] + "." + k.rpartition(".")[2]: v for k, v in plain.state_dict().items()}
    )
    wanted = featviz.align(a, plain, EXAMPLE, method, given(method))
    alignment = featviz.align(a, b, EXAMPLE, method, given(method), rename=rename)
    for name, perm in wanted.permutations.items():
        assert (alignment.permutations[name] == perm).all()
        np.testing.assert_allclose(alignment.scores[name], wanted.scores[name], atol=1e-9)
    assert alignment.private == ((), ())
    assert alignment.shared_parameters["conv2.weight"] == "block.conv.weight"
    torch.testing.assert_close(alignment.permute(b)(DATA[0]), wanted.permute(plain)(DATA[0]))


def test_names_that_do_not_fit_are_refused_by_name():
    a, b = seeded(TinyResNet, 0), Renamed().eval()
    with pytest.raises(ModelError, match=r"rename makes conv1\.weight of both stem\.weight and last\.weight of B"):
        featviz.align(a, b, EXAMPLE, rename={**NAMES, "last": "conv1"})
    with pytest.raises(ModelError, match=r"rename has 'stemm', which is no name in B: did you mean stem\."):
        featviz.align(a, b, EXAMPLE, rename={"stemm": "conv1"})
    with pytest.raises(ModelError, match=r"rename makes None of B's stem\.weight"):
        featviz.align(a, b, EXAMPLE, rename=lambda name: None)


def test_two_networks_without_a_parameter_in_common_are_one_sentence():
    a = seeded(TinyResNet, 0)
    with pytest.raises(ModelError, match=r"shapes agree in this order: give rename=\{'stem': 'conv1', 'norm': 'bn1'"):
        featviz.align(a, Renamed().eval(), EXAMPLE)
    other = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 5))
    with pytest.raises(
        ModelError, match=r"no parameter of one name and shape in common \(A begins with conv1\.weight"
    ) as caught:
        featviz.align(a, other, EXAMPLE)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        ModelError, match=r"the models differ at conv1\.weight, \(8, 3, 3, 3\) in A and \(6, 3, 3, 3\) in B"
    ):
        featviz.align(a, seeded(lambda: TinyResNet(6)), EXAMPLE)


@pytest.mark.parametrize("method", ["zipit", "cca", "ot"])
def test_methods_that_combine_units_are_refused_by_name(method):
    a, b = seeded(TinyResNet, 0), seeded(lambda: TinyResNet(classes=7), 1)
    with pytest.raises(AlignmentError, match=f"method '{method}' combines units of networks of one architecture"):
        featviz.align(a, b, EXAMPLE, method, DATA)


def test_every_network_normalizes_the_data_for_itself():
    """B is trained on images of another scale: its first weights are larger by as much."""
    a = seeded(TinyResNet, 0)
    b, _, truth = planted(a, EXAMPLE, 3)
    images = [torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))]
    subjects = [
        featviz.Subject(a, mean=(0.5,) * 3, std=(0.25,) * 3),
        featviz.Subject(b, mean=(0.5,) * 3, std=(0.25,) * 3),
    ]
    alignment = featviz.align(*subjects, EXAMPLE, "activations", images)
    assert all((alignment.permutations[n] == perm)[alignment.scores[n] > 0].all() for n, perm in truth.items())
    assert min(score[score > 0].min() for score in alignment.scores.values()) > 1 - 1e-6
    other = featviz.Subject(b, mean=(0.2,) * 3, std=(0.9,) * 3)
    differing = featviz.align(subjects[0], other, EXAMPLE, "activations", images)
    assert min(score[score > 0].min() for score in differing.scores.values()) < 0.999
    assert relative_difference(b, alignment.permute(subjects[1]), images[0]) < 1e-10


class InTwoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_the_last_layer_of_a_part_is_matched_where_its_outputs_are_free(method):
    a = seeded(InTwoParts)
    b, _, truth = planted(a, EXAMPLE, 3)
    assert (truth["features.2"] != np.arange(8)).any()
    found = featviz.align(a.features, b.features, EXAMPLE, method, given(method), free_outputs=True)
    seen = found.scores["2"] > 0
    assert (found.permutations["2"] == truth["features.2"])[seen].all()
    assert seen.sum() >= 6
    with torch.no_grad():
        outputs = found.permute(b.features)(DATA[0])
        torch.testing.assert_close(outputs, b.features(DATA[0])[:, found.permutations["2"]])
    pinned = featviz.align(a.features, b.features, EXAMPLE, method, given(method))
    assert list(pinned.permutations) == ["0"]


def test_a_layer_that_is_fixed_because_it_is_an_output_says_so(tmp_path):
    a, b = seeded(InTwoParts, 0).features, seeded(InTwoParts, 1).features
    alignment = featviz.align(a, b, EXAMPLE)
    alignment.save(tmp_path / "ab.safetensors")
    for one in (alignment, featviz.load_alignment(tmp_path / "ab.safetensors")):
        assert str(one.indexer.match("2", 3)) == "A 2:3 = B 2:3 (fixed: the network's output)"
        assert "fixed" not in str(one.indexer.match("0", 3))


@pytest.mark.parametrize("classes", [7, 5])
def test_free_outputs_of_networks_that_differ(classes):
    a, b = seeded(TinyResNet, 0), seeded(lambda: TinyResNet(classes=classes), 1)
    alignment = featviz.align(a, b, EXAMPLE, free_outputs=True)
    assert ("fc" in alignment.permutations) == (classes == 5)
    restored = alignment.permute(b).double()(DATA[0].double())
    outputs = b.double()(DATA[0].double())
    order = alignment.permutations.get("fc", np.arange(classes))
    torch.testing.assert_close(restored, outputs[:, order])
