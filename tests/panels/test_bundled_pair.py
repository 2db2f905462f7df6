"""The pair that comes along: its card is true, its permutations are exact, its repaired merge works without any data."""

import json

import pytest
import torch
from cifar_batches import some_batches
from networks import relative_difference

import featviz
from featviz.cli import main


@pytest.fixture(scope="module")
def pair():
    return featviz.bundled_pair()


@pytest.fixture(scope="module")
def shipped(pair) -> featviz.Alignment:
    return featviz.load_alignment(pair.alignment_path)


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_permuted_b_computes_the_same_function_as_b(pair, cifar, method):
    data = some_batches(cifar, pair.b, 128)
    alignment = featviz.align(pair.a, pair.b, torch.rand(1, 3, 32, 32), method, data, restarts=1)
    assert relative_difference(pair.b, alignment.permute(pair.b), torch.randn(4, 3, 32, 32)) < 1e-10


def test_the_shipped_alignment_belongs_to_the_pair_and_is_exact(pair, shipped):
    shipped.check(pair.a, pair.b)
    assert relative_difference(pair.b, shipped.permute(pair.b), torch.randn(4, 3, 32, 32)) < 1e-10


def test_the_card_is_true(pair, shipped, cifar):
    """On 1000 test images, within three standard deviations of a sample of that size."""
    data = some_batches(cifar, pair.a, 1000, "test")
    merged = featviz.merge(pair.a, pair.b, shipped, repair="none")
    collapsed = featviz.evaluate(merged, data)[1]
    merged.load_state_dict(pair.merged_statistics, strict=False)
    card, measured = pair.card["test_accuracy"], {}
    for model, name in ((pair.a, "a"), (pair.b, "b"), (merged, "activations, repaired")):
        spread = (card[name] * (100 - card[name]) / 1000) ** 0.5
        measured[name] = featviz.evaluate(model, data)[1]
        assert abs(measured[name] - card[name]) < 3 * spread
    assert measured["activations, repaired"] > collapsed + 50
    assert card["activations, repaired"] > card["unaligned, average"] + 60
    assert card["weights, repaired"] > card["unaligned, average"] + 60


def test_the_demo_leaves_a_grid_and_its_record_per_layer(tmp_path):
    assert main(["demo", "--out", str(tmp_path), "--steps", "2", "--size", "32"]) == 0
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(pictures) == 3
    for name in pictures:
        record = json.loads((tmp_path / name).with_suffix(".json").read_text())
        assert len(record["units"]) >= 6
        assert not any(unit["dead"] for unit in record["units"])
