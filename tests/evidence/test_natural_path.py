"""The way of renderings through the layers, beside that of exemplars and random images."""

import numpy as np
import pytest
import torch
from networks import TinyResNet, seeded
from scipy.stats import spearmanr

from featviz.errors import DataError
from featviz.evidence.natural_path import natural_path
from tests.evidence.test_fate import images


def test_similarities_are_rank_correlations_of_mean_activations():
    model, rendered, best, random = seeded(TinyResNet), images(2, 1), images(4, 2), images(5, 3)
    path = natural_path(model, rendered, best, random, ["bn1", "bn2"])
    assert path.layers == ("bn1", "bn2")
    for number, layer in enumerate(path.layers):
        seen = []
        handle = model.get_submodule(layer).register_forward_hook(lambda _, args, output, s=seen: s.append(output))
        with torch.no_grad():
            for x in (rendered, best, random):
                model((x - 0.5) / 0.25)
        handle.remove()
        a, b, c = (output.double().mean((2, 3)).numpy() for output in seen)

        def mean(one, other, apart=False):
            return np.mean(
                [spearmanr(x, y)[0] for i, x in enumerate(one) for j, y in enumerate(other) if not (apart and i == j)]
            )

        assert path.rendering[number] == pytest.approx(mean(a, b), abs=1e-3)
        assert path.exemplars[number] == pytest.approx(mean(b, b, apart=True), abs=1e-3)
        assert path.random[number] == pytest.approx(mean(c, b), abs=1e-3)


def test_an_exemplar_goes_the_natural_way_and_noise_does_not():
    model = seeded(TinyResNet)
    base = images(1, 4)
    best = (base + 0.05 * torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    others = images(20, 5)
    path = natural_path(model, best[:1], best[1:], others[:10])
    assert (path.normalised > 0.7).all()
    noise = natural_path(model, others[10:], best[1:], others[:10])
    assert (np.abs(noise.normalised) < 0.5).all()
    assert set(path.record()["bn1"]) == {"rendering", "exemplars", "random", "normalised"}


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="1 exemplars"):
        natural_path(seeded(TinyResNet), images(1), images(1), images(2))
