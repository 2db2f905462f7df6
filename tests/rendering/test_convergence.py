"""Converged units leave the batch: nobody's image changes."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from networks import TinyCNN, seeded

import featviz
from featviz.errors import RenderError
from featviz.rendering.optimize import loop as ascent
from featviz.rendering.optimize.loop import WINDOW

CONFIG = featviz.RenderConfig(size=12, steps=6 * WINDOW - 5, precision="float64", batch=3, tolerance=0.2)
WHAT = "conv2:0-5"


@pytest.fixture(scope="module")
def net():
    return seeded(TinyCNN, 3).double()


def steps_of(renderings: featviz.Renderings) -> list[int]:
    return renderings.trace.isfinite().sum(0).tolist()


def test_a_converged_unit_is_the_image_of_as_many_steps(net):
    found = featviz.render(net, WHAT, CONFIG)
    steps = steps_of(found)
    assert min(steps) < CONFIG.steps
    assert len(set(steps)) > 1
    for unit, count in enumerate(steps):
        assert count % WINDOW == 0 or count == CONFIG.steps
        alone = featviz.render(net, f"conv2:{unit}", replace(CONFIG, steps=count, tolerance=0))
        torch.testing.assert_close(found.images[unit], alone.images[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(found.trace[:count, unit], alone.trace[:, 0])
        torch.testing.assert_close(found.score[unit], alone.score[0])


def test_a_unit_stops_where_its_own_score_says(net):
    whole = featviz.render(net, WHAT, replace(CONFIG, tolerance=0)).trace
    for unit, count in enumerate(steps_of(featviz.render(net, WHAT, CONFIG))):
        means = [part.mean() for part in whole[:, unit].split(WINDOW) if len(part) == WINDOW]
        gains = [float((now - before) / now.abs()) for before, now in pairwise(means)]
        expected = next((WINDOW * (k + 2) for k, gain in enumerate(gains) if gain <= CONFIG.tolerance), CONFIG.steps)
        assert count == expected


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
def test_the_batch_does_not_matter(net, batch):
    a, b = (featviz.render(net, WHAT, replace(CONFIG, batch=n)) for n in (batch, 3))
    torch.testing.assert_close(a.images, b.images, atol=1e-6, rtol=0)
    assert steps_of(a) == steps_of(b)


def test_places_are_filled_and_the_last_batches_shrink_by_halves(net, monkeypatch):
    seen = []

    class Watched(ascent.Climb):
        def __init__(self, trunk, objective, starts, *rest):
            seen.append(len(starts))
            super().__init__(trunk, objective, starts, *rest)

    monkeypatch.setattr(ascent, "Climb", Watched)
    featviz.render(net, WHAT, replace(CONFIG, batch=4))
    assert seen[:2] == [4, 2]
    assert set(seen) <= {4, 2, 1}
    full = -(-CONFIG.steps // WINDOW) * 6
    assert sum(seen) < full


def test_a_batch_that_ran_out_of_memory_between_windows_changes_nothing(net, monkeypatch):
    expected = featviz.render(net, WHAT, CONFIG)
    runs = []

    class Failing(ascent.Climb):
        def go_on(self, done, states):
            runs.append(len(states))
            if len(runs) == 2:
                raise torch.OutOfMemoryError("no memory")
            super().go_on(done, states)

    monkeypatch.setattr(ascent, "Climb", Failing)
    found = featviz.render(net, WHAT, CONFIG)
    assert len(runs) > 2
    torch.testing.assert_close(found.images, expected.images, atol=1e-6, rtol=0)


def test_a_triplet_may_stop_its_subjects_apart(net):
    other = seeded(TinyCNN, 4).double()
    found = featviz.render_unit_triplet(net, other, "conv2", units=[0, 1], config=CONFIG)
    alone = featviz.render(net, "conv2:0-1", CONFIG)
    torch.testing.assert_close(found.a.images, alone.images, atol=1e-6, rtol=0)


def test_a_tolerance_out_of_range_is_refused():
    with pytest.raises(RenderError, match=r"tolerance is 2: it lies between 0\.0 and 1\.0"):
        featviz.RenderConfig(tolerance=2)
