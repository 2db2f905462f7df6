"""Merging on images in [0, 1]: every network is fed what it normalizes itself, and a merge what its parents are."""

import pytest
import torch
from networks import TinyCNN, TinyResNet, seeded
from torch import nn

import featviz
from featviz.errors import DataError
from featviz.merging.batchnorm import reset_batchnorm
from featviz.merging.connectivity import layer_connectivity
from featviz.subjects import input_normalization
from featviz.symmetry.discovery import permutation_groups

IMAGES = [torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
LABELS = torch.arange(16) % 4
LABELLED = [(x, LABELS) for x in IMAGES]


def normalized(mean: float, std: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [((x - mean) / std, LABELS) for x in IMAGES]


def plain(model: nn.Module, mean: float, std: float) -> tuple[float, float]:
    """Loss and accuracy by the book."""
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in normalized(mean, std)])
    labels = LABELS.repeat(len(IMAGES))
    return nn.functional.cross_entropy(logits, labels).item(), 100 * (logits.argmax(1) == labels).double().mean().item()


def test_images_are_normalized_by_the_model_or_the_subject_and_other_data_are_fed_as_they_are():
    model = seeded(TinyCNN)  # mean 0.5, std 0.25
    assert featviz.evaluate(model, LABELLED) == pytest.approx(plain(model, 0.5, 0.25))
    subject = featviz.Subject(model, mean=(0.1,) * 3, std=(1.2,) * 3)
    assert featviz.evaluate(subject, LABELLED) == pytest.approx(plain(model, 0.1, 1.2))
    assert featviz.evaluate(model, normalized(0.5, 0.25)) == pytest.approx(plain(model, 0.5, 0.25))


def test_statistics_are_measured_on_normalized_images():
    models = [seeded(TinyResNet) for _ in range(3)]
    reset_batchnorm(models[0], IMAGES)
    reset_batchnorm(models[1], normalized(0.5, 0.25))
    assert torch.equal(models[0].bn1.running_var, models[1].bn1.running_var)
    subject = featviz.Subject(models[2], mean=(0.0,) * 3, std=(1.0,) * 3)
    reset_batchnorm(subject, IMAGES)
    with torch.no_grad():
        seen = torch.cat([models[2].conv1(x) for x in IMAGES])
    torch.testing.assert_close(models[2].bn1.running_mean, seen.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)


def test_a_merge_normalizes_as_its_parents_or_as_their_average():
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    given = featviz.Subject(a, mean=(0.1,) * 3, std=(0.5,) * 3), featviz.Subject(b, mean=(0.3,) * 3, std=(1.0,) * 3)
    for weight, mean, std in ((0, 0.1, 0.5), (0.25, 0.15, 0.625), (1, 0.3, 1.0)):
        found = input_normalization(featviz.merge(*given, None, weight=weight))
        assert (found.mean, found.std) == (pytest.approx((mean,) * 3), pytest.approx((std,) * 3))
    assert input_normalization(featviz.merge(a, b, None)).mean == (0.5,) * 3
    curve = featviz.loss_barrier(*given, None, LABELLED, points=2)
    assert curve.losses == pytest.approx((plain(a, 0.1, 0.5)[0], plain(b, 0.3, 1.0)[0]))


def test_subjects_of_different_normalization_are_measured_together():
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    given = featviz.Subject(a, mean=(0.1,) * 3, std=(0.5,) * 3), featviz.Subject(b, mean=(0.3,) * 3, std=(1.0,) * 3)
    with torch.no_grad():
        logits = [(a((x - 0.1) / 0.5) + b((x - 0.3) / 1.0)) / 2 for x in IMAGES]
    expected = nn.functional.cross_entropy(torch.cat(logits), LABELS.repeat(2)).item()
    assert featviz.evaluate_ensemble(*given, LABELLED)[0] == pytest.approx(expected)
    layers = {"conv1": permutation_groups(a, IMAGES[0]).layers["conv1"]}
    (found,) = layer_connectivity(*given, given[0], layers, IMAGES)
    with torch.no_grad():
        maps = torch.cat([b.conv1((x - 0.3) / 1.0) for x in IMAGES])
    torch.testing.assert_close(torch.from_numpy(found.variance_b).float(), maps.var((0, 2, 3), correction=0))
    with pytest.raises(DataError, match="normalized in different ways"):
        featviz.evaluate_ensemble(*given, normalized(0.5, 0.25))


def test_repair_normalizes_each_parent_for_itself():
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    given = featviz.Subject(a, mean=(0.1,) * 3, std=(0.5,) * 3), featviz.Subject(b, mean=(0.3,) * 3, std=(1.0,) * 3)
    merged = featviz.merge(*given, None, repair="repair", data=IMAGES)
    with torch.no_grad():
        means = [
            m.conv1((torch.cat(IMAGES) - mean) / std).mean((0, 2, 3)) for m, mean, std in ((a, 0.1, 0.5), (b, 0.3, 1.0))
        ]
        own = merged.conv1((torch.cat(IMAGES) - 0.2) / 0.75).mean((0, 2, 3))
    torch.testing.assert_close(own, (means[0] + means[1]) / 2, rtol=1e-4, atol=1e-4)
