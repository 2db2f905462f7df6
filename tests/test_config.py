"""Configurations refuse what is out of range in one sentence, whatever its type."""

import numpy as np
import pytest

import featviz
from featviz.errors import AlignmentError, RenderError

NESTED = {"a": {"a": {"a": {"a": {"a": {"a": "x" * 10**5}}}}}}


class NoText:
    def __repr__(self) -> str:
        raise RuntimeError


VALUES = [np.array(["a", "b"]), np.array([1, 2]), 10**5000, NoText(), NESTED, "x" * 10**5, "\ud800"]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "name", ["quality", "robustness", "size", "memory", "batch", "steps", "seed", "mean", "color", "profile"]
)
def test_a_rendering_refuses_odd_values(name, value):
    if name in ("mean", "profile", "size") and isinstance(value, np.ndarray) and value.dtype != "<U1":
        pytest.skip("is one of its values" if name != "size" else "is a size")
    with pytest.raises(RenderError) as caught:
        featviz.RenderConfig(**{name: value})
    assert len(str(caught.value)) < 2000


def test_an_endless_row_of_numbers_is_refused_before_it_is_read():
    with pytest.raises(RenderError, match="finite numbers"):
        featviz.RenderConfig(mean=range(10**15))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    ("config", "name"),
    [
        (featviz.MergeConfig, "weight"),
        (featviz.MergeConfig, "repair"),
        (featviz.MergeConfig, "points"),
        (featviz.FateConfig, "level"),
        (featviz.AlignConfig, "method"),
        (featviz.AlignConfig, "sinkhorn_temperature"),
        (featviz.AlignConfig, "alpha"),
    ],
)
def test_other_configurations_refuse_odd_values(config, name, value):
    if name == "sinkhorn_temperature" and isinstance(value, np.ndarray):
        value = list(value) * 2
    with pytest.raises(AlignmentError) as caught:
        config(**{name: value})
    assert len(str(caught.value)) < 2000
