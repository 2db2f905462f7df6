"""Exemplars: the best images of every unit, equal to a full sort, with the part of the image that the unit sees."""

import numpy as np
import pytest
import torch
from networks import TinyCNN, TinyResNet, seeded
from torch import nn

from featviz.errors import DataError, UnitError
from featviz.evidence.exemplars.exemplars import exemplars
from tests.evidence.test_fate import Tokens, images


def maps(model, layer, x, axis):
    """(image, unit, position) of the whole data at once."""
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, args, output: seen.append(output.clone()))
    with torch.no_grad():
        model((x - 0.5) / 0.25)
    handle.remove()
    return seen[0].movedim(axis, 1).flatten(2) if seen[0].dim() > 2 else seen[0].unsqueeze(-1)


@pytest.mark.parametrize(("make", "layer", "axis"), [(TinyResNet, "conv3", 1), (TinyCNN, "fc", -1), (Tokens, "up", -1)])
@pytest.mark.parametrize("batch", [61, 8, 1])
def test_exemplars_equal_a_full_sort(make, layer, axis, batch):
    subjects = {"one": seeded(make), "two": seeded(make, 1)}
    x = images(61)
    tops = exemplars(subjects, layer, list(x.split(batch)), k=4)
    assert tops.images == 61
    for name, model in subjects.items():
        found = maps(model, layer, x, axis)
        best = found.amax(2).numpy()
        for unit in range(best.shape[1]):
            order = np.argsort(-best[:, unit], kind="stable")[:4]
            told = tops.found(layer, unit, name)
            assert [exemplar.image for exemplar in told] == order.tolist()
            np.testing.assert_allclose([e.activation for e in told], best[order, unit], rtol=1e-5)
            for exemplar in told:
                whole = found[exemplar.image, unit]
                space = tops.layer(layer, name).space
                flat = int(np.ravel_multi_index(exemplar.position, space)) if space else 0
                assert whole[flat] == pytest.approx(float(whole.max()), rel=1e-6)
            assert told[0].percentile > 97
            assert abs(told[3].percentile - 100 * 57 / 61) < 3
        means = tops.best_mean(layer, name).numpy()
        np.testing.assert_allclose(means, found.mean(2).amax(0), rtol=0.02, atol=0.02)


def test_exemplars_spread_over_classes():
    x, labels = images(60), torch.arange(60) % 3
    data = list(zip(x.split(7), labels.split(7), strict=True))
    tops = exemplars({"A": seeded(TinyResNet)}, "bn2", data, k=3, per_class=1)
    free = exemplars({"A": seeded(TinyResNet)}, "bn2", data, k=1)
    for unit in range(8):
        found = tops.found("bn2", unit, "A")
        assert {exemplar.label for exemplar in found} == {0, 1, 2}
        assert found[0] == free.found("bn2", unit, "A")[0]
        assert all(exemplar.label == exemplar.image % 3 for exemplar in found)
    with pytest.raises(DataError, match="labels"):
        exemplars({"A": seeded(TinyResNet)}, "bn2", [x], per_class=1)


def test_a_crop_holds_what_the_unit_sees():
    model, x = seeded(TinyResNet), images(30)
    data = list(x.split(7))
    tops = exemplars({"A": model}, "bn1", data, k=5)
    crops = tops.crops(data, "bn1", [2, 6])
    assert set(crops) == {("A", 2), ("A", 6)}
    for (_, unit), parts in crops.items():
        for exemplar, crop in zip(tops.found("bn1", unit, "A"), parts, strict=True):
            row, column = exemplar.position  # of a 3 x 3 kernel with padding 1
            image = x[exemplar.image]
            assert torch.equal(crop, image[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2])


def test_images_in_another_order_are_found_out():
    x = images(30)
    tops = exemplars({"A": seeded(TinyResNet)}, "bn1", [x], k=2)
    with pytest.raises(DataError, match="another order"):
        tops.crops([x.flip(0)], "bn1", [0])


class Named(list):
    """Batches that know the paths of their images."""

    paths = tuple(f"cat/{number:04}.png" for number in range(30))


def test_exemplars_name_the_files_of_their_images():
    tops = exemplars({"A": seeded(TinyResNet)}, "bn1", Named([images(30)]), k=2)
    first = tops.found("bn1", 3, "A")[0]
    assert first.path == f"cat/{first.image:04}.png"
    record = tops.record("bn1", [3])
    assert record["A"]["3"][0]["path"] == first.path


def test_bad_input_gives_one_true_sentence():
    a, data = seeded(TinyResNet), [images(30)]
    tops = exemplars({"A": a}, "bn1", data, k=1)
    with pytest.raises(UnitError, match="no unit 8: its 8 units are 0 to 7"):
        tops.found("bn1", 8, "A")
    with pytest.raises(UnitError, match="'bn9'"):
        tops.found("bn9", 0, "A")
    with pytest.raises(UnitError, match="'B'"):
        tops.found("bn1", 0, "B")
    with pytest.raises(DataError, match="yielded no batch"):
        exemplars({"A": a}, "bn1", [])
    with pytest.raises(DataError, match="1 or more"):
        exemplars({"A": a}, "bn1", data, k=0)
    with pytest.raises(UnitError, match="does not call"):
        exemplars({"A": Uncalled()}, "idle", data)


class Uncalled(TinyResNet):
    """A module that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)
