"""Transfer of renderings between networks, with floor and ceiling, against the panel's own cross scores."""

import numpy as np
import pytest
import torch
from networks import TinyResNet, seeded
from torch import nn

from featviz.config import RenderConfig
from featviz.errors import UnitError
from featviz.evidence.exemplars.exemplars import exemplars
from featviz.evidence.transfer import picture_transfer
from featviz.panel_rendering import render_panel
from tests.evidence.test_fate import images

CONFIG = RenderConfig(size=8, steps=8, precision="float32")


@pytest.fixture(scope="module")
def networks():
    return {"A": seeded(TinyResNet), "B": seeded(TinyResNet, 1), "A too": seeded(TinyResNet)}


def responses(model, x, units):
    seen = []
    handle = model.bn2.register_forward_hook(lambda _, args, output: seen.append(output))
    with torch.no_grad():
        model((x - 0.5) / 0.25)
    handle.remove()
    return seen[0].mean((2, 3))[:, units].double().numpy()


def over(top, bottom):
    """NaN where the unit is not excited by its own image."""
    return np.where(bottom > 0, top / bottom, np.nan)


def test_transfer_is_what_each_network_says_of_each_image(networks):
    units = list(range(8))
    panel = render_panel(networks, "bn2", units, config=CONFIG)
    again = render_panel(networks, "bn2", units, config=RenderConfig(size=8, steps=8, precision="float32", seed=5))
    data = [images(40)]
    found = picture_transfer(panel, networks, again, exemplars(networks, "bn2", data, k=1))
    np.testing.assert_allclose(found.response, panel.cross.double(), rtol=1e-4, atol=1e-5)
    for column, (name, model) in enumerate(networks.items()):
        own = responses(model, panel[name].images, units)
        np.testing.assert_allclose(found.own[:, column], own.diagonal(), rtol=1e-4)
        repeated = responses(model, again[name].images, units).diagonal()
        np.testing.assert_allclose(found.floor[:, column], over(repeated, own.diagonal()), rtol=1e-3)
        others = (own.sum(0) - own.diagonal()) / 7
        np.testing.assert_allclose(found.ceiling[:, column], over(others, own.diagonal()), rtol=1e-3)
        best = responses(model, data[0], units).max(0)
        np.testing.assert_allclose(found.natural[:, column], best, rtol=0.03, atol=0.01)
    excited = found.own[:, 0] > 0
    assert excited.any()
    assert (np.isfinite(found.over_own[:, 1, 0]) == excited).all()
    np.testing.assert_allclose(found.over_own[excited, 0, 2], 1, rtol=1e-4)  # the same network, the same image
    np.testing.assert_allclose(found.between("A", "A too")[excited], 1, rtol=1e-4)
    assert found.rank_correlation("A", "B", found.between("A", "B") ** 3) == pytest.approx(1)
    assert found.summary()["over own"][0][2] == pytest.approx(1, abs=1e-3)


def test_a_missing_unit_has_no_transfer(networks):
    panel = render_panel(networks, "bn2", [1, 4], own_units={"B": [None, 3]}, config=CONFIG)
    found = picture_transfer(panel, networks)
    assert np.isnan(found.response[0, 1]).all()
    assert np.isnan(found.response[0, :, 1]).all()
    np.testing.assert_allclose(found.response[1], panel.cross[1].double(), rtol=1e-4, atol=1e-5)
    assert found.floor is None
    assert found.over_natural is None


def test_bad_input_gives_one_true_sentence(networks):
    panel = render_panel({"A": networks["A"]}, "bn2", [1], config=CONFIG)
    with pytest.raises(UnitError, match="'A' has no network"):
        picture_transfer(panel, {"B": networks["B"]})
    with pytest.raises(UnitError, match="other units"):
        picture_transfer(panel, networks, render_panel({"A": networks["A"]}, "bn2", [2], config=CONFIG))


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


def test_transfer_of_units_on_another_axis():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 6, 1), ChannelsLast()))
    panel = render_panel({"A": model}, "1", [0, 1], axis=-1, config=RenderConfig(size=8, steps=4))
    found = picture_transfer(panel, {"A": model})
    np.testing.assert_allclose(found.response.ravel(), panel.cross.ravel(), rtol=1e-5)


def test_a_column_without_any_unit_has_no_transfer():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU()))
    config = RenderConfig(size=8, steps=4)
    panel = render_panel({"A": model, "B": model}, "0", [0], own_units={"B": [None]}, config=config)
    response = picture_transfer(panel, {"A": model, "B": model}).response
    assert np.isfinite(response).tolist() == [[[True, False], [False, False]]]
