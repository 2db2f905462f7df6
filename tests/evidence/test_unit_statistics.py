"""Mean, deviation, sparsity and class selectivity of units."""

import numpy as np
import pytest
import torch
from networks import TinyResNet, seeded
from torch import nn

import featviz
from featviz.errors import DataError
from tests.evidence.test_fate import images


def test_figures_are_those_of_all_images_and_positions():
    model, x = seeded(TinyResNet), images(50, 1)
    labels = torch.arange(50) % 3
    found = featviz.unit_statistics(model, ["bn1"], data=[(x[:21], labels[:21]), (x[21:], labels[21:])])["bn1"]
    seen = []
    model.bn1.register_forward_hook(lambda _, args, output: seen.append(output.double()))
    with torch.no_grad():
        model((x - 0.5) / 0.25)
    maps = seen[0].movedim(1, 0)  # unit, image, row, column
    np.testing.assert_allclose(found.mean, maps.mean((1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(found.deviation, maps.flatten(1).std(1, correction=0), atol=1e-5)
    np.testing.assert_allclose(found.positive, (maps > 0).double().mean((1, 2, 3)), atol=1e-6)
    rectified = maps.clamp_min(0).mean((2, 3))
    means = torch.stack([rectified[:, labels == label].mean(1) for label in range(3)])
    largest = means.amax(0)
    rest = (means.sum(0) - largest) / 2
    np.testing.assert_allclose(found.selectivity, (largest - rest) / (largest + rest), atol=1e-5)
    np.testing.assert_array_equal(found.best_class, means.argmax(0))


def test_a_unit_of_one_class_is_selective_and_an_unlabelled_one_is_not_measured():
    model = nn.Sequential(nn.Conv2d(3, 2, 1)).eval()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[0, 0], model[0].bias[:] = 1, torch.tensor([-0.5, -1.0])
    x = torch.zeros(40, 3, 4, 4)
    x[10:20, 0] = 1  # the class 7 is red
    labels = torch.tensor([5] * 10 + [7] * 10 + [9] * 20)
    subject = featviz.Subject(model, name="A", mean=(0, 0, 0), std=(1, 1, 1))
    found = featviz.unit_statistics(subject, data=[(x, labels)])["0"]
    assert found.selectivity[0] == pytest.approx(1)
    assert found.best_class.tolist() == [7, -1]  # the second unit is never above 0
    assert np.isnan(found.selectivity[1])
    assert found.rows()[1]["selectivity"] is None
    assert np.isnan(featviz.unit_statistics(subject, data=[x])["0"].selectivity).all()


def test_labels_on_some_images_alone_are_refused():
    x = images(20, 2)
    with pytest.raises(DataError, match="labels"):
        featviz.unit_statistics(seeded(TinyResNet), ["bn1"], data=[(x, torch.zeros(20, dtype=torch.long)), x])
