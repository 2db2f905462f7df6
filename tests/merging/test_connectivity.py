"""What averaging does to the features, and the pictures of it, against plain numpy on small networks."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import featviz
from featviz.errors import AlignmentError, OutputError
from featviz.merging.average import average
from featviz.merging.connectivity import layer_connectivity
from featviz.merging.ensemble import FeatureAverage
from featviz.symmetry.groups import LayerUnits

LAYERS = {name: LayerUnits(5, 1, np.zeros(5, dtype=int), np.arange(5)) for name in ("0", "1")}


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(5, 3, 3), nn.Flatten())
    return model.double().train()


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 2, 6, 6, generator=generator, dtype=torch.float64) + 3 for n in (4, 7, 2)]


def test_figures_are_those_of_numpy_on_all_data_at_once():
    a, b = net(0), net(1)
    merged = average([a, b])
    found = layer_connectivity(a, b, merged, LAYERS, [(x, torch.zeros(len(x))) for x in batches()])
    x = torch.cat(batches())
    assert [layer.layer for layer in found] == ["0", "1"]
    for layer, depth in zip(found, (1, 2), strict=True):
        with torch.no_grad():
            maps = [model[0](x) if depth == 1 else model[0](x).relu() for model in (a, b, merged)]
        fa, fb, fm = (m.numpy() for m in maps)
        mean, flat = ((fa + fb) / 2).reshape(len(x), -1), fm.reshape(len(x), -1)
        norms = np.linalg.norm(mean, axis=1), np.linalg.norm(flat, axis=1)
        assert layer.cosine == pytest.approx(((mean * flat).sum(1) / norms[0] / norms[1]).mean(), abs=1e-12)
        assert layer.norm_ratio == pytest.approx((norms[1] / norms[0]).mean(), abs=1e-12)
        ua, ub, um = (f.transpose(1, 0, 2, 3).reshape(5, -1) for f in (fa, fb, fm))
        np.testing.assert_allclose(layer.variance, um.var(1), atol=1e-12)
        np.testing.assert_allclose(
            layer.correlation, [np.corrcoef(p, q)[0, 1] for p, q in zip(ua, ub, strict=True)], atol=1e-10
        )
        np.testing.assert_allclose(layer.predicted, ((ua + ub) / 2).var(1) / ((ua.var(1) + ub.var(1)) / 2), atol=1e-10)
    assert all(module.training for model in (a, b, merged) for module in model.modules())
    assert not any(module._forward_hooks for model in (a, b, merged) for module in model.modules())


def test_before_any_nonlinearity_the_variance_is_the_predicted_one():
    first, second = layer_connectivity(net(0), net(1), average([net(0), net(1)]), LAYERS, batches())
    np.testing.assert_allclose(first.ratio, first.predicted, atol=1e-10)
    assert first.cosine == pytest.approx(1)
    assert np.abs(second.ratio - second.predicted).max() > 1e-3


def test_a_network_merged_with_itself_loses_nothing():
    for layer in layer_connectivity(net(0), net(0), net(0), LAYERS, batches()):
        assert (layer.cosine, layer.norm_ratio) == (pytest.approx(1), pytest.approx(1))
        np.testing.assert_allclose(layer.ratio, 1)
        np.testing.assert_allclose(layer.predicted, 1)


def test_a_unit_that_never_varies_has_no_ratio():
    a = net(0)
    with torch.no_grad():
        a[0].weight[2] = 0
    first, _ = layer_connectivity(a, a, a, LAYERS, batches())
    assert np.isnan(first.ratio[2])
    assert np.isfinite(np.delete(first.ratio, 2)).all()


def test_no_data_is_said():
    with pytest.raises(AlignmentError, match="no data"):
        layer_connectivity(net(0), net(0), net(0), LAYERS, [])


def test_the_ensemble_is_the_mean_of_the_logits():
    a, b = net(0), net(1)
    data = [(x, torch.arange(len(x)) % 48) for x in batches()]
    loss, accuracy = featviz.evaluate_ensemble(a, b, data)
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    with torch.no_grad():
        logits = (a(x) + b(x)) / 2
    assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)))
    assert accuracy == pytest.approx(100 * float((logits.argmax(1) == y).double().mean()))


def test_features_are_averaged_at_the_layer_and_nowhere_else():
    a, b = net(0).eval(), net(1).eval()
    x = batches()[0]
    with torch.no_grad():
        wanted = a[3](a[2]((a[0](x) + b[0](x)).relu() / 2))
        torch.testing.assert_close(FeatureAverage(a, b, "0")(x), wanted)
    assert not any(module._forward_hooks for model in (a, b) for module in model.modules())


class Twice(nn.Module):
    """One ReLU called twice; the first call's output is what an alignment knows."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(), nn.Conv2d(2, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv(self.relu(x))).flatten(1)


def test_a_module_called_twice_is_seen_and_averaged_at_its_first_call():
    torch.manual_seed(0)
    a, b = Twice().double(), Twice().double()
    x = batches()[0]
    layers = {"relu": LayerUnits(2, 1, np.zeros(2, dtype=int), np.arange(2))}
    (found,) = layer_connectivity(a, b, a, layers, [x])
    np.testing.assert_allclose(found.variance, x.relu().transpose(0, 1).flatten(1).var(1, correction=0))
    with torch.no_grad():
        torch.testing.assert_close(FeatureAverage(a, b, "relu")(x), a(x))  # the parents agree there: nothing changes


@pytest.fixture
def curve() -> featviz.LossBarrier:
    return featviz.LossBarrier((0.0, 0.5, 1.0), (1.0, 2.0, 1.0), (90.0, 50.0, 88.0), 1.0, 39.0)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plots_are_written_whole_with_their_labels(tmp_path, curve, suffix):
    layers = layer_connectivity(net(0), net(1), average([net(0), net(1)]), LAYERS, batches())
    paths = [
        featviz.plot_barriers({"weights": curve, "activations": curve}, tmp_path / f"a.{suffix}", "A to B"),
        featviz.plot_connectivity({"merged": layers}, tmp_path / f"b.{suffix}"),
        featviz.plot_variance({"before": layers, "after": layers}, tmp_path / f"c.{suffix}"),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n}.{suffix}" for n in "abc"]
    for path in paths:
        if suffix == "png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5
        else:
            assert path.read_text().startswith("<?xml")


def test_an_unknown_kind_of_plot_is_refused(tmp_path, curve):
    with pytest.raises(OutputError, match="end its name in"):
        featviz.plot_barriers({"weights": curve}, tmp_path / "a.bmp")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_remedy_is_named(tmp_path, curve, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(OutputError, match="pip install"):
        featviz.plot_barriers({"weights": curve}, tmp_path / "a.png")
