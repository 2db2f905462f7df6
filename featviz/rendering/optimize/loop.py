"""Gradient ascent: the one loop that turns starts into images.

(extractor, objective, starts) -> Renderings. Step: parameterization -> images -> one warp per image -> network ->
objective -> sum over units -> gradient with respect to the images' parameters alone -> Adam. The sum keeps
the units apart: the gradient of a unit's image is that of its own score, whatever it is batched with. Nothing
is read back to the host until a batch is done.
"""

import contextlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.rendering.image.parameterizations import parameterization
from featviz.rendering.image.seeding import Starts
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Objective
from featviz.rendering.optimize.batching import in_batches
from featviz.rendering.optimize.malloc import keep_freed_memory
from featviz.rendering.optimize.renderings import Renderings
from featviz.rendering.robustness.seeded_transform import SeededTransform
from featviz.rendering.robustness.warps import identity_warps, resample, sampling_matrices, warp

Progress = Callable[[int, int], None]


def ascend(
    extractor: FeatureExtractor,
    objective: Objective,
    starts: Starts,
    transform: SeededTransform | None = None,
    progress: Progress | None = None,
) -> Renderings:
    """Optimise the images of all units for `extractor.config.steps` steps of Adam, a batch of units at a time.

    Args:
        extractor: of the objective's layers; its config is that of the ascent.
        objective: a score per image; one that couples its images gets them all in one batch.
        starts: starts and warp parameters; their units are the objective's images.
        transform: in place of the warps.
        progress: called after every step with (steps done, steps to do), one per image and step.

    Raises:
        RenderError: the objective prescribes another number of images than there are starts.
    """
    _check_number(objective, starts)
    steps = extractor.config.steps

    def optimise(rows: list[int]) -> Renderings:
        ascent = Ascent(extractor, objective.select(rows), starts.select(rows), transform)
        for step in range(steps):
            ascent.step()
            if progress is not None:
                progress(rows[0] * steps + (step + 1) * len(rows), len(starts) * steps)
        return ascent.renderings()

    with _steady_memory(extractor):
        return Renderings.join(in_batches(extractor, objective, len(starts), optimise))


class Ascent:
    """The ascent of one batch, step by step."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        objective: Objective,
        starts: Starts,
        transform: SeededTransform | None = None,
    ) -> None:
        config, device = extractor.config, extractor.device
        self._extractor, self._objective, self._transform = extractor, objective, transform
        self._image = parameterization(starts.values.to(device, extractor.dtype), config)
        on_cuda = device.type == "cuda"
        kind = {"device": device, "dtype": torch.float64 if device.type == "cpu" else torch.float32}
        self._rates = torch.tensor([learning_rate(config, step) for step in range(config.steps)], **kind)
        self._rate = torch.zeros((), **kind)
        self._adam = torch.optim.Adam(
            [self._image.values], betas=(config.beta1, 0.999), maximize=True, fused=on_cuda or device.type == "cpu",
            capturable=on_cuda,
        )  # fmt: skip
        self._adam.param_groups[0]["lr"] = self._rate
        self._matrices = sampling_matrices(starts.warps, config.image_hw).to(device, extractor.dtype)
        self._trace = torch.full((config.steps, len(starts)), torch.nan, device=device, dtype=extractor.dtype)
        self._steps_with_gradient = torch.zeros(len(starts), device=device, dtype=torch.long)
        self._restart, self._seeds = starts.restart, starts.seeds.tolist()
        self._done = 0  # steps, as the host counts them
        self._number = torch.zeros(1, device=device, dtype=torch.long)  # of the step, where the work is done
        # A transform and a callable may draw numbers on the host, which a recording would repeat.
        repeatable = transform is None and objective.layers is not None
        self.step = extractor.backend.repeated(self._step) if repeatable else self._step

    def _step(self) -> None:
        """One step of all units. What changes from step to step is read from the device: see `cuda_graph.py`."""
        values, extractor = self._image.values, self._extractor
        self._rate.copy_(self._rates.index_select(0, self._number).squeeze(0))
        images = self._image()
        matrices = self._matrices.index_select(0, self._number).squeeze(0)
        fed = _network_input(extractor, images, matrices, self._transform, self._seeds, self._done)
        self._done += 1
        score = _score(extractor, self._objective, images, fed)
        gradient = _gradient(score, values)
        usable = _usable(gradient)
        gradient = gradient.masked_fill(~usable.view(-1, *[1] * (gradient.ndim - 1)), 0)
        values.grad = gradient.contiguous()  # fused Adam pairs numbers by their place in memory, whatever the strides
        self._adam.step()
        self._trace.index_copy_(0, self._number, score.detach()[None])
        self._steps_with_gradient += usable
        self._number += 1

    def renderings(self) -> Renderings:
        """What the ascents have come to."""
        with torch.no_grad():
            images = self._image()
            score = _plain_score(self._extractor, self._objective, images)
        # Less than one usable step in ten: the unit died, or flickered; a saturated image (gradient 0 at the end) is alive.
        steps = len(self._rates)
        dead = (self._steps_with_gradient < max(1, steps // 10)) & (steps > 0) | ~score.isfinite()
        return Renderings(images.float().cpu(), score.cpu(), self._trace.cpu(), dead.cpu(), self._restart)


def learning_rate(config: RenderConfig, step: int) -> float:
    """Of one step: `config.lr`, or its cosine from there to 0 (SGDR without restarts, Loshchilov & Hutter 2017)."""
    if config.schedule == "constant":
        return config.lr
    return config.lr * (1 + math.cos(math.pi * step / config.steps)) / 2


def has_gradient(
    extractor: FeatureExtractor,
    objective: Objective,
    starts: Starts,
    transform: SeededTransform | None = None,
    once: bool = False,
) -> Tensor:
    """Which units have a gradient at their start under their first warp, finite and not zero: (unit,) bool on the CPU.

    Args:
        once: no ascent in batches of this size will follow.
    """
    _check_number(objective, starts)
    config = extractor.config

    def work(rows: list[int]) -> Tensor:
        part = starts.select(rows)
        image = parameterization(part.values.to(extractor.device, extractor.dtype), config)
        matrices = sampling_matrices(part.warps[0], config.image_hw).to(extractor.device, extractor.dtype)
        images = image()
        fed = _network_input(extractor, images, matrices, transform, part.seeds.tolist(), 0)
        score = _score(extractor, objective.select(rows), images, fed, once=once)
        return _usable(_gradient(score, image.values)).cpu()

    with _steady_memory(extractor):
        return torch.cat(in_batches(extractor, objective, len(starts), work))


def score_images(extractor: FeatureExtractor, objective: Objective, images: Tensor) -> Tensor:
    """The score (unit,) on the CPU of images (unit, c, h, w) in [0, 1], without transforms, at full
    precision.

    Images of another size than the network is fed (`config.input_size`) are resized.
    """

    def work(rows: list[int]) -> Tensor:
        part = images[rows].to(extractor.device, extractor.dtype)
        return _plain_score(extractor, objective.select(rows), part).cpu()

    with torch.no_grad():
        return torch.cat(in_batches(extractor, objective, len(images), work))


def _check_number(objective: Objective, starts: Starts) -> None:
    if objective.images not in (None, len(starts)):
        raise RenderError(
            f"the objective is for {objective.images} images, the starts are for {len(starts)}: make them equal."
        )
    if not len(starts):
        raise RenderError("there is no unit to render: name at least one.")


def _network_input(
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


def _plain_score(extractor: FeatureExtractor, objective: Objective, images: Tensor) -> Tensor:
    h, w = images.shape[-2:]
    size = (h, w) if extractor.config.input_size is None else extractor.config.input_hw
    return _score(extractor, objective, images, resized(images, size), precise=True)


def _score(
    extractor: FeatureExtractor,
    objective: Objective,
    images: Tensor,
    fed: Tensor,
    precise: bool = False,
    once: bool = False,
) -> Tensor:
    return objective.score(extractor(fed, images, precise, once).__getitem__).to(extractor.dtype)


def _steady_memory(extractor: FeatureExtractor) -> contextlib.AbstractContextManager[None]:
    return keep_freed_memory() if extractor.device.type == "cpu" else contextlib.nullcontext()


def _gradient(score: Tensor, values: Tensor) -> Tensor:
    """Of the sum of the scores; zero where the score does not depend on the images at all."""
    if not score.requires_grad:
        return torch.zeros_like(values)
    (gradient,) = torch.autograd.grad(score.sum(), values, allow_unused=True, materialize_grads=True)
    return gradient


def _usable(gradient: Tensor) -> Tensor:
    """Per unit: finite and not zero."""
    size = torch.linalg.vector_norm(gradient.flatten(1), 1, 1)
    return size.isfinite() & (size > 0)
