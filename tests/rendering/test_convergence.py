"""Without `steps`, every unit ends when its own score has converged."""

from dataclasses import replace
from typing import ClassVar

import torch
from networks import small_classifier as net

from featviz.config import RenderConfig
from featviz.rendering import channel, diversity, render

CONVERGING = RenderConfig(size=12, precision="float64", sd=0.1, rotation=0, scale=0)


def test_a_unit_ends_when_its_score_has_converged_whatever_it_is_batched_with():
    model = net()
    together = render(model, "3:0-5", CONVERGING)
    assert len(set(together.steps.tolist())) > 1
    assert together.steps.max() <= CONVERGING.most_steps
    for unit in range(6):
        alone = render(model, f"3:{unit}", CONVERGING)
        assert alone.steps[0] == together.steps[unit]
        torch.testing.assert_close(alone.images[0], together.images[unit], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.trace[:, 0], together.trace[: alone.steps[0], unit])
        assert together.trace[alone.steps[0] :, unit].isnan().all()
        exact = render(model, f"3:{unit}", replace(CONVERGING, steps=int(alone.steps[0]), lr=CONVERGING.step_size))
        torch.testing.assert_close(
            alone.images, exact.images, atol=1e-6, rtol=0
        )  # the steps are those of a longer ascent


def test_a_unit_ends_when_two_windows_of_32_steps_have_passed_since_the_warps_settled_at_the_earliest():
    still = replace(CONVERGING, lr=0.0, jitter=0.0)  # nothing is ever gained
    assert render(net(), "3:0", still).steps.tolist() == [64 + 2 * 32]


class Watched(torch.nn.Sequential):
    """Counts the images of every pass without gradient."""

    passes: ClassVar[list[int]] = []

    def forward(self, x):
        if not torch.is_grad_enabled():
            self.passes.append(len(x))
        return super().forward(x)


def test_units_that_end_at_different_steps_are_scored_in_one_batch_of_their_size():
    model = Watched(*net())
    result = render(model, "3:0-5", CONVERGING)
    assert len(set(result.steps.tolist())) > 1
    assert [count for count in Watched.passes if count > 1] == [6]  # cuDNN chooses kernels anew for every other size


def test_images_that_are_coupled_end_together():
    result = render(net(), channel("3", [0, 1, 2]) + 0.1 * diversity("3"), CONVERGING)
    assert len(set(result.steps.tolist())) == 1


def test_steps_that_are_given_are_made_by_every_unit():
    assert render(net(), "3:0-5", replace(CONVERGING, steps=100)).steps.tolist() == [100] * 6


def test_the_progress_of_units_that_converge_never_goes_back_and_ends_at_all():
    seen = []
    render(net(), "3:0-5", CONVERGING, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (6 * CONVERGING.most_steps,) * 2
