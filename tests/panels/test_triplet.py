"""P2, P4 and P7 for the main job: what differs between the columns comes from the weights, and from nothing else."""

import copy
import json

import numpy as np
import pytest
import torch
import torchvision
from networks import TinyCNN, TinyResNet, planted, seeded
from PIL import Image
from torch import nn

import featviz
from featviz.config import AlignConfig
from featviz.errors import AlignmentError, DeviceError, ModelError, RenderError, UnitError
from featviz.rendering import FeatureExtractor, ascend, channel, seeded_starts
from featviz.weights.checks import digest

CONFIG = featviz.RenderConfig(size=12, steps=4, precision="float64")


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    return seeded(TinyResNet, 0), seeded(TinyResNet, 1)


@pytest.fixture(scope="module")
def alignment(pair) -> featviz.Alignment:
    return featviz.align(*pair, torch.rand(1, 3, 8, 8))


def test_unit_i_of_permuted_b_looks_like_unit_a_to_b_of_the_original_b(pair, alignment):
    """The identity behind everything: B' at i and B at perm[i], from one start, are the same image."""
    units = [0, 3, 5]
    triplets = featviz.render_unit_triplet(*pair, "bn2", units, alignment=alignment, config=CONFIG)
    partners = alignment.indexer.a_to_b("bn2", units).tolist()
    assert partners != units
    extractor = FeatureExtractor(pair[1], ("bn2",), CONFIG)
    start = seeded_starts(CONFIG, [("bn2", unit) for unit in units], 3, dtype=torch.float64)
    plain = ascend(extractor, channel("bn2", partners), start)
    torch.testing.assert_close(triplets.b.images, plain.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(triplets.b.score, plain.score, rtol=1e-9, atol=1e-9)


def test_three_identical_subjects_give_three_identical_images():
    a = seeded(TinyResNet)
    b, _, _ = planted(a, torch.rand(1, 3, 8, 8))
    triplets = featviz.render_unit_triplet(a, b, "conv3", [0, 9], config=CONFIG)
    torch.testing.assert_close(triplets.a.images, triplets.b.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(triplets.a.images, triplets.merged.images, rtol=0, atol=1e-6)
    cross = triplets.cross
    torch.testing.assert_close(cross, cross[:, :1, :1].expand_as(cross), rtol=1e-6, atol=1e-9)


def test_the_same_seed_gives_the_same_image_and_another_seed_another(pair, alignment):
    one, two = (featviz.render_unit_triplet(*pair, "bn1:2", alignment=alignment, config=CONFIG) for _ in range(2))
    assert torch.equal(one.merged.images, two.merged.images)
    other = featviz.RenderConfig(size=12, steps=4, precision="float64", seed=1)
    three = featviz.render_unit_triplet(*pair, "bn1:2", alignment=alignment, config=other)
    assert (one.merged.images - three.merged.images).abs().max() > 0.01


def test_a_units_images_do_not_depend_on_its_batch_mates(pair, alignment):
    many = featviz.render_unit_triplet(*pair, "bn1", alignment=alignment, config=CONFIG)
    few = featviz.render_unit_triplet(*pair, "bn1", [6, 1], alignment=alignment, config=CONFIG)
    for all_of_them, some in ((many.a, few.a), (many.b, few.b), (many.merged, few.merged)):
        torch.testing.assert_close(all_of_them.images[[6, 1]], some.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(many.cross[[6, 1]], few.cross, rtol=1e-8, atol=1e-10)


def test_cross_is_every_subjects_score_of_every_image(pair, alignment):
    merged = featviz.merge(*pair, alignment)
    triplets = featviz.render_unit_triplet(*pair, "bn2", [1, 4], merged=merged, alignment=alignment, config=CONFIG)
    subjects = (pair[0], alignment.permute(pair[1]), merged)
    for image_of, part in enumerate((triplets.a, triplets.b, triplets.merged)):
        torch.testing.assert_close(triplets.cross[:, image_of, image_of], part.score)
        x = (part.images.double() - 0.5) / 0.25
        for seen_by, model in enumerate(subjects):
            net = copy.deepcopy(model).double()
            with torch.no_grad():
                h = torch.relu(net.bn1(net.conv1(x)))
                expected = net.bn2(net.conv2(h))[[0, 1], [1, 4]].mean((1, 2))
            torch.testing.assert_close(triplets.cross[:, image_of, seen_by], expected, rtol=1e-4, atol=1e-5)


def test_the_callers_models_are_untouched(pair, alignment):
    for model in pair:
        model.train()
        model.bn1.weight.requires_grad_(False)
    before = [copy.deepcopy(model.state_dict()) for model in pair]
    featviz.render_unit_triplet(*pair, "bn1", [0], alignment=alignment, config=featviz.RenderConfig(size=12, steps=2))
    for model, state in zip(pair, before, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert all(m.training for m in model.modules())
        assert model.conv1.weight.requires_grad
        assert not model.bn1.weight.requires_grad
        assert all(p.grad is None for p in model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_everything_is_computed_when_only_two_models_are_given(pair):
    data = [torch.randn(8, 3, 12, 12) for _ in range(2)]
    quick = featviz.RenderConfig(size=12, steps=2)
    by_data = featviz.render_unit_triplet(*pair, "fc:0-1", data=data, config=quick)
    assert by_data.method == "activations"
    assert [match.fixed for match in by_data.matches] == [True, True]
    assert featviz.render_unit_triplet(*pair, "conv1", 3, config=quick).method == "weights"


def test_a_merge_without_the_alignment_that_made_it_is_warned_of(pair, alignment, caplog):
    merged, quick = featviz.merge(*pair, alignment), featviz.RenderConfig(size=12, steps=0)
    with caplog.at_level("WARNING", "featviz.triplet"):
        featviz.render_unit_triplet(*pair, "conv1", 0, merged=merged, alignment=alignment, config=quick)
        assert not caplog.records
        featviz.render_unit_triplet(*pair, "conv1", 0, merged=merged, config=quick)
    assert "matched anew" in caplog.text


def test_a_dead_unit_is_reported_not_drawn_gray_in_silence():
    class Gated(nn.Module):
        def __init__(self, bias: float) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()
            self.fc = nn.Linear(4, 2)
            nn.init.constant_(self.conv.bias, bias)

        def forward(self, x):
            return self.fc(self.relu(self.conv(x)).mean((2, 3)))

    a, b = seeded(lambda: Gated(5.0)), seeded(lambda: Gated(-500.0), 1)
    with torch.no_grad():
        a.conv.bias.fill_(5.0)
        b.conv.bias.fill_(-500.0)
    with pytest.warns(UserWarning, match=r"relu:0 in B'"):
        triplets = featviz.render_unit_triplet(a, b, "relu", [0], config=featviz.RenderConfig(size=8, steps=2))
    assert triplets.b.dead.tolist() == [True]
    assert triplets.a.dead.tolist() == [False]
    assert "dead" in str(triplets.captions(0)["B'"])


def test_gray_scale_networks_render():
    a, b = (seeded(lambda: TinyCNN(in_channels=1), seed) for seed in (0, 1))
    triplets = featviz.render_unit_triplet(a, b, "conv2", [0, 1], config=featviz.RenderConfig(size=16, steps=3))
    assert triplets.a.images.shape == (2, 1, 16, 16)
    assert triplets.grid().mode == "RGB"


def test_a_torchvision_network_works_the_same_way():
    torch.manual_seed(0)
    a, b = torchvision.models.resnet18(), torchvision.models.resnet18()
    config = featviz.RenderConfig(size=64, steps=1)
    triplets = featviz.render_unit_triplet(a, b, "layer1.0.bn1", [0, 5], config=config)
    assert triplets.merged.images.shape == (2, 3, 64, 64)


def test_saving_writes_the_picture_and_its_record(pair, alignment, tmp_path):
    triplets = featviz.render_unit_triplet(*pair, "bn2", [2, 0], alignment=alignment, config=CONFIG)
    triplets.save(tmp_path / "deep" / "bn2.png")
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["bn2.json", "bn2.png"]
    record = json.loads((tmp_path / "deep" / "bn2.json").read_text())
    assert [unit["a"] for unit in record["units"]] == [2, 0]
    assert record["units"][0]["b"] == int(alignment.indexer.a_to_b("bn2", 2))
    assert record["units"][0]["activation"]["merged"] == pytest.approx(triplets.merged.score[0].item())
    picture = np.asarray(Image.open(tmp_path / "deep" / "bn2.png"))
    assert picture.shape[1] > 3 * 160


def test_further_networks_are_further_columns_and_change_nothing_else(pair, alignment):
    three = featviz.render_unit_triplet(*pair, "bn2", [1, 4], alignment=alignment, config=CONFIG)
    naive = featviz.merge(*pair, None)
    four = featviz.render_unit_triplet(
        *pair, "bn2", [1, 4], alignment=alignment, also={"unaligned": naive}, config=CONFIG
    )
    assert four.subjects == ("A", "B'", "merged", "unaligned")
    torch.testing.assert_close(four.merged.images, three.merged.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(four.cross[:, :3, :3], three.cross)
    alone = featviz.render(naive, "bn2:1,4", CONFIG)
    torch.testing.assert_close(four["unaligned"].images, alone.images, rtol=0, atol=1e-6)
    with pytest.raises(RenderError, match="is a column already"):
        featviz.render_unit_triplet(*pair, "bn2", [1], alignment=alignment, also={"A": naive}, config=CONFIG)


def test_the_record_holds_the_digests_of_all_subjects(pair, alignment):
    merged = featviz.merge(*pair, alignment)
    triplets = featviz.render_unit_triplet(*pair, "bn2", [1], merged=merged, alignment=alignment, config=CONFIG)
    record = triplets.record()
    permuted = alignment.permute(pair[1])
    assert record["digests"] == {"A": digest(pair[0]), "B'": digest(permuted), "merged": digest(merged)}
    assert (record["digest_a"], record["digest_b"]) == (digest(pair[0]), digest(pair[1]))
    assert record["normalization"]["merged"]["source"] == "the model's mean and std"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layer": "bn7"}, UnitError, "did you mean bn"),
        ({"layer": "bn1:99"}, UnitError, "its 8 units are 0 to 7"),
        ({"merged": nn.Linear(2, 2)}, ModelError, "one architecture"),
        ({"device": "cuda:7"}, DeviceError, "is not there"),
        ({"model_b": seeded(TinyResNet, 9)}, AlignmentError, "belongs to another model B"),
    ],
)
def test_bad_input_is_one_sentence(pair, alignment, change, error, words):
    given = {"model_a": pair[0], "model_b": pair[1], "layer": "bn1:0", "alignment": alignment, "config": CONFIG}
    with pytest.raises(error, match=words) as caught:
        featviz.render_unit_triplet(**(given | change))
    assert "\n" not in str(caught.value)


def test_an_image_too_small_for_the_network_is_one_sentence():
    from featviz.zoo.vgg import CifarVGG

    a, b = (seeded(lambda: CifarVGG(11, 0.125), seed) for seed in (0, 1))
    alignment = featviz.align(a, b, torch.rand(1, 3, 32, 32))
    with pytest.raises(RenderError, match="size") as caught:
        featviz.render_unit_triplet(
            a, b, "features.18", [0], alignment=alignment, config=featviz.RenderConfig(size=4, steps=1)
        )
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def zipped(pair) -> tuple[featviz.Alignment, featviz.Triplets]:
    """Zipped mostly within each network, so that some merged units have no member in one of them."""
    data = [torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    loose = AlignConfig(alpha=1.0, beta=1.0)
    zipped = featviz.align(*pair, torch.rand(1, 3, 8, 8), "zipit", data, options=loose)
    return zipped, featviz.render_unit_triplet(*pair, "conv3", alignment=zipped, config=CONFIG)


def test_a_merged_unit_stands_beside_its_strongest_members_in_the_original_parents(pair, zipped):
    alignment, triplets = zipped
    merged = featviz.merge(*pair, alignment)
    rows = [row for row, mix in enumerate(triplets.matches) if mix.a is not None and mix.b is not None][:3]
    for model, part, own in zip(
        (*pair, merged), (triplets.a, triplets.b, triplets.merged), ("a", "b", "unit"), strict=True
    ):
        units = [getattr(triplets.matches[row], own) for row in rows]
        extractor = FeatureExtractor(model, ("conv3",), CONFIG)
        start = seeded_starts(CONFIG, [("conv3", row) for row in rows], 3, dtype=torch.float64)
        plain = ascend(extractor, channel("conv3", units), start)
        torch.testing.assert_close(part.images[rows], plain.images, rtol=0, atol=1e-6)
        torch.testing.assert_close(part.score[rows], plain.score, rtol=1e-9, atol=1e-9)


def test_a_parent_without_a_member_has_an_empty_labelled_cell_and_no_score(zipped, tmp_path):
    _, triplets = zipped
    row = next(row for row, mix in enumerate(triplets.matches) if mix.b is None)
    assert triplets.b.score[row].isnan()
    assert (triplets.b.images[row] == 1).all()
    assert triplets.cross[row, 1].isnan().all()
    assert triplets.cross[row, :, 1].isnan().all()
    assert triplets.cross[row, 0, 2].isfinite()
    assert triplets.captions(row)["B"] == ["no member in B"]
    triplets.save(tmp_path / "zip.png")
    text = (tmp_path / "zip.json").read_text()
    assert "NaN" not in text
    unit = json.loads(text)["units"][row]
    assert (unit["b"], unit["activation"]["B"]) == (None, None)
    assert sum(member["weight"] for member in unit["members"]) == pytest.approx(1)


def test_a_dense_merge_names_the_strongest_members_and_counts_the_others(pair):
    data = [torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))]
    alignment = featviz.align(*pair, torch.rand(1, 3, 8, 8), "cca", data)
    triplets = featviz.render_unit_triplet(*pair, "bn2", [4], alignment=alignment, config=CONFIG)
    assert triplets.subjects == ("A", "B", "merged")
    names = [lines[0] for lines in triplets.captions(0).values()]
    assert names[0] == "A:4 (0.50)"
    assert names[1].endswith("+ 7 more")
    assert triplets.record()["units"][0]["further_members"] == 1
