"""Accentuation, caricature, variants and the path: claims about small networks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import featviz
from featviz.errors import AlignmentError, DataError, RenderError
from featviz.evidence.pictures.accentuation import relative_distance

CONFIG = featviz.RenderConfig(size=16, steps=12, precision="float32")


class Net(nn.Sequential):
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.BatchNorm2d(8),
        )
        self.mean, self.std = (0.5,) * 3, (0.25,) * 3
        self.eval()


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16), indexing="ij")
    return torch.stack([torch.stack([x, y, x * y]), torch.stack([1 - x, (6 * x).sin().abs(), y])])


def test_an_accentuated_image_excites_its_unit_more_and_stays_within_the_bound(photographs):
    found = featviz.accentuate({"a": Net(0), "b": Net(1)}, photographs, "4", [2, 5], change=0.3, config=CONFIG)
    own = found.cross.diagonal(dim1=1, dim2=2)
    assert (own > found.before).all()
    assert (found.distance <= 0.3 + 1e-6).all()
    assert (found.distance > 0.1).all()
    assert found.near == {"a": "0", "b": "0"}
    assert torch.equal(found.photographs, photographs)
    torch.testing.assert_close(found.transfer.diagonal(dim1=1, dim2=2), torch.ones(2, 2))


def test_the_bound_holds_also_where_the_penalty_had_no_time_to_grow(photographs):
    few = featviz.RenderConfig(size=16, steps=3, lr=2.0, precision="float32")
    found = featviz.accentuate({"a": Net(0)}, photographs, "4", [2, 5], change=0.02, config=few)
    assert (found.distance <= 0.02 + 1e-6).all()
    assert (found.distance > 0.01).all()


def test_the_large_first_steps_of_a_linear_schedule_are_not_taken_from_a_photograph(photographs):
    linear, constant, cosine = (
        featviz.accentuate({"a": Net(0)}, photographs[0], "4", 2, config=replace(CONFIG, schedule=schedule)).images["a"]
        for schedule in ("linear", "constant", "cosine")
    )
    assert torch.equal(linear, constant)
    assert not torch.equal(cosine, constant)


def test_a_larger_bound_allows_more(photographs):
    small, large = (
        featviz.accentuate({"a": Net(0)}, photographs[0], "4", [2], change=change, config=CONFIG)
        for change in (0.1, 0.6)
    )
    assert large.cross.item() > small.cross.item()
    assert large.changes("a").mean() > small.changes("a").mean()


def test_identical_networks_change_a_photograph_alike_and_units_do_not_depend_on_each_other(photographs):
    net = Net(0)
    found = featviz.accentuate({"a": net, "again": net}, photographs, "4", [2, 5], config=CONFIG)
    assert torch.equal(found.images["a"], found.images["again"])
    torch.testing.assert_close(found.transfer, torch.ones(2, 2, 2))
    alone = featviz.accentuate({"a": net}, photographs[1], "4", 5, config=CONFIG)
    torch.testing.assert_close(alone.images["a"][0], found.images["a"][1], atol=1e-3, rtol=0)


def test_the_map_of_changes_is_where_the_image_changed(photographs):
    found = featviz.accentuate({"a": Net(0)}, photographs[0], "4", [2], config=CONFIG)
    images = found.photographs.clone()
    images[0, :, 3:6, 10:13] += 0.2
    moved = type(found)(**{**vars(found), "images": {"a": images}}).changes("a")[0]
    assert divmod(int(moved.argmax()), 16) == (4, 11)
    assert moved[12, 2] < 1e-6


def test_relative_distance_is_over_the_contrast_of_the_reference():
    reference = torch.zeros(1, 1, 2, 2)
    reference[0, 0] = torch.tensor([[1.0, 3.0], [1.0, 3.0]])  # contrast: |(-1, 1, -1, 1)| = 2
    assert relative_distance(reference + 0.5, reference).item() == pytest.approx(0.5)


def test_photographs_are_read_from_files_and_nonsense_is_refused(tmp_path, photographs):
    path = tmp_path / "photograph.png"
    Image.fromarray((photographs[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(path)
    found = featviz.accentuate({"a": Net(0)}, path, "4", [2], config=CONFIG)
    assert (found.photographs[0] - photographs[0]).abs().max() < 0.003
    for images, words in [
        (photographs * 2, "not normalized"),
        (photographs[:, :1], r"give floats \(image, 3"),
        (tmp_path / "none.png", "cannot be read"),
    ]:
        with pytest.raises(DataError, match=words):
            featviz.accentuate({"a": Net(0)}, images, "4", [2, 3], config=CONFIG)
    with pytest.raises(RenderError, match="2 images for 3 units"):
        featviz.accentuate({"a": Net(0)}, photographs, "4", [1, 2, 3], config=CONFIG)
    with pytest.raises(RenderError, match="change is 0"):
        featviz.accentuate({"a": Net(0)}, photographs, "4", [1], change=0, config=CONFIG)


def test_a_caricature_points_where_the_photograph_does_whatever_the_order_of_the_units(photographs):
    net, permuted = Net(0), Net(0)
    with torch.no_grad():
        order = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
        for tensor in (*permuted[3].parameters(), *permuted[4].parameters(), *permuted[4].buffers()):
            if tensor.ndim:
                tensor.copy_(tensor[order])
    found = featviz.caricature(
        {"a": net, "permuted": permuted, "other": Net(1)}, photographs, ["1", "4"], config=CONFIG
    )
    assert found.layers == ("1", "1", "4", "4")
    assert (found.likeness.diagonal(dim1=1, dim2=2) > 0.5).all()
    torch.testing.assert_close(found.images["a"], found.images["permuted"], atol=2e-2, rtol=0)
    torch.testing.assert_close(found.likeness[:, 0, 0], found.likeness[:, 0, 1], atol=1e-4, rtol=0)
    assert (found.images["a"] - found.images["other"]).abs().mean() > 0.02


def test_diverse_variants_differ_more_and_the_first_start_is_that_of_render():
    net, config = Net(0), replace(CONFIG, steps=60)
    alike, diverse = (
        featviz.render_variants({"a": net}, "4", [2], variants=3, diversity=strength, config=config)
        for strength in (0.0, 3.0)
    )
    torch.testing.assert_close(alike.images["a"][0, 0], featviz.render(net, "4:2", config).images[0], atol=1e-3, rtol=0)

    def spread(found: featviz.Variants) -> float:
        activations = net((found.images["a"][0] - 0.5) / 0.25).flatten(2)
        grams = torch.nn.functional.normalize((activations @ activations.mT).flatten(1), dim=1)
        return 1 - (grams @ grams.T)[0, 1:].mean().item()

    assert spread(diverse) > 10 * spread(alike)


def test_variants_of_identical_networks_transfer_fully():
    net = Net(0)
    mean, deviation = featviz.render_variants({"a": net, "b": net}, "4", [2, 3], variants=2, config=CONFIG).transfer
    torch.testing.assert_close(mean, torch.ones(2, 2, 2))
    torch.testing.assert_close(deviation[:, 0, 0], deviation[:, 0, 1])
    with pytest.raises(RenderError, match="two or more variants"):
        featviz.render_variants({"a": net}, "4", [2], variants=1, config=CONFIG)
    with pytest.raises(RenderError, match="3 units of a for 2 rows"):
        featviz.render_variants({"a": net}, "4", [2, 3], own_units={"a": [1, 2, 3]}, config=CONFIG)


def test_the_path_begins_with_a_and_ends_with_b():
    a, b = Net(0), Net(1)
    data = [torch.rand(64, 3, 16, 16)]
    found = featviz.render_unit_path(a, b, "4", [2, 5], points=3, data=data, config=CONFIG)
    assert found.weights == (0.0, 0.5, 1.0)
    for kind in ("averaged", "repaired"):
        for end, net in ((0, a), (2, b)):
            torch.testing.assert_close(found.images[kind][:, end], featviz.render(net, "4:2,5", CONFIG).images)
            torch.testing.assert_close(found.transfer[kind][:, end, end // 2], torch.ones(2))
    assert not torch.equal(found.images["averaged"][:, 1], found.images["repaired"][:, 1])
    assert found.accuracies == {}


def test_the_path_of_a_network_to_itself_shows_the_same_image_and_counts_the_labels():
    net = nn.Sequential(Net(0), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    data = [(torch.rand(16, 3, 16, 16), torch.zeros(16, dtype=torch.long))]
    found = featviz.render_unit_path(net, net, "0.4", 2, points=3, test_data=data, config=CONFIG)
    images = found.images["averaged"]
    torch.testing.assert_close(images[:, 1], images[:, 0], atol=1e-3, rtol=0)
    assert len(set(found.accuracies["averaged"])) == 1
    with pytest.raises(AlignmentError, match="points"):
        featviz.render_unit_path(net, net, "0.4", 2, points=1, config=CONFIG)


def test_pictures_are_saved_with_a_record_and_leave_the_networks_alone(tmp_path, photographs):
    nets = {"a": Net(0), "b": Net(1)}
    before = {name: {key: value.clone() for key, value in net.state_dict().items()} for name, net in nets.items()}
    data = [torch.rand(32, 3, 16, 16)]
    made = {
        "accentuated": featviz.accentuate(nets, photographs[0], "4", [2, 5], config=CONFIG),
        "caricatures": featviz.caricature(nets, photographs, "4", config=CONFIG),
        "variants": featviz.render_variants(nets, "4", [2], variants=2, config=CONFIG),
        "path": featviz.render_unit_path(nets["a"], nets["b"], "4", [2], points=3, data=data, config=CONFIG),
    }
    for name, picture in made.items():
        path = picture.save(tmp_path / name)
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["featviz"] == featviz.__version__
        assert record["rows"]
        with Image.open(path) as opened:
            assert opened.info["Title"]
        assert picture._repr_png_().startswith(b"\x89PNG")
    for name, net in nets.items():
        assert not net.training
        assert all(torch.equal(value, before[name][key]) for key, value in net.state_dict().items())
