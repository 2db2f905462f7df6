"""The loop that turns starts into images by gradient ascent, a batch of units at a time.

(extractor, objective, starts) -> Renderings. A unit ends after `config.steps` steps or, without them, when its score has
converged. That is looked at every `CONVERGENCE_INTERVAL` steps; nothing else is read back to the host before a batch is done.
"""

import contextlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from featviz.config import CONVERGENCE_INTERVAL
from featviz.errors import RenderError
from featviz.rendering.image.parameterizations import parameterization
from featviz.rendering.image.seeding import Starts
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Objective
from featviz.rendering.optimize.ascent import (
    Ascent,
    Reached,
    gradient_of,
    is_usable,
    network_input,
    plain_score,
    renderings_of,
    score_of,
)
from featviz.rendering.optimize.batching import in_batches
from featviz.rendering.optimize.malloc import keep_freed_memory
from featviz.rendering.optimize.renderings import Renderings
from featviz.rendering.robustness.seeded_transform import SeededTransform
from featviz.rendering.robustness.warps import sampling_matrices

Progress = Callable[[int, int], None]
SMALLEST = {"cuda": 32}  # batch that is not halved: a smaller one takes as long


def ascend(
    extractor: FeatureExtractor,
    objective: Objective,
    starts: Starts,
    transform: SeededTransform | None = None,
    progress: Progress | None = None,
) -> Renderings:
    """Optimise the images of all units by AdamW, a batch of units at a time.

    Every unit makes `extractor.config.steps` steps, or ends when it has converged. Units that have ended leave the batch once
    they are half of it; those of an objective that couples its images end together.

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
    steps = extractor.config.most_steps

    def optimise(rows: list[int]) -> Renderings:
        def report(done: int) -> None:
            if progress is not None:
                progress(rows[0] * steps + done, len(starts) * steps)

        part, own = objective.select(rows), starts.select(rows)
        reached = _ascended(Ascent(extractor, part, own, transform), len(rows), report)
        return renderings_of(extractor, part, own, reached)

    with _steady_memory(extractor):
        return Renderings.join(in_batches(extractor, objective, len(starts), optimise))


def _ascended(ascent: Ascent, units: int, report: Callable[[int], None]) -> Reached:
    """What the units of a batch have come to; units that have ended leave the batch by halves.

    They are not scored when they end: a GPU takes seconds to choose its kernels for a batch of another size.

    Args:
        report: called with the steps done, one per unit and step; a unit that has ended has done all.
    """
    config, coupled = ascent.config, ascent.coupled
    steps, tolerance = config.most_steps, config.tolerance
    ended: list[int] = []  # units, in the order in which they ended
    parts: list[Reached] = []  # what they have come to, in that order
    left = list(range(units))  # of the batch, in the order of the ascent's rows
    for done in range(1, steps + 1):
        ascent.step()
        if done < steps and tolerance is not None and done % CONVERGENCE_INTERVAL == 0:
            converged = ascent.converged(done, tolerance)
            converged = converged.all().expand(units) if coupled else converged
            new = [row for row, unit in enumerate(left) if converged[row] and unit not in ended]
            if new:
                parts.append(ascent.reached(new))
                ended += [left[row] for row in new]
            going = [row for row, unit in enumerate(left) if unit not in ended]
            if not going:
                break
            rows = _smaller_batch(len(left), going, SMALLEST.get(ascent.device.type, 1))
            if len(rows) < len(left):
                ascent, left = ascent.select(rows), [left[row] for row in rows]
        if done < steps:
            report(len(ended) * steps + (units - len(ended)) * done)
    last = [row for row, unit in enumerate(left) if unit not in ended]
    if last:
        parts.append(ascent.reached(last))
        ended += [left[row] for row in last]
    if steps:
        report(units * steps)
    return Reached.join(parts).select(sorted(range(units), key=ended.__getitem__))


def _smaller_batch(rows: int, going: list[int], smallest: int) -> list[int]:
    """The rows that stay in a batch: those that go on, filled up with others to the batch halved once or more.

    Batches of few different sizes are traced few times.
    """
    size = rows
    while 2 * len(going) <= size and size > smallest:
        size = max(smallest, math.ceil(size / 2))
    others = sorted(set(range(rows)) - set(going))
    return sorted(going + others[: size - len(going)])


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
        fed = network_input(extractor, images, matrices, transform, part.seeds.tolist(), 0)
        score = score_of(extractor, objective.select(rows), images, fed, once=once)
        return is_usable(gradient_of(score, image.values)).cpu()

    with _steady_memory(extractor):
        return torch.cat(in_batches(extractor, objective, len(starts), work))


def score_images(extractor: FeatureExtractor, objective: Objective, images: Tensor) -> Tensor:
    """The score (unit,) on the CPU of images (unit, c, h, w) in [0, 1], without transforms, at full
    precision.

    Images of another size than the network is fed (`config.input_size`) are resized.
    """

    def work(rows: list[int]) -> Tensor:
        part = images[rows].to(extractor.device, extractor.dtype)
        return plain_score(extractor, objective.select(rows), part).cpu()

    with torch.no_grad():
        return torch.cat(in_batches(extractor, objective, len(images), work))


def _check_number(objective: Objective, starts: Starts) -> None:
    if objective.images not in (None, len(starts)):
        raise RenderError(
            f"the objective is for {objective.images} images, the starts are for {len(starts)}: make them equal."
        )
    if not len(starts):
        raise RenderError("there is no unit to render: name at least one.")


def _steady_memory(extractor: FeatureExtractor) -> contextlib.AbstractContextManager[None]:
    return keep_freed_memory() if extractor.device.type == "cpu" else contextlib.nullcontext()
