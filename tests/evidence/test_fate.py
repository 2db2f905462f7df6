"""Fates: figures equal plain numpy on whole feature maps; verdicts find what was planted (P9)."""

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import TinyCNN, TinyResNet, planted, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.config import FateConfig
from featviz.errors import AlignmentError, CheckpointError, ModelError, OutputError, UnitError
from featviz.evidence.exemplars.exemplars import exemplars
from featviz.evidence.fates.fate import fate, fate_of_parents
from featviz.evidence.fates.stored_fates import pack, read_fates
from featviz.matching.align import align
from featviz.merging.merge import merge

FEW = FateConfig(resamples=10)


class Tokens(nn.Module):
    """Patches as tokens (image, token, unit), a residual block on them, and logits."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.mean, self.std = (0.5,) * 3, (0.25,) * 3
        self.patch, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.up, self.down, self.head = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        return self.head((x + self.down(F.gelu(self.up(self.norm(x))))).mean(1))


def images(count: int, seed: int = 0, size: int = 8) -> Tensor:
    """Smooth random images in [0, 1]."""
    noise = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return (F.avg_pool2d(noise, 3, 1, 1) * 2 - 0.5).clamp(0, 1)


def pair(make, noise: float = 0.5):
    """A network, one that differs by noise with its units in another order, their alignment, and their average."""
    a = seeded(make)
    b, _, _ = planted(a, images(2), noise=noise)
    alignment = align(a, b, images(2))
    return a, b, alignment, merge(a, b, alignment, repair="none")


def outputs(model: nn.Module, layer: str, x: Tensor, axis: int) -> np.ndarray:
    """All outputs of a layer, (unit, image and position), by one float64 pass over everything."""
    model, seen = copy.deepcopy(model).double().eval(), []
    model.get_submodule(layer).register_forward_hook(lambda _, args, output: seen.append(output.clone()))
    with torch.no_grad():
        model((x.double() - 0.5) / 0.25)
    return seen[0].movedim(axis, 0).flatten(1).numpy()


def correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.corrcoef(one, other)[: len(one), len(one) :])


CASES = [
    pytest.param(TinyResNet, ["bn2", "conv3"], 1, id="convolutions"),
    pytest.param(lambda: TinyCNN(width=7), ["fc"], -1, id="linear"),
    pytest.param(Tokens, ["norm", "up"], -1, id="tokens"),
]


@pytest.mark.parametrize(("make", "layers", "axis"), CASES)
@pytest.mark.parametrize("batch", [64, 7, 1])
def test_figures_equal_those_of_whole_feature_maps(make, layers, axis, batch):
    a, b, alignment, merged = pair(make)
    x = images(61)
    fates = fate(
        a,
        b,
        alignment,
        merged,
        layers,
        data=list(x.split(batch)),
        repair="none",
        config=FEW,
    )
    assert [found.layer for found in fates] == layers
    assert fates.images == 61
    for found in fates:
        one, two, m = (outputs(model, found.layer, x, axis) for model in (a, alignment.permute(b), merged))
        mean = (one + two) / 2
        figures = found.figures
        np.testing.assert_allclose(figures.agreement[0], correlations(one, two).diagonal(), atol=2e-5)
        np.testing.assert_allclose(figures.fidelity[0], correlations(m, mean).diagonal(), atol=2e-5)
        for number, parent in enumerate((one, two)):
            matrix = correlations(m, parent)
            np.testing.assert_allclose(figures.correlation[number, 0], matrix.diagonal(), atol=2e-5)
            assert figures.nearest[number, 0].tolist() == matrix.argmax(1).tolist()
            predicted = correlations(m, mean).diagonal() * correlations(parent, mean).diagonal()
            np.testing.assert_allclose(figures.predicted[number, 0], predicted, atol=2e-5)
        assert figures.nearest[2, 0].tolist() == correlations(m, mean).argmax(1).tolist()
        np.testing.assert_allclose(figures.variance[0], m.var(1) / mean.var(1), rtol=1e-4)
        unmatched = correlations(one, two)[~np.eye(len(one), dtype=bool)]
        assert found.control == pytest.approx(np.quantile(unmatched, 0.95), abs=2e-5)
        plain = merge(a, b, None, repair="none")
        np.testing.assert_allclose(
            found.unaligned, correlations(outputs(plain, found.layer, x, axis), one).diagonal(), atol=2e-5
        )


def test_halves_are_those_of_every_other_image():
    a, b, alignment, merged = pair(TinyResNet)
    x = images(60)
    (found,) = fate(a, b, alignment, merged, "bn2", data=[x], controls=False, config=FEW)
    for half in (0, 1):
        one, two = (outputs(model, "bn2", x[half::2], 1) for model in (a, alignment.permute(b)))
        np.testing.assert_allclose(found.halves.agreement[half], correlations(one, two).diagonal(), atol=2e-5)


def test_verdicts_do_not_depend_on_batches_or_memory():
    a, b, alignment, merged = pair(TinyResNet, noise=1.0)
    x = images(61)
    kinds = [
        fate(a, b, alignment, merged, data=list(x.split(size)), controls=False, memory=memory)
        for size, memory in ((61, None), (5, None), (61, 1))
    ]
    for other in kinds[1:]:
        for one, two in zip(kinds[0], other, strict=True):
            assert one.verdicts.verdict == two.verdicts.verdict
            np.testing.assert_allclose(one.verdicts.confidence, two.verdicts.confidence)


def test_identical_networks_keep_every_unit():
    a, b, alignment, merged = pair(lambda: TinyResNet(width=16), noise=0)
    for found in fate(a, b, alignment, merged, ["bn*", "conv3"], data=[images(80)], controls=False):
        assert set(found.verdicts.verdict) == {"kept"}
        np.testing.assert_allclose(found.figures.agreement, 1, atol=1e-5)
        np.testing.assert_allclose(found.figures.fidelity, 1, atol=1e-5)
        np.testing.assert_allclose(found.figures.predicted, 1, atol=1e-5)


def test_a_random_alignment_keeps_nothing():
    a = seeded(lambda: TinyResNet(width=48))
    b = seeded(lambda: TinyResNet(width=48), seed=1)
    alignment = align(a, b, images(2), method="random", seed=3)
    merged = merge(a, b, alignment, repair="none")
    fates = fate(a, b, alignment, merged, ["bn1", "bn2", "conv3"], data=[images(80)], controls=False)
    kept = [verdict == "kept" for found in fates for verdict in found.verdicts.verdict]
    assert np.mean(kept) < 0.05


def swapped(model: nn.Module, one: int, other: int) -> nn.Module:
    """Two units of `conv1` and `bn1` exchanged, and nothing after them."""
    model = copy.deepcopy(model)
    order = torch.arange(model.bn1.num_features)
    order[[one, other]] = order[[other, one]]
    with torch.no_grad():
        for module, names in (
            (model.conv1, ["weight"]),
            (model.bn1, ["weight", "bias", "running_mean", "running_var"]),
        ):
            for name in names:
                getattr(module, name).copy_(getattr(module, name)[order].clone())
    return model


def test_two_swapped_units_are_the_ones_that_are_flagged():
    a, b, alignment, merged = pair(lambda: TinyResNet(width=16), noise=0.02)
    (found,) = fate(a, b, alignment, swapped(merged, 3, 11), "bn1", data=[images(80)], controls=False)
    assert [unit for unit, verdict in enumerate(found.verdicts.verdict) if verdict != "kept"] == [3, 11]
    assert {found.verdicts.verdict[unit] for unit in (3, 11)} == {"lost"}
    assert found.figures.nearest[:, 0, 3].tolist() == [11, 11, 11]


def test_a_unit_without_weights_is_dead():
    a, b, alignment, merged = pair(lambda: TinyResNet(width=16), noise=0.02)
    with torch.no_grad():
        merged.conv1.weight[5] = 0
    (found,) = fate(a, b, alignment, merged, "bn1", data=[images(80)], controls=False)
    assert [unit for unit, verdict in enumerate(found.verdicts.verdict) if verdict != "kept"] == [5]
    assert found.verdicts.verdict[5] == "dead"
    assert found.figures.fidelity[0, 5] == 0


@pytest.mark.parametrize("name", ["A's", "B's"])
def test_a_unit_copied_from_one_parent_is_that_parents(name):
    a, b, alignment, _ = pair(lambda: TinyResNet(width=16), noise=0.02)
    other, units = (b, alignment.indexer.a_to_b("bn1", [4, 2, 9])) if name == "A's" else (a, [4, 2, 9])
    with torch.no_grad():  # unit 4 of the other parent has another feature
        other.conv1.weight[units[0]] = other.conv1.weight[units[1]] - other.conv1.weight[units[2]]
    alignment = align(a, b, images(2), method="activations", data=[(images(80) - 0.5) / 0.25])
    merged = merge(a, b, alignment, repair="none")
    source = a if name == "A's" else alignment.permute(b)
    with torch.no_grad():
        merged.conv1.weight[4] = source.conv1.weight[4]
        for part in ("weight", "bias", "running_mean", "running_var"):
            getattr(merged.bn1, part)[4] = getattr(source.bn1, part)[4]
    (found,) = fate(a, b, alignment, merged, "bn1", data=[images(80)], controls=False)
    assert found.verdicts.likeliest[4] == name
    assert {verdict for unit, verdict in enumerate(found.verdicts.likeliest) if unit != 4} == {"kept"}


def test_units_that_are_combined_are_held_against_their_own_combination():
    a, b, _, _ = pair(TinyResNet)
    x = images(61)
    alignment = align(a, b, images(2), method="zipit", data=[(x - 0.5) / 0.25])
    merged = merge(a, b, alignment, repair="none")
    (found,) = fate(a, b, alignment, merged, "bn2", data=[x], repair="none", config=FEW)
    one, two, m = (outputs(model, "bn2", x, 1) for model in (a, b, merged))
    rows = np.zeros((2, len(m), len(m)))
    for unit in range(len(m)):
        for member in alignment.indexer.members("bn2", unit):
            rows["AB".index(member.model), unit, member.unit] = member.weight
    part_a, part_b = rows[0] @ one, rows[1] @ two
    np.testing.assert_allclose(found.figures.fidelity[0], correlations(m, part_a + part_b).diagonal(), atol=2e-5)
    both = (rows != 0).any(2).all(0)
    assert both.any()
    np.testing.assert_allclose(
        found.figures.agreement[0][both], correlations(part_a[both], part_b[both]).diagonal(), atol=2e-5
    )
    assert (found.figures.agreement[0][~both] == 0).all()
    assert found.partner == [-1] * len(m)


def test_three_parents():
    a = seeded(TinyResNet)
    parents = {name: planted_copy(a, seed) for name, seed in (("one", 1), ("two", 2), ("three", 3))}
    merged = copy.deepcopy(a)
    with torch.no_grad():
        for name, tensor in merged.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.stack([model.state_dict()[name] for model in parents.values()]).mean(0))
    x = images(61)
    (found,) = fate_of_parents(parents, merged, "bn2", data=[x], config=FEW)
    maps, m = [outputs(model, "bn2", x, 1) for model in parents.values()], outputs(merged, "bn2", x, 1)
    pairs = [correlations(maps[i], maps[j]).diagonal() for i, j in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(found.figures.agreement[0], np.mean(pairs, 0), atol=2e-5)
    np.testing.assert_allclose(found.figures.fidelity[0], correlations(m, sum(maps) / 3).diagonal(), atol=2e-5)
    assert {"correlation one", "predicted three", "nearest mean"} <= set(found.row(0))


def planted_copy(model: nn.Module, seed: int) -> nn.Module:
    """The network with noise in its weights, units in the same order."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return model


def test_the_networks_are_left_as_they_were():
    a, b, alignment, merged = pair(TinyResNet)
    for model in (a, b, merged):
        model.train()
    before = [copy.deepcopy(model.state_dict()) for model in (a, b, merged)]
    fate(a, b, alignment, merged, "bn2", data=[images(40)], repair="none", config=FEW)
    for model, state in zip((a, b, merged), before, strict=True):
        assert model.training
        assert not model.bn2._forward_hooks
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def fates_of_two_layers(**options):
    a, b, alignment, merged = pair(TinyResNet)
    return fate(a, b, alignment, merged, ["bn1", "bn2"], data=[images(40)], config=FEW, **options)


def test_results_go_to_files_and_notebooks(tmp_path):
    fates = fates_of_two_layers(repair="none")
    record = json.loads(fates.save(tmp_path / "fates.json").read_text())
    assert [layer.row(3) for layer in read_fates(tmp_path / "fates.json")] == [layer.row(3) for layer in fates]
    assert set(record["normalization"]) >= {"A", "B'", "merged"}
    assert [len([u for u in record["units"] if u["layer"] == layer]) for layer in ("bn1", "bn2")] == [8, 8]
    assert record["layers"][0]["layer"] == "bn1"
    assert sum(record["layers"][0]["verdicts"].values()) == pytest.approx(1)
    with fates.save(tmp_path / "fates.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 16
    assert float(lines[9]["agreement"]) == fates["bn2"].row(1)["agreement"]
    assert "<table>" in fates._repr_html_()
    assert "bn2" in str(fates)
    assert fates.caption("bn2", 1)[0].startswith(fates["bn2"].verdicts.verdict[1])
    with pytest.raises(OutputError, match=r"\.json or \.csv"):
        fates.save(tmp_path / "fates.xlsx")
    with pytest.raises(UnitError, match="bn2"):
        fates["bn9"]


def test_bad_input_gives_one_true_sentence():
    a, b, alignment, merged = pair(TinyResNet)
    with pytest.raises(UnitError, match=r"no layer 'bn7'.*bn1"):
        fate(a, b, alignment, merged, "bn7", data=[images(40)])
    with pytest.raises(AlignmentError, match="19 images are too few"):
        fate(a, b, alignment, merged, "bn2", data=[images(19)], controls=False)
    with torch.no_grad():
        merged.bn2.bias[3] = torch.nan
    with pytest.raises(ModelError, match="bn2 is not finite"):
        fate(a, b, alignment, merged, "bn2", data=[images(40)], controls=False)


def test_exemplars_come_from_the_same_pass():
    a, b, alignment, merged = pair(TinyResNet)
    x, passes = images(40), []

    class Counted(list):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    fates = fate(
        a,
        b,
        alignment,
        merged,
        "bn2",
        data=Counted([x]),
        controls=False,
        config=FEW,
        exemplars=3,
    )
    assert len(passes) == 1
    assert fates.exemplars is not None
    alone = exemplars({"A": a, "B'": alignment.permute(b), "merged": merged}, "bn2", [x], k=3)
    for name in ("A", "B'", "merged"):
        for unit in range(8):
            assert fates.exemplars.found("bn2", unit, name) == alone.found("bn2", unit, name)


def test_stored_fates_answer_as_the_measured_ones_do(tmp_path):
    fates = fates_of_two_layers(controls=False, exemplars=2)
    path = tmp_path / "fates.json"
    path.write_text(json.dumps(pack(fates, {"data": "random images"})))
    stored = read_fates(path)
    assert stored.about["data"] == "random images"
    assert [layer.layer for layer in stored] == ["bn1", "bn2"]
    for unit in range(8):
        assert stored.caption("bn2", unit) == fates.caption("bn2", unit)
        row, found = stored["bn2"].row(unit), fates["bn2"].row(unit)
        assert row["agreement"] == pytest.approx(found["agreement"], abs=6e-4)
        assert row["nearest mean"] == found["nearest mean"]
        best = fates.exemplars.found("bn2", unit, "merged")
        assert row["exemplars"]["merged"] == [exemplar.image for exemplar in best]
    with pytest.raises(UnitError, match="no unit 8"):
        stored["bn2"].row(8)
    with pytest.raises(CheckpointError, match="holds no fates"):
        read_fates(Path(__file__).parent.parent.parent / "gallery" / "demo-layer3.1.bn1.json")
