"""One batch of the ascent: its state, a step, and what it has come to.

Step: parameterization -> images -> random transform of each image -> network -> objective -> sum over units -> gradient with
respect to the images' parameters alone -> AdamW. The sum keeps the units apart: the gradient of a unit's image is that of its
own score, whatever it is batched with. Values decay (`RenderConfig.weight_decay`), and colors near black and white
(`saturation_decay`), beside the gradient as weights do in AdamW: what Adam makes of a gradient does not depend on it.
Weight decay is cautious (Chen et al. 2025): a value decays only at the steps at which AdamW makes it smaller, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from featviz.config import CONVERGENCE_WINDOW, FIRST_RATE, SETTLING_STEPS, RenderConfig
from featviz.rendering.image.parameterizations import parameterization
from featviz.rendering.image.seeding import Starts
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Objective
from featviz.rendering.optimize.renderings import Renderings, joined_traces
from featviz.rendering.robustness.seeded_transform import SeededTransform
from featviz.rendering.robustness.warps import identity_warps, resample, sampling_matrices, warp

START_STEPS = 4  # whose mean score is what a unit has gained from


class Ascent:
    """The ascent of one batch, step by step.

    The images at the end are those of the running average of the iterates (Polyak & Juditsky 1992): every random transform
    pushes the last iterate elsewhere, which the average does not follow. Its weight of step k is max(1 - ema, 1 / k).

    Args:
        extractor: of the objective's layers; its config is that of the ascent.
        objective: a score per image.
        starts: starts, warp parameters and seeds; their units are the objective's images.
        transform: in place of the warps.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        objective: Objective,
        starts: Starts,
        transform: SeededTransform | None = None,
    ) -> None:
        config, device = extractor.config, extractor.device
        self._extractor, self._objective, self._transform = extractor, objective, transform
        self._starts = starts
        self._image = parameterization(starts.values.to(device, extractor.dtype), config)
        on_cuda = device.type == "cuda"
        kind = {"device": device, "dtype": torch.float64 if device.type == "cpu" else torch.float32}
        steps = config.most_steps
        self._rates = torch.tensor([learning_rate(config, step) for step in range(steps)], **kind)
        weights = [max(1 - config.ema, 1 / (step + 1)) for step in range(steps)]
        self._weights = torch.tensor(weights, device=device, dtype=extractor.dtype)
        self._average = self._image.values.detach().clone()
        self._rate = torch.zeros((), **kind)
        # AdamW, whose fused step takes a rate on the device in fake tensors, too; its decay, which values share, is not used.
        self._adam = torch.optim.AdamW(
            [self._image.values], betas=(config.beta1, 0.999), maximize=True, fused=on_cuda or device.type == "cpu",
            capturable=on_cuda, weight_decay=0.0,
        )  # fmt: skip
        self._adam.param_groups[0]["lr"] = self._rate
        self._matrices = sampling_matrices(starts.warps, config.image_hw).to(device, extractor.dtype)
        self._trace = torch.full((steps, len(starts)), torch.nan, device=device, dtype=extractor.dtype)
        self._steps_with_gradient = torch.zeros(len(starts), device=device, dtype=torch.long)
        self._seeds = starts.seeds.tolist()
        self._step_on_host = 0  # not counted where a graph is replayed
        self._step_on_device = torch.zeros(1, device=device, dtype=torch.long)
        # A transform and a callable may draw numbers on the host, which a recording would repeat.
        repeatable = transform is None and objective.layers is not None
        self._runner = extractor.backend.step_runner() if repeatable else None

    def step(self) -> None:
        """One step of all units."""
        if self._runner is None:
            self._step()
        else:
            self._runner(self._step)

    def _step(self) -> None:
        """What changes from step to step is read from the device: see `cuda_graph.py`."""
        values, extractor = self._image.values, self._extractor
        self._rate.copy_(self._rates.index_select(0, self._step_on_device).squeeze(0))
        images = self._image()
        matrices = self._matrices.index_select(0, self._step_on_device).squeeze(0)
        fed = network_input(extractor, images, matrices, self._transform, self._seeds, self._step_on_host)
        self._step_on_host += 1
        score = score_of(extractor, self._objective, images, fed)
        gradient = gradient_of(score, values)
        usable = is_usable(gradient)
        gradient = gradient.masked_fill(~usable.view(-1, *[1] * (gradient.ndim - 1)), 0)
        excess = self._excess(images.detach())
        values.grad = gradient.contiguous()  # fused Adam pairs numbers by their place in memory, whatever the strides
        self._adam.step()
        self._decay(excess)
        self._average.lerp_(values.detach(), self._weights.index_select(0, self._step_on_device).squeeze(0))
        self._trace.index_copy_(0, self._step_on_device, score.detach()[None])
        self._steps_with_gradient += usable
        self._step_on_device += 1

    @torch.no_grad()
    def _excess(self, images: Tensor) -> Tensor | None:
        """What takes colors of these images too near to black and white, in values; None where nothing is to be done."""
        return self._image.excess(images) if self.config.saturation_decay else None

    @torch.no_grad()
    def _decay(self, excess: Tensor | None) -> None:
        """Weight decay and saturation decay of a step of AdamW that has been made; each takes at most all."""
        values, config = self._image.values, self.config
        if config.weight_decay:
            share = (self._rate * config.weight_decay * self._image.weight_decay_scale).clamp(max=1)
            shrinks = values * self._adam.state[values]["exp_avg"] > 0  # the mean gradient of what AdamW minimizes
            values.sub_(torch.where(shrinks, values, 0) * share)
        if excess is not None:
            values.sub_(excess * (self._rate * config.saturation_decay).clamp(max=1))

    @property
    def config(self) -> RenderConfig:
        """Of the ascent."""
        return self._extractor.config

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._extractor.device

    @property
    def coupled(self) -> bool:
        """Whether the objective couples its images, so that they end together."""
        return self._objective.coupled

    def converged(self, steps: int, tolerance: float) -> Tensor:
        """Which units have converged: see `featviz.config.Quality`. (unit,) bool on the CPU.

        Means are compared, since every score is that of one random transform; the start is the mean of the first `START_STEPS`
        steps. False until both windows lie behind the first `SETTLING_STEPS`, where warps and step size change; True for a unit
        without a finite score.

        Args:
            steps: how many have been made.
        """
        if steps < SETTLING_STEPS + 2 * CONVERGENCE_WINDOW:
            return torch.zeros(len(self._starts), dtype=torch.bool)
        trace = self._trace[:steps].double() if self._trace.device.type == "cpu" else self._trace[:steps]
        now, before = trace[-CONVERGENCE_WINDOW:].mean(0), trace[-2 * CONVERGENCE_WINDOW : -CONVERGENCE_WINDOW].mean(0)
        first = trace[:START_STEPS].mean(0)
        return ~(now - before > tolerance * (now - first)).cpu()

    def select(self, rows: Sequence[int]) -> "Ascent":
        """The ascent of some of the units, which goes on where they are."""
        new = Ascent(self._extractor, self._objective.select(list(rows)), self._starts.select(rows), self._transform)
        on_device = torch.tensor(rows, device=self._trace.device)
        with torch.no_grad():
            new._image.values.copy_(self._image.values[on_device])
        new._average = self._average[on_device]
        new._trace, new._steps_with_gradient = self._trace[:, on_device], self._steps_with_gradient[on_device]
        new._step_on_device, new._step_on_host = self._step_on_device.clone(), self._step_on_host
        for name, state in self._adam.state[self._image.values].items():
            new._adam.state[new._image.values][name] = state.clone() if state.ndim == 0 else state[on_device]
        return new

    def reached(self, rows: Sequence[int]) -> "Reached":
        """What the ascents of some of the units have come to."""
        steps = int(self._step_on_device)
        on_device = torch.tensor(rows, device=self._trace.device)
        return Reached(
            self._average[on_device],
            self._trace[:steps, on_device].cpu(),
            self._steps_with_gradient[on_device].cpu(),
            torch.full((len(rows),), steps),
        )


@dataclass(frozen=True, eq=False)
class Reached:
    """What units have come to in an ascent.

    values: (unit, ...) averages of the iterates, parameters of the images, on the device.
    trace: (step, unit) of the scores, NaN after a unit's last step; on the CPU.
    steps_with_gradient: (unit,). steps: (unit,) that were made.
    """

    values: Tensor
    trace: Tensor
    steps_with_gradient: Tensor
    steps: Tensor

    def select(self, rows: Sequence[int]) -> "Reached":
        """Some of them, in the order of `rows`."""
        index = torch.tensor(rows)
        values = self.values[index.to(self.values.device)]
        return Reached(values, self.trace[:, index], self.steps_with_gradient[index], self.steps[index])

    @staticmethod
    def join(parts: Sequence["Reached"]) -> "Reached":
        """One after the other."""
        return Reached(
            torch.cat([part.values for part in parts]),
            joined_traces([part.trace for part in parts]),
            torch.cat([part.steps_with_gradient for part in parts]),
            torch.cat([part.steps for part in parts]),
        )


def renderings_of(extractor: FeatureExtractor, objective: Objective, starts: Starts, reached: Reached) -> Renderings:
    """The images of the units that the starts are of, and their scores, in one batch.

    Args:
        reached: of all units, in the order of the starts.
    """
    with torch.no_grad():
        image = parameterization(starts.values.to(extractor.device, extractor.dtype), extractor.config)
        images = functional_call(image, {"values": reached.values}, ())
        score = plain_score(extractor, objective, images).cpu()
    # Less than one usable step in ten: the unit died, or flickered; a saturated image (gradient 0 at the end) is alive.
    steps, usable = reached.steps, reached.steps_with_gradient
    dead = (usable < (steps // 10).clamp(min=1)) & (steps > 0) | ~score.isfinite()
    return Renderings(images.float().cpu(), score, reached.trace, dead, starts.restart, steps)


def learning_rate(config: RenderConfig, step: int) -> float:
    """Of one step: `config.step_size`; down to it from `FIRST_RATE` times that; or by a cosine from it to 0.

    The cosine is SGDR's without restarts (Loshchilov & Hutter 2017).
    """
    size = config.step_size
    if config.schedule == "constant":
        return size
    if config.schedule == "cosine":
        return size * (1 + math.cos(math.pi * step / config.most_steps)) / 2
    return size * (FIRST_RATE + (1 - FIRST_RATE) * min(1, step / SETTLING_STEPS))


def network_input(
    extractor: FeatureExtractor,
    images: Tensor,
    matrices: Tensor,
    transform: SeededTransform | None,
    seeds: list[int],
    step: int,
) -> Tensor:
    """What the network sees at a step."""
    config = extractor.config
    if transform is None:
        return resample(images, matrices, config.input_hw, config.border, extractor.mean)
    seen = transform(images, seeds, step)
    return seen if config.input_size is None else resized(seen, config.input_hw)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return warp(images, identity_warps(len(images), images), size, "border")


def plain_score(extractor: FeatureExtractor, objective: Objective, images: Tensor) -> Tensor:
    h, w = images.shape[-2:]
    size = (h, w) if extractor.config.input_size is None else extractor.config.input_hw
    return score_of(extractor, objective, images, resized(images, size), precise=True)


def score_of(
    extractor: FeatureExtractor,
    objective: Objective,
    images: Tensor,
    fed: Tensor,
    precise: bool = False,
    once: bool = False,
) -> Tensor:
    return objective.score(extractor(fed, images, precise, once).__getitem__).to(extractor.dtype)


def gradient_of(score: Tensor, values: Tensor) -> Tensor:
    """Of the sum of the scores; zero where the score does not depend on the images at all."""
    if not score.requires_grad:
        return torch.zeros_like(values)
    (gradient,) = torch.autograd.grad(score.sum(), values, allow_unused=True, materialize_grads=True)
    return gradient


def is_usable(gradient: Tensor) -> Tensor:
    """Per unit: finite and not zero."""
    size = torch.linalg.vector_norm(gradient.flatten(1), 1, 1)
    return size.isfinite() & (size > 0)
