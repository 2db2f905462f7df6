"""What a caller gives counts everywhere: a subject's normalization, numbers of units of any kind, data of any kind."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import featviz
from featviz.errors import AlignmentError, BatchError, DataError, UnitError
from featviz.weights.checks import digest

SMALL = featviz.RenderConfig(size=8, steps=1)
NORMALIZATION = {"mean": (0.9,) * 3, "std": (0.1,) * 3}
EXAMPLE = torch.rand(1, 3, 8, 8)


def network(seed: int, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    body = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(6, classes)).eval()


class Dark(nn.Module):
    """Says class 1 of images that are darker than its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.fill_(1 / 3)
            self.head.weight.zero_()[0] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x)).mean((2, 3))


DARK_IMAGES = [
    (torch.full((4, 3, 8, 8), 0.7), torch.ones(4, dtype=torch.long))
]  # darker than 0.9, not than ImageNet's mean


def test_a_permuted_subject_is_fed_as_the_subject_is():
    subject = featviz.Subject(Dark(), **NORMALIZATION)
    one = featviz.align(subject, subject, EXAMPLE)
    many = featviz.align_many([subject, subject], EXAMPLE, "weights")
    for permuted in (one.permute(subject), *many.permute([subject, subject])):
        assert featviz.evaluate(permuted, DARK_IMAGES)[1] == 100
    assert featviz.evaluate(Dark(), DARK_IMAGES)[1] == 0


@pytest.mark.parametrize("given", ["subject", "config"])
def test_a_path_is_evaluated_with_the_normalization_that_was_given(given):
    model = featviz.Subject(Dark(), **NORMALIZATION) if given == "subject" else Dark()
    config = SMALL if given == "subject" else featviz.RenderConfig(size=8, steps=1, **NORMALIZATION)
    path = featviz.render_unit_path(model, model, "conv", [0], points=2, test_data=DARK_IMAGES, config=config)
    assert path.accuracies["averaged"] == (100, 100)


def test_the_merge_of_a_triplet_is_repaired_with_the_normalization_of_the_config():
    a, b, data = network(0), network(1), [torch.rand(64, 3, 8, 8)]
    alignment = featviz.align(a, b, EXAMPLE)
    config = featviz.RenderConfig(size=8, steps=1, **NORMALIZATION)
    triplet = featviz.render_unit_triplet(a, b, "1", [0], alignment=alignment, data=data, config=config)
    subjects = [featviz.Subject(model, **NORMALIZATION) for model in (a, b)]
    assert triplet.digests["merged"] == digest(featviz.merge(*subjects, alignment, data=data))


def test_numbers_of_numpy_and_torch_name_the_same_units():
    model = network(0)
    plain = featviz.render_variants({"A": model}, "1", [3], variants=2, config=SMALL).images["A"]
    for units in (np.array([3]), torch.tensor([3]), np.int64(3), torch.tensor(3)):
        made = featviz.render_variants({"A": model}, "1", units, variants=2, config=SMALL)
        assert torch.equal(made.images["A"], plain)
        assert featviz.render_panel({"A": model}, "1", units, config=SMALL).units == (3,)


def test_a_panel_of_units_from_the_indexer_is_saved(tmp_path):
    a, b = network(0), network(1)
    own = featviz.align(a, b, EXAMPLE).indexer.a_to_b("1", [3, 4])
    panel = featviz.render_panel({"A": a, "B": b}, "1", [3, 4], own_units={"B": own}, config=SMALL)
    assert panel.save(tmp_path / "panel.png").exists()


@pytest.mark.parametrize("units", [np.array([False, True]), 2.7, [2.7], "3", [True]])
def test_what_is_no_number_of_a_unit_is_refused(units):
    with pytest.raises(UnitError, match="is no unit: give whole numbers"):
        featviz.render_panel({"A": network(0)}, "1", units, config=SMALL)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.rand(32, 3, 8, 8))


@pytest.mark.parametrize("data", [DataLoader(Stream(), 8), torch.rand(4, 8, 3, 8, 8)], ids=["stream", "tensor"])
def test_data_without_a_length_and_a_tensor_of_batches_serve(data):
    assert featviz.align(network(0), network(1), EXAMPLE, "activations", data).method == "activations"


@pytest.mark.parametrize("batch", [{"pixel_values": torch.rand(20, 3, 8, 8)}, ("a", "b"), []])
def test_a_batch_of_another_form_is_one_sentence(batch):
    for run in (
        lambda: featviz.align(network(0), network(1), EXAMPLE, "activations", [batch]),
        lambda: featviz.evaluate(network(0), [batch]),
        lambda: featviz.unit_statistics(network(0), "1", data=[batch]),
    ):
        with pytest.raises(BatchError, match=r"has a batch that is a .*: give batches x or \(x, label\)"):
            run()


class Cached(nn.Module):
    """Keeps a tensor that its first run makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.scale = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), None

    def forward(self, x: Tensor) -> Tensor:
        found = self.conv(x).relu()
        if self.scale is None:
            self.scale = torch.full(found.shape[-2:], 0.5)
        return self.head(found * self.scale).mean((2, 3))


def test_matching_by_activations_does_not_run_the_callers_networks():
    a, b, seen = Cached(), Cached(), []

    def batches():
        seen.append((a.training, len(a._forward_hooks), len(a._forward_pre_hooks)))
        yield torch.rand(8, 3, 8, 8)

    featviz.align(a, b, EXAMPLE, "activations", batches())
    assert seen == [(True, 0, 0)]
    a(EXAMPLE).sum().backward()  # fails where the network keeps a tensor of inference mode


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_methods_that_ascend_a_gradient_work_in_every_mode_of_the_caller(mode):
    with mode():
        assert featviz.align(network(0), network(1), EXAMPLE, "sinkhorn").method == "sinkhorn"
        assert featviz.align_many([network(0), network(1)], EXAMPLE, "c2m3").method == "c2m3"


def test_permutations_are_written_and_read_with_subjects(tmp_path):
    a, b = (featviz.Subject(network(seed), **NORMALIZATION) for seed in (0, 1))
    alignment = featviz.align(a, b, EXAMPLE)
    path = featviz.write_permutations(alignment, b, tmp_path / "ab.json")
    again = featviz.read_permutations(path, a, b, EXAMPLE)
    (name,) = alignment.permutations
    assert (again.permutations[name] == alignment.permutations[name]).all()
    assert featviz.permutation_groups(a, EXAMPLE).sizes == alignment.groups.sizes


def test_networks_with_other_heads_have_fates_and_paths():
    a, b, data = network(0, 5), network(1, 7), [torch.rand(40, 3, 8, 8)]
    alignment = featviz.align(a, b, EXAMPLE)
    merged = featviz.merge(a, b, alignment, data=data, head="a")
    assert [layer.layer for layer in featviz.fate(a, b, alignment, merged, "1", data=data)] == ["1"]
    assert featviz.render_unit_path(a, b, "1", [0], alignment=alignment, points=2, config=SMALL).units == (0,)
    with pytest.raises(UnitError, match="not the same in A and in B"):
        featviz.fate(a, b, alignment, merged, "5", data=data, controls=False)
    both = featviz.merge(a, b, alignment, head="both")
    with pytest.raises(DataError, match="gives a tuple and not one tensor"):
        featviz.evaluate(both, [(data[0], torch.zeros(40, dtype=torch.long))])


@pytest.mark.parametrize("weights", [[0.4], None, "x"])
def test_weights_of_another_form_are_one_sentence(weights):
    with pytest.raises(AlignmentError, match=r"weights? (of x )?(is|are) "):
        featviz.task_arithmetic(network(0), {"x": network(1)}, weights=weights)
    with pytest.raises(AlignmentError, match="give one number for each network, in their order"):
        featviz.merge_many([network(0), network(1)], None, weights={"a": 0.5, "b": 0.5})
