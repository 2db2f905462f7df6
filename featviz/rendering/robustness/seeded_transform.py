"""Transforms of the images that draw random numbers: every unit's draws follow from its own seed and the step.

images (unit, c, h, w) in [0, 1], seeds (unit,), step -> what the network is fed. So a unit's image does not depend on the units
that it is rendered with, and all subjects of a row see the same transforms. That holds for every transform that draws from the
global generators of torch, numpy or Python's `random`, as kornia's and torchvision's do.

The transform is called on one image at a time, with the generators seeded by (seed of the unit, step). A pipeline of kornia's
augmentations alone is faster: its parameters are drawn image by image, joined, and applied to the whole batch (kornia's
`params`). Before that is done, both are compared on random images, as the pipeline is and with every probability set to 1.
"""

import contextlib
import copy
import hashlib
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from kornia.augmentation import AugmentationSequential, ImageSequential, MixAugmentationBaseV2
from kornia.augmentation.base import _BasicAugmentationBase
from torch import Tensor, nn

from featviz.errors import RenderError, summary
from featviz.failures import out_of_memory

log = logging.getLogger("featviz")
TRIAL_IMAGES, TRIAL_STEPS = 3, 2
_GENERATORS = threading.RLock()  # the global generators belong to one thread at a time


class SeededTransform:
    """A transform of images whose random numbers follow from the unit's seed and the step.

    Args:
        transform: images (unit, c, h, w) in [0, 1] -> (unit, c, h', w'), differentiable: a kornia augmentation, an
            `AugmentationSequential`, any other module or callable. A module is copied, since kornia's keep their last draws.
        name: for messages; None: the module's class, or the callable's name.

    Raises:
        RenderError: it cannot be called, or is a module that cannot be copied.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], name: str | None = None) -> None:
        if isinstance(transform, type):
            raise RenderError(
                f"robustness is the class {transform.__name__}: make one of it, {transform.__name__}(...)."
            )
        if not callable(transform):
            raise RenderError(f"robustness is {transform!r}: give a preset's name, a kornia pipeline or a callable.")
        self.name = name or getattr(transform, "__name__", type(transform).__name__)
        self._transform = transform
        if isinstance(transform, nn.Module):
            try:
                own = copy.deepcopy(transform)
            except Exception as error:
                raise RenderError(
                    f"the pipeline {self.name} cannot be copied ({summary(error)}): make it anew."
                ) from error
            plain = type(own) is nn.Sequential and _is_joinable(own)
            self._transform = ImageSequential(*own.children()) if plain else own
        self._apply: Callable[[Tensor, Sequence[int], int], Tensor] | None = None

    def __call__(self, images: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        """What the network is fed, (unit, c, h', w').

        Raises:
            RenderError: the transform fails, does not give images, has no gradient, or cannot be seeded.
        """
        if self._apply is None:
            self._move_to(images.device)
            self._apply = self._chosen(images)
        if self._apply == self._joined:
            try:
                return self._joined(images, seeds, step)
            except Exception as error:
                if out_of_memory(error):
                    raise
                log.warning("%s is applied image by image from here on: %s", self.name, error)
                self._apply = self._one_by_one
        return self._apply(images, seeds, step)

    def _one_by_one(self, images: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        outputs = []
        for row, seed in enumerate(seeds):
            with _seeded((seed, step), images.device):
                outputs.append(self._output(images[row : row + 1].clone()))  # it may work in place
        if len({x.shape for x in outputs}) > 1:
            sizes = ", ".join(sorted({f"{x.shape[-2]} x {x.shape[-1]}" for x in outputs}))
            raise RenderError(
                f"the pipeline {self.name} gives images of several sizes ({sizes}): let it keep one size, for example by p=1."
            )
        return torch.cat(outputs)

    def _joined(self, images: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        """By the parameters of kornia's modules, drawn image by image."""
        module: Any = self._transform
        drawn = []
        for seed in seeds:
            with _seeded((seed, step), images.device):
                drawn.append(module.forward_parameters(torch.Size((1, *images.shape[1:]))))
        with _seeded((seeds[0], step), images.device):
            return module(images, params=_join(drawn))

    def _output(self, images: Tensor) -> Tensor:
        try:
            output = self._transform(images)
        except Exception as error:
            if out_of_memory(error):
                raise
            raise RenderError(
                f"the pipeline {self.name} fails on images {tuple(images.shape)} ({summary(error)})."
            ) from error
        if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[:2] != images.shape[:2]:
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise RenderError(
                f"the pipeline {self.name} makes {given} of images {tuple(images.shape)}: let it give a tensor of as many "
                "images with as many channels."
            )
        return output

    def _chosen(self, images: Tensor) -> Callable[[Tensor, Sequence[int], int], Tensor]:
        """How to apply the transform; it is tried on random images first."""
        shape = (TRIAL_IMAGES, *images.shape[1:])
        trial = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(images).requires_grad_()
        seeds = list(range(TRIAL_IMAGES))
        outputs = [self._one_by_one(trial, seeds, step) for step in range(TRIAL_STEPS)]
        self._check_gradient(trial, outputs)
        with torch.no_grad():
            if not all(_same(x, self._one_by_one(trial, seeds, step)) for step, x in enumerate(outputs)):
                raise RenderError(
                    f"the pipeline {self.name} draws random numbers that cannot be repeated: let it draw from the global "
                    "generator of torch, numpy or random, and keep nothing from call to call."
                )
            if not _is_joinable(self._transform):
                log.info("%s is not made of kornia's augmentations alone: it is applied image by image.", self.name)
                return self._one_by_one
            try:
                certain = copy.copy(self)
                certain._transform = _without_chance(self._transform)
                joined = all(
                    _same(one._one_by_one(trial, seeds, step), one._joined(trial, seeds, step))
                    for one in (self, certain)
                    for step in range(TRIAL_STEPS)
                )
                reason = "joined parameters give other images"
            except Exception as error:
                if out_of_memory(error):
                    raise
                joined, reason = False, summary(error)
        if joined:
            return self._joined
        log.info("%s is applied image by image: %s", self.name, reason)
        return self._one_by_one

    def _check_gradient(self, images: Tensor, outputs: Sequence[Tensor]) -> None:
        reason = "gives values that are not finite"
        if all(bool(x.isfinite().all()) for x in outputs):
            reason = "lets no gradient through"
            try:
                (gradient,) = torch.autograd.grad(sum(x.square().sum() for x in outputs), images)  # pyright: ignore[reportCallIssue,reportArgumentType]
                if bool((gradient != 0).any()):
                    return
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                reason = f"cannot be differentiated ({summary(error, 100)})"
        raise RenderError(f"the pipeline {self.name} {reason}: take another, such as those of kornia.augmentation.")

    def _move_to(self, device: torch.device) -> None:
        """Weights and buffers; kornia's own `to` would also move the generators, and other devices draw other numbers."""
        if isinstance(self._transform, nn.Module):
            for tensor in (*self._transform.parameters(), *self._transform.buffers()):
                tensor.data = tensor.data.to(device)


class _NotJoinedError(Exception):
    """Parameters that do not belong to one image each."""


def _is_joinable(transform: object) -> bool:
    """Whether it is an augmentation of kornia that treats every image for itself, or a sequence of such alone."""
    if type(transform) in (nn.Sequential, ImageSequential, AugmentationSequential):
        return all(map(_is_joinable, transform))  # pyright: ignore[reportArgumentType]
    return isinstance(transform, _BasicAugmentationBase) and not isinstance(transform, MixAugmentationBaseV2)


def _without_chance(transform: Any) -> Any:
    """A copy in which every augmentation is applied always."""
    certain = copy.deepcopy(transform)
    for module in certain.modules():
        if isinstance(module, _BasicAugmentationBase):
            module.p = module.p_batch = 1.0
    return certain


def _join(parts: list[Any], name: str = "") -> Any:
    """Parameters that kornia drew for one image each -> those of a batch.

    They are dicts of tensors, in (nested) lists of named items.
    """
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        if name == "forward_input_shape":
            return torch.cat([torch.full_like(first[:1], len(parts)), first[1:]])
        if first.ndim and first.shape[0] == 1 and len({part.shape for part in parts}) == 1:
            return torch.cat(parts)
        if all(part.shape == first.shape and torch.equal(part, first) for part in parts):
            return first
        raise _NotJoinedError(f"{name!r} is drawn for a whole batch, not for each image")
    if isinstance(first, dict):
        if any(set(part) != set(first) for part in parts):
            raise _NotJoinedError("the images get different parameters")
        return {key: _join([part[key] for part in parts], key) for key in first}
    if hasattr(first, "_replace"):  # a named item
        if len({part.name for part in parts}) > 1:
            raise _NotJoinedError("the images get different modules")
        return first._replace(data=_join([part.data for part in parts]))
    if len({len(part) for part in parts}) > 1:
        raise _NotJoinedError("the images get different numbers of modules")
    return [_join(list(items)) for items in zip(*parts, strict=True)]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


@contextlib.contextmanager
def _seeded(key: tuple[int, int], device: torch.device) -> Iterator[None]:
    """The global generators, those of the device included, seeded by the key; afterwards they are as they were."""
    seed = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    with _GENERATORS:
        states = [generator.get_state() for generator in generators]
        of_python, of_numpy = random.getstate(), np.random.get_state()
        try:
            for generator in generators:
                generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
