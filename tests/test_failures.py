"""A network that cannot take what it is fed is told in one sentence, by every function that runs it."""

import pytest
import torch
from torch import Tensor, nn

import featviz
from featviz.errors import DataError, ModelError
from featviz.merging.heads import tensors_until
from featviz.zoo import zoo_network

GOOD, BAD, LABELS = torch.rand(20, 3, 16, 16), torch.rand(20, 3, 8, 8), torch.zeros(20, dtype=torch.long)


class OneSize(nn.Module):
    """Takes images of 16 pixels, and raises `error` on others, as vision transformers do."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 16:
            raise self.error
        return self.head(self.norm(self.conv(x)).relu()).mean((2, 3))


def networks(error: Exception) -> tuple[OneSize, OneSize, featviz.Alignment]:
    torch.manual_seed(0)
    a, b = OneSize(error), OneSize(error)
    return a, b, featviz.align(a, b, GOOD)


WITH_DATA = {
    "align": lambda a, b, _, x: featviz.align(a, b, GOOD, method="activations", data=[(x, LABELS)]),
    "align_many": lambda a, b, _, x: featviz.align_many([a, b], GOOD, "activations", data=[x]),
    "merge": lambda a, b, alignment, x: featviz.merge(a, b, alignment, data=[x]),
    "evaluate": lambda a, b, _, x: featviz.evaluate(a, [(x, LABELS)]),
    "evaluate_ensemble": lambda a, b, _, x: featviz.evaluate_ensemble(a, b, [(x, LABELS)]),
    "loss_barrier": lambda a, b, alignment, x: featviz.loss_barrier(a, b, alignment, [(x, LABELS)], points=2),
    "layer_connectivity": lambda a, b, alignment, x: featviz.layer_connectivity(a, b, b, alignment.groups.layers, [x]),
    "exemplars": lambda a, b, _, x: featviz.exemplars({"A": a, "B": b}, "conv", [x]),
    "unit_statistics": lambda a, b, _, x: featviz.unit_statistics(a, "conv", data=[x]),
    "fate": lambda a, b, alignment, x: featviz.fate(a, b, alignment, b, "conv", data=[x]),
}


@pytest.mark.parametrize("run", WITH_DATA.values(), ids=WITH_DATA)
def test_data_of_a_size_that_the_network_does_not_take_are_one_sentence(run):
    given = networks(AssertionError("wrong height"))
    with pytest.raises(DataError, match=r"fails on a batch of shape \(20, 3, 8, 8\) \(AssertionError: wrong height\)"):
        run(*given, BAD)
    run(*given, GOOD)


def test_memory_that_was_refused_is_no_fault_of_the_data():
    a, _, _ = networks(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        featviz.evaluate(a, [(BAD, LABELS)])


@pytest.mark.parametrize("label", [5, -1])
def test_labels_of_classes_that_the_network_lacks_are_one_sentence(label):
    a, _, _ = networks(AssertionError())
    with pytest.raises(DataError, match=rf"outputs \(20, 5\) and labels from {min(label, 0)} to {max(label, 0)}"):
        featviz.evaluate(a, [(GOOD, LABELS.index_fill(0, torch.tensor(3), label))])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (AssertionError("wrong height"), "AssertionError: wrong height"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_example_of_another_size_is_one_sentence_whatever_the_network_raises(error, told):
    a, b, _ = networks(error)
    expected = rf"does not run on the example input of shape \(20, 3, 8, 8\) \({told}\)"
    for run in (
        lambda: featviz.permutation_groups(a, BAD),
        lambda: featviz.align(a, b, BAD),
        lambda: tensors_until(a, "norm", BAD),
    ):
        with pytest.raises(ModelError, match=expected):
            run()


class Float32Only(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise NotImplementedError("no kernel for Double")
        return self.head(self.conv(x).relu())


def test_a_network_of_float32_alone_is_told_from_one_that_does_not_run():
    with pytest.raises(ModelError, match=r"cannot be followed in float64 .*no kernel for Double.*verify=False"):
        featviz.permutation_groups(Float32Only(), GOOD)
    assert featviz.permutation_groups(Float32Only(), GOOD, verify=False).sizes


@pytest.mark.parametrize("name", ["resnet20-x999999", "resnet20-x" + "9" * 400, "vgg11_bn-x999999"])
def test_a_network_that_no_memory_holds_is_one_sentence(name):
    with pytest.raises(ModelError, match=r"is too large|there is no"):
        zoo_network(name)
