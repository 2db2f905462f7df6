"""A network tells which normalization it was trained with: by its right answers, its BatchNorm layers, or its confidence."""

import pytest
import torch
from networks import seeded
from torch import nn

from featviz.errors import DataError
from featviz.evidence.normalization_check import (
    NormalizationCheck,
    best_normalization,
    candidate_normalizations,
    check_normalization,
)
from featviz.subjects import Normalization, Subject

RIGHT = Normalization((0.2, 0.3, 0.4), (0.1, 0.2, 0.3), "trained with")


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 4),
        )  # fmt: skip


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(32, 3, 8, 8, generator=generator) for _ in range(2)]


@pytest.fixture(scope="module")
def trained(images) -> nn.Module:
    """A network whose running statistics are those of images under RIGHT."""
    model = seeded(Net)
    model[1].reset_running_stats()
    model.train()
    with torch.no_grad():
        for x in images:
            model(RIGHT(x))
    return model.eval()


def test_batchnorm_tells_without_labels(trained, images):
    checks = check_normalization(
        trained, images, {"assumed": Normalization((0.5,) * 3, (0.25,) * 3, ""), "right": RIGHT}
    )
    assert checks["right"].distance < 1e-3 < checks["assumed"].distance
    assert best_normalization(checks) == "right"
    assert checks["right"].images == 64
    assert checks["right"].accuracy is None


def test_right_answers_are_counted(trained, images):
    with torch.no_grad():
        labelled = [(x, trained((x - 0.5) / 0.25).argmax(1)) for x in images]
    found = check_normalization(trained, labelled, {"same": Normalization((0.5,) * 3, (0.25,) * 3, "")})
    assert found["same"].accuracy == 100


def measured(accuracy: float | None, distance: float | None, confidence: float | None) -> NormalizationCheck:
    return NormalizationCheck(RIGHT, confidence, accuracy, distance, 10)


@pytest.mark.parametrize(
    ("used", "other", "best"),
    [
        (measured(80, 0.1, 0.9), measured(90, 0.5, 0.5), "other"),  # right answers count before all else
        (measured(80, 0.5, 0.5), measured(80.5, 0.1, 0.9), "used"),  # half a point is noise
        (measured(None, 0.5, 0.9), measured(None, 0.1, 0.5), "other"),  # then BatchNorm
        (measured(None, 0.5, 0.5), measured(None, 0.48, 0.9), "used"),
        (measured(None, None, 0.5), measured(None, None, 0.9), "other"),
        (measured(None, None, 0.5), measured(None, None, 0.52), "used"),
        (measured(None, None, None), measured(None, None, None), None),
    ],
)
def test_the_best_is_named_where_it_is_better_by_more_than_noise(used, other, best):
    assert best_normalization({"used": used, "other": other}) == best


def test_the_candidates_are_what_is_in_use_and_the_usual_ones_that_differ():
    given = Subject(nn.Conv2d(3, 2, 1), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert list(candidate_normalizations(given)) == ["in use", "ImageNet's", "none"]
    assert list(candidate_normalizations(nn.Conv2d(1, 2, 1), 1)) == ["in use", "0.5, 0.5"]


def test_a_network_without_batchnorm_and_classes_tells_nothing(images):
    checks = check_normalization(nn.Conv2d(3, 2, 1), images)
    assert best_normalization(checks) is None


def test_the_network_is_left_as_it_was(trained, images):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    trained.train()
    check_normalization(trained, images)
    assert trained.training
    assert not trained[1]._forward_pre_hooks
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())
    trained.eval()


def test_images_that_were_normalized_already_are_refused(trained):
    with pytest.raises(DataError, match=r"give images in \[0, 1\]"):
        check_normalization(trained, [torch.randn(2, 3, 8, 8)])
    with pytest.raises(DataError, match="no batch"):
        check_normalization(trained, [])
