"""A panel of any number of networks: rows share their start, columns differ by weights and input normalization alone."""

import json
import logging

import numpy as np
import pytest
import torch
from networks import TinyCNN, TinyResNet, seeded
from PIL import Image
from torch import nn

import featviz
from featviz.errors import DeviceError, ModelError, RenderError, UnitError
from featviz.weights.checks import digest

CONFIG = featviz.RenderConfig(size=12, steps=4, precision="float64")


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {name: seeded(TinyResNet, seed) for seed, name in enumerate(("base", "tuned", "edited", "last"))}


@pytest.fixture(scope="module")
def panel(networks) -> featviz.Panel:
    return featviz.render_panel(networks, "bn2", [5, 0], config=CONFIG)


def test_columns_follow_the_subjects_names(networks, panel):
    assert panel.subjects == ("base", "tuned", "edited", "last")
    assert panel.column_heads() == list(networks)
    assert panel.cross.shape == (2, 4, 4)
    assert panel["edited"].images.shape == (2, 3, 12, 12)


def test_a_subjects_column_is_its_own_rendering_whoever_stands_beside_it(networks, panel):
    for name, network in networks.items():
        alone = featviz.render(network, "bn2:5,0", CONFIG)
        torch.testing.assert_close(panel[name].images, alone.images, rtol=0, atol=1e-6)
        torch.testing.assert_close(panel[name].score, alone.score, rtol=1e-9, atol=1e-9)


def test_the_diagonal_of_cross_is_each_subjects_own_score(panel):
    for number, name in enumerate(panel.subjects):
        torch.testing.assert_close(panel.cross[:, number, number], panel[name].score)
    assert panel.cross.isfinite().all()


def test_every_subject_sees_its_own_normalization(networks):
    """Another mean and deviation of the input are the same network where its first layer undoes them."""
    one = networks["base"]
    two = featviz.Subject(one, mean=(0.1,) * 3, std=(0.7,) * 3)
    panel = featviz.render_panel({"own": one, "given": two}, "conv1", [0], config=CONFIG)
    image = panel["given"].images.double()
    net = seeded(TinyResNet, 0).double()
    with torch.no_grad():
        expected = net.conv1((image - 0.1) / 0.7)[0, 0].mean()
    torch.testing.assert_close(panel["given"].score[0], expected, rtol=1e-4, atol=1e-5)
    record = panel.record()["normalization"]
    assert record["own"] == {"mean": [0.5] * 3, "std": [0.25] * 3, "source": "the model's mean and std"}
    assert record["given"] == {"mean": [0.1] * 3, "std": [0.7] * 3, "source": "given with the subject"}


def test_an_assumed_normalization_is_recorded_and_said(caplog):
    class Untold(nn.Conv2d):
        pass

    with caplog.at_level(logging.WARNING, "featviz"):
        panel = featviz.render_panel([featviz.Subject(Untold(3, 2, 3), "x")], "labels", [1], config=CONFIG)
    assert "ImageNet" in caplog.text
    assert "assumed" in panel.record()["normalization"]["x"]["source"]


def test_subjects_may_show_other_units_than_their_row_or_none(networks):
    panel = featviz.render_panel(
        {"base": networks["base"], "tuned": networks["tuned"]},
        "bn1",
        [0, 1],
        own_units={"tuned": [7, None]},
        config=CONFIG,
    )
    assert panel.captions(0)["tuned"][0] == "unit 7"
    assert panel.captions(1)["tuned"] == ["no such unit"]
    assert (panel["tuned"].images[1] == 1).all()
    assert panel["tuned"].score[1].isnan()
    assert panel.cross[1, :, 1].isnan().all()
    assert panel.cross[1, 0, 0].isfinite()
    assert "NaN" not in json.dumps(panel.record())


def test_saving_writes_the_picture_and_the_digest_of_every_subject(networks, panel, tmp_path):
    path = panel.save(tmp_path / "deep" / "bn2.png")
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["digests"] == {name: digest(network) for name, network in networks.items()}
    assert [unit["unit"] for unit in record["units"]] == [5, 0]
    assert list(record["units"][0]["activation"]) == list(networks)
    assert np.asarray(Image.open(path)).shape[1] > 4 * 160


def test_without_units_all_units_of_the_layer_are_rendered(networks):
    quick = featviz.RenderConfig(size=12, steps=1)
    assert featviz.render_panel({"x": networks["base"]}, "fc", config=quick).units == (0, 1, 2, 3, 4)
    assert featviz.render_panel({"x": networks["base"]}, "bn1:3,1", config=quick).units == (3, 1)


def test_progress_counts_all_subjects(networks):
    seen = []
    featviz.render_panel(
        {"x": networks["base"], "y": networks["tuned"]},
        "bn1",
        [0],
        config=CONFIG,
        progress=lambda *both: seen.append(both),
    )
    assert seen[-1] == (8, 8)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"subjects": {}}, RenderError, "at least one"),
        ({"subjects": [seeded(TinyResNet)]}, RenderError, "has no name"),
        ({"subjects": [featviz.Subject(seeded(TinyResNet), "x")] * 2}, RenderError, "two subjects are called 'x'"),
        ({"subjects": {"x": "resnet18"}}, ModelError, "type str is no network"),
        ({"subjects": {"x": seeded(TinyResNet), "y": seeded(TinyCNN)}}, UnitError, "no layer 'bn1'"),
        (
            {"subjects": {"x": seeded(TinyResNet), "y": seeded(lambda: TinyResNet(in_channels=1))}},
            RenderError,
            "x 3, y 1",
        ),
        ({"subjects": {"x": seeded(TinyResNet), "y": seeded(lambda: TinyResNet(4))}}, UnitError, "no unit 6 in y"),
        ({"layer": "bn7"}, UnitError, "did you mean bn"),
        ({"layer": "bn1:99", "units": None}, UnitError, "its 8 units are 0 to 7"),
        ({"units": []}, RenderError, "no unit to render"),
        ({"own_units": {"z": [0]}}, UnitError, "'z', which is no subject"),
        ({"own_units": {"x": [0, 1]}}, UnitError, "2 units of x for 1 rows"),
        ({"device": "cuda:7"}, DeviceError, "is not there"),
    ],
)
def test_bad_input_is_one_sentence(change, error, words):
    given = {"subjects": {"x": seeded(TinyResNet)}, "layer": "bn1", "units": [6], "config": CONFIG}
    with pytest.raises(error, match=words) as caught:
        featviz.render_panel(**(given | change))
    assert "\n" not in str(caught.value)


def test_broken_weights_are_named_with_their_subject(networks):
    broken = seeded(TinyResNet)
    with torch.no_grad():
        broken.conv2.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"spoiled has NaN or Inf in conv2\.weight"):
        featviz.render_panel({"base": networks["base"], "spoiled": broken}, "bn1", [0], config=CONFIG)
