"""The ascent: the one loop that turns starts into images.

(extractor, objective, starts) -> Renderings. Step: parameterization -> images -> one warp per image -> extractor ->
objective -> sum over units -> gradient with respect to the images' parameters alone -> Adam. The sum keeps
the units apart: the gradient of a unit's image is that of its own score, whatever it is batched with. Nothing
is read back to the host until a batch is done.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.rendering.backends.cuda_graph import Recorded
from featviz.rendering.image.parameterizations import parameterization
from featviz.rendering.image.seeding import Starts
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Objective
from featviz.rendering.optimize.batching import batch_size, in_batches
from featviz.rendering.optimize.malloc import held_memory
from featviz.rendering.robustness.warps import identity_warps, resample, sampling_matrices, warp

Transform = Callable[[Tensor], Tensor]
Progress = Callable[[int, int], None]
Begin = Callable[[list[int]], "Climb"]
WINDOW = 16  # steps between two looks at which units have converged


@dataclass(frozen=True, eq=False)
class Renderings:
    """Images of some units in one network, all on the CPU.

    images: (unit, c, h, w) float32 in [0, 1].
    score: (unit,) of the final image without transforms, at full precision (float32, or float64 where asked
        for).
    trace: (step, unit) of the scores during the ascent, each under that step's warp; NaN after a unit had converged.
    dead: (unit,) bool: the ascent had no usable gradient or ended without a finite score; the image means
        nothing.
    restart: (unit,) which of the unit's starts was used, 0 the first.
    """

    images: Tensor
    score: Tensor
    trace: Tensor
    dead: Tensor
    restart: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]

    def select(self, index: Sequence[int]) -> "Renderings":
        """Some of them, in the order of `index`."""
        rows = list(index)
        return Renderings(self.images[rows], self.score[rows], self.trace[:, rows], self.dead[rows], self.restart[rows])

    @staticmethod
    def join(parts: Sequence["Renderings"]) -> "Renderings":
        """One after the other."""
        return Renderings(
            torch.cat([part.images for part in parts]),
            torch.cat([part.score for part in parts]),
            torch.cat([part.trace for part in parts], 1),
            torch.cat([part.dead for part in parts]),
            torch.cat([part.restart for part in parts]),
        )


def ascend(
    extractor: FeatureExtractor,
    objective: Objective,
    starts: Starts,
    config: RenderConfig,
    transform: Transform | None = None,
    progress: Progress | None = None,
) -> Renderings:
    """Climb from the starts for `config.steps` steps of Adam, a batch of units at a time.

    With `config.tolerance` a unit stops earlier, once its score no longer grows, and others take its place in the batch.

    Args:
        extractor: an open extractor with the objective's layers.
        objective: a score per image; one that couples its images gets them all in one batch.
        starts: starts and warp parameters; their units are the objective's images.
        transform: in place of the warps: images (unit, c, h, w) in [0, 1] -> what the network is fed,
            differentiable (for example a `kornia.augmentation` pipeline). Its randomness is its own, so that
            a unit's image may then depend on its batch.
        progress: called after every step with (steps done, steps to do), one per image and step.

    Raises:
        RenderError: the objective prescribes another number of images than there are starts.
    """
    _same_number(objective, starts)

    def climb(rows: list[int]) -> Climb:
        return Climb(extractor, objective.select(rows), starts.select(rows), config, transform)

    way = _queued if config.tolerance and config.steps and not objective.coupled else _all_together
    with _steady_memory(extractor):
        return way(extractor, objective, len(starts), config, climb, progress or (lambda done, steps: None))


def _all_together(
    extractor: FeatureExtractor,
    objective: Objective,
    units: int,
    config: RenderConfig,
    climb: Begin,
    progress: Progress,
) -> Renderings:
    """Batch after batch, every unit to the last step."""

    def work(rows: list[int]) -> Renderings:
        batch = climb(rows)
        for step in range(config.steps):
            batch.step()
            progress(rows[0] * config.steps + (step + 1) * len(rows), units * config.steps)
        return batch.renderings()

    return Renderings.join(in_batches(extractor, objective, units, config, work))


def _queued(
    extractor: FeatureExtractor,
    objective: Objective,
    units: int,
    config: RenderConfig,
    climb: Begin,
    progress: Progress,
) -> Renderings:
    """Window after window; between two of them converged units leave and batches are formed anew from the rest.

    All units that are left stand at the same step, and what Adam knows of each travels with it: a unit's image is the one that
    as many steps would give it alone. The last batch of a window is filled up to a half, a quarter, ... of a full one, so that
    few shapes of batches have to be made ready.
    """
    left, on_the_way, done = list(range(units)), {}, {}
    for first in range(0, max(config.steps, 1), WINDOW):
        last = min(first + WINDOW, config.steps)
        full = min(units, batch_size(extractor, objective, config))  # anew: memory that ran out made it smaller

        def work(
            places: list[int], first: int = first, last: int = last, waiting: list[int] = left, full: int = full
        ) -> None:
            rows = [waiting[place] for place in places]
            size = full
            while (size + 1) // 2 >= len(rows) > 0 and size > 1:
                size = (size + 1) // 2
            filled = rows + rows[-1:] * (size - len(rows))
            batch = climb(filled)
            if first:
                batch.go_on(first, [on_the_way[row] for row in filled])
            for _ in range(first, last):
                batch.step()
            over = [last == config.steps or flag for flag in batch.converged(config.tolerance)][: len(rows)]
            found = batch.renderings() if any(over) else None
            states = batch.states()
            for place, row in enumerate(rows):
                on_the_way[row] = states[place]
                if over[place] and found is not None:
                    done[row] = found.select([place])
                    del on_the_way[row]

        in_batches(extractor, objective, len(left), config, work)
        left = [row for row in left if row not in done]
        progress(units * config.steps - len(left) * (config.steps - last), units * config.steps)
        if not left:
            break
    return Renderings.join([done[row] for row in range(units)])


class Climb:
    """The ascent of one batch, step by step."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        objective: Objective,
        starts: Starts,
        config: RenderConfig,
        transform: Transform | None = None,
    ) -> None:
        self._trunk, self._objective, self._config, self._transform = extractor, objective, config, transform
        self._painter = parameterization(starts.values.to(extractor.device, extractor.dtype), config)
        on_cuda = extractor.device.type == "cuda"
        kind = {"device": extractor.device, "dtype": torch.float64 if extractor.device.type == "cpu" else torch.float32}
        self._rates = torch.tensor([learning_rate(config, step) for step in range(config.steps)], **kind)
        self._rate = torch.zeros((), **kind)
        fused = on_cuda or extractor.device.type == "cpu"
        self._adam = torch.optim.Adam(
            [self._painter.values], betas=(config.beta1, 0.999), maximize=True, fused=fused, capturable=on_cuda
        )
        self._adam.param_groups[0]["lr"] = self._rate
        self._matrices = sampling_matrices(starts.warps, config.image_hw).to(extractor.device, extractor.dtype)
        self._trace = torch.full((config.steps, len(starts)), torch.nan, device=extractor.device, dtype=extractor.dtype)
        self._usable = torch.zeros(len(starts), device=extractor.device, dtype=torch.long)
        self._restart = starts.restart
        self._done = 0
        self._at = torch.zeros(1, device=extractor.device, dtype=torch.long)  # the same number, where the work is done
        # A transform and a callable may draw numbers on the host, which a recording would repeat.
        recordable = on_cuda and transform is None and objective.layers is not None
        self._advance = Recorded(self._step, extractor.device) if recordable else self._step

    def step(self) -> None:
        """One step of all units, under the next warps."""
        self._advance()
        self._done += 1

    def _step(self) -> None:
        """What changes from step to step is read from the device: see `recording.py`."""
        spectrum = self._painter.values
        self._rate.copy_(self._rates.index_select(0, self._at).squeeze(0))
        images = self._painter()
        matrices = self._matrices.index_select(0, self._at).squeeze(0)
        fed = _fed(self._trunk, images, matrices, self._config, self._transform)
        score = _score(self._trunk, self._objective, images, fed)
        gradient = _gradient(score, spectrum)
        good = _usable(gradient)
        gradient = gradient.masked_fill(~good.view(-1, *[1] * (gradient.ndim - 1)), 0)
        spectrum.grad = gradient.contiguous()  # fused Adam pairs numbers by their place in memory, whatever the strides
        self._adam.step()
        self._trace.index_copy_(0, self._at, score.detach()[None])
        self._usable += good
        self._at += 1

    def states(self) -> list[dict[str, Tensor]]:
        """Per unit, on the CPU: all that `go_on` needs."""
        moments = self._adam.state[self._painter.values]
        whole = {
            "spectrum": self._painter.values.detach(),
            "exp_avg": moments["exp_avg"],
            "exp_avg_sq": moments["exp_avg_sq"],
            "trace": self._trace[: self._done].T,
            "usable": self._usable,
        }
        apart = {name: tensor.cpu().unbind() for name, tensor in whole.items()}
        return [{name: parts[unit].clone() for name, parts in apart.items()} for unit in range(len(self._usable))]

    def go_on(self, done: int, states: Sequence[dict[str, Tensor]]) -> None:
        """Take up the ascents of these units after `done` steps."""
        whole = {name: torch.stack([state[name] for state in states]).to(self._trunk.device) for name in states[0]}
        spectrum = self._painter.values
        with torch.no_grad():
            spectrum.copy_(whole["spectrum"])
        self._adam.state[spectrum] = {
            "step": torch.tensor(float(done), device=self._trunk.device, dtype=torch.float32),
            "exp_avg": torch.empty_like(spectrum).copy_(whole["exp_avg"]),
            "exp_avg_sq": torch.empty_like(spectrum).copy_(whole["exp_avg_sq"]),
        }
        self._trace[:done] = whole["trace"].T
        self._usable, self._done = whole["usable"], done
        self._at.fill_(done)

    def converged(self, tolerance: float) -> list[bool]:
        """Per unit: the mean score of the last `WINDOW` steps exceeds that of the window before by at most this part of it."""
        if self._done < 2 * WINDOW:
            return [False] * len(self._usable)
        before, now = self._trace[self._done - 2 * WINDOW : self._done].unflatten(0, (2, WINDOW)).mean(1)
        return (now - before <= tolerance * now.abs()).tolist()

    def renderings(self) -> Renderings:
        """What the ascents have come to."""
        with torch.no_grad():
            images = self._painter()
            score = _plain_score(self._trunk, self._objective, images)
        # Less than one usable step in ten: the unit died, or flickered; a saturated image (gradient 0 at the end) is alive.
        dead = (self._usable < max(1, self._done // 10)) & (self._config.steps > 0) | ~score.isfinite()
        return Renderings(images.float().cpu(), score.cpu(), self._trace.cpu(), dead.cpu(), self._restart)


def learning_rate(config: RenderConfig, step: int) -> float:
    """Of one step: `config.lr`, or its cosine from there to 0 (SGDR without restarts, Loshchilov & Hutter 2017)."""
    if config.schedule == "constant":
        return config.lr
    return config.lr * (1 + math.cos(math.pi * step / config.steps)) / 2


def alive(
    extractor: FeatureExtractor,
    objective: Objective,
    starts: Starts,
    config: RenderConfig,
    transform: Transform | None = None,
    once: bool = False,
) -> Tensor:
    """Which units can climb: (unit,) bool on the CPU, gradient at the start under the first warp finite and
    not zero. `once`: no ascent in batches of this size will follow.
    """
    _same_number(objective, starts)

    def work(rows: list[int]) -> Tensor:
        part = starts.select(rows)
        painter = parameterization(part.values.to(extractor.device, extractor.dtype), config)
        matrices = sampling_matrices(part.warps[0], config.image_hw).to(extractor.device, extractor.dtype)
        images = painter()
        score = _score(
            extractor, objective.select(rows), images, _fed(extractor, images, matrices, config, transform), once=once
        )
        return _usable(_gradient(score, painter.values)).cpu()

    with _steady_memory(extractor):
        return torch.cat(in_batches(extractor, objective, len(starts), config, work))


def score_images(extractor: FeatureExtractor, objective: Objective, images: Tensor) -> Tensor:
    """The score (unit,) on the CPU of images (unit, c, h, w) in [0, 1], without transforms, at full
    precision.

    Images of another size than the network is fed (`config.input_size`) are resized.
    """

    def work(rows: list[int]) -> Tensor:
        part = images[rows].to(extractor.device, extractor.dtype)
        return _plain_score(extractor, objective.select(rows), part).cpu()

    with torch.no_grad():
        return torch.cat(in_batches(extractor, objective, len(images), extractor.config, work))


def _same_number(objective: Objective, starts: Starts) -> None:
    if objective.images not in (None, len(starts)):
        raise RenderError(
            f"the objective is for {objective.images} images, the starts are for {len(starts)}: make them equal."
        )
    if not len(starts):
        raise RenderError("there is no unit to render: name at least one.")


def _fed(
    extractor: FeatureExtractor, images: Tensor, matrices: Tensor, config: RenderConfig, transform: Transform | None
) -> Tensor:
    """What the network sees at a step."""
    if transform is None:
        return resample(images, matrices, config.input_hw, config.border, extractor.mean)
    seen = transform(images)
    return seen if config.input_size is None else _resized(seen, config.input_hw)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return warp(images, identity_warps(len(images), images), size, "border")


def _plain_score(extractor: FeatureExtractor, objective: Objective, images: Tensor) -> Tensor:
    h, w = images.shape[-2:]
    size = (h, w) if extractor.config.input_size is None else extractor.config.input_hw
    return _score(extractor, objective, images, _resized(images, size), precise=True)


def _score(
    extractor: FeatureExtractor,
    objective: Objective,
    images: Tensor,
    seen: Tensor,
    precise: bool = False,
    once: bool = False,
) -> Tensor:
    return objective.score(extractor(seen, images, precise, once).__getitem__).to(extractor.dtype)


def _steady_memory(extractor: FeatureExtractor) -> contextlib.AbstractContextManager[None]:
    return held_memory() if extractor.device.type == "cpu" else contextlib.nullcontext()


def _gradient(score: Tensor, spectrum: Tensor) -> Tensor:
    """Of the sum of the scores; zero where the score does not hang on the images at all."""
    if not score.requires_grad:
        return torch.zeros_like(spectrum)
    (gradient,) = torch.autograd.grad(score.sum(), spectrum, allow_unused=True, materialize_grads=True)
    return gradient


def _usable(gradient: Tensor) -> Tensor:
    """Per unit: finite and not zero."""
    size = torch.linalg.vector_norm(gradient.flatten(1), 1, 1)
    return size.isfinite() & (size > 0)
