"""Transforms of the images that draw random numbers: every unit's draws follow from its own seed and the step.

images (unit, c, h, w) in [0, 1], seeds (unit,), step -> what the network is fed. So a unit's image does not depend on the units
that it is rendered with, and all subjects of a row see the same transforms, for every transform that draws from the global
generators of torch, numpy or Python's `random`: kornia's and torchvision's do.

The plain way calls the transform on one image at a time, with the generators seeded by (seed of the unit, step). Two ways are
faster and give the same, which is tried on the first batch: a transform that draws nothing gets the whole batch; of a kornia
module the parameters are drawn unit by unit, joined, and applied to the whole batch (kornia's `params`).
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
from kornia.augmentation import ImageSequential
from kornia.augmentation.base import _BasicAugmentationBase
from torch import Tensor, nn

from featviz.errors import RenderError
from featviz.rendering.network.failures import out_of_memory

log = logging.getLogger("featviz")
_GENERATORS = threading.RLock()  # the global generators belong to one thread at a time


class SeededTransform:
    """A transform of images whose random numbers follow from the unit's seed and the step.

    Args:
        transform: images (unit, c, h, w) in [0, 1] -> (unit, c, h', w'), differentiable: a kornia augmentation, an
            `AugmentationSequential`, any other module or callable. A module is copied, since kornia's keep their last draws.

    Raises:
        RenderError: it is not callable, or a module that cannot be copied.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        if not callable(transform):
            raise RenderError(f"robustness is {transform!r}: give a preset's name, a kornia pipeline or a callable.")
        self.name = type(transform).__name__ if isinstance(transform, nn.Module) else repr(transform)
        self._transform = transform
        if isinstance(transform, nn.Module):
            try:
                self._transform = copy.deepcopy(transform)
            except Exception as error:
                raise RenderError(f"the pipeline {self.name} cannot be copied ({error}): make it anew.") from error
        if (
            isinstance(transform, nn.Sequential)
            and _is_kornia(transform)
            and not isinstance(transform, ImageSequential)
        ):
            self._transform = ImageSequential(*self._transform)  # pyright: ignore[reportGeneralTypeIssues]
        self._way: Callable[[Tensor, Sequence[int], int], Tensor] | None = None

    def __call__(self, images: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        """What the network is fed, (unit, c, h', w').

        Raises:
            RenderError: the transform fails, does not give images, or cannot be seeded.
        """
        if self._way is None:
            self._move_to(images.device)
            with torch.no_grad():
                self._way = self._fastest_way(images.detach(), seeds, step)
        if self._way == self._joined:
            try:
                return self._joined(images, seeds, step)
            except (RuntimeError, ValueError, _NotJoinedError) as error:
                if out_of_memory(error):
                    raise
                log.warning("%s is applied image by image from here on: %s", self.name, error)
                self._way = self._one_by_one
        return self._way(images, seeds, step)

    def _one_by_one(self, images: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        made = []
        for number, seed in enumerate(seeds):
            with _seeded((seed, step), images.device):
                made.append(self._applied(images[number : number + 1]))
        if len({x.shape for x in made}) > 1:
            sizes = ", ".join(sorted({f"{x.shape[-2]} x {x.shape[-1]}" for x in made}))
            raise RenderError(
                f"the pipeline {self.name} gives images of several sizes ({sizes}): let it keep one size."
            )
        return torch.cat(made)

    def _whole_batch(self, images: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        del seeds, step
        return self._applied(images)

    def _joined(self, images: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        """By the parameters of kornia's modules, drawn unit by unit."""
        module: Any = self._transform
        drawn = []
        for seed in seeds:
            with _seeded((seed, step), images.device):
                drawn.append(module.forward_parameters(torch.Size((1, *images.shape[1:]))))
        return module(images, params=_join(drawn))

    def _applied(self, images: Tensor) -> Tensor:
        try:
            found = self._transform(images)
        except Exception as error:
            if out_of_memory(error):
                raise
            told = " ".join(str(error).split())[:200]
            raise RenderError(f"the pipeline {self.name} fails on images {tuple(images.shape)}: {told}") from error
        if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[:2] != images.shape[:2]:
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise RenderError(
                f"the pipeline {self.name} makes {given} of images {tuple(images.shape)}: let it give as many images, "
                "(unit, c, h, w)."
            )
        return found

    def _fastest_way(self, images: Tensor, seeds: Sequence[int], step: int) -> Callable[..., Tensor]:
        """The fastest way that gives what the plain one gives."""
        plain = self._one_by_one(images, seeds, step)
        if not _same(plain, self._one_by_one(images, seeds, step)):
            raise RenderError(
                f"the pipeline {self.name} draws random numbers that cannot be repeated: let it draw from the global "
                "generator of torch, numpy or random, and keep nothing from call to call."
            )
        with _seeded((seeds[0], step), images.device):
            before = _states(images.device)
            self._applied(images[:1])
            draws = before != _states(images.device)
        if not draws and _same(plain, self._applied(images)):
            return self._whole_batch
        if not _is_kornia(self._transform):
            log.info("%s draws random numbers and is no kornia module: it is applied image by image.", self.name)
            return self._one_by_one
        try:
            if _same(plain, self._joined(images, seeds, step)):
                return self._joined
            reason = "joined parameters give other images"
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, _NotJoinedError) as error:
            if out_of_memory(error):
                raise
            reason = str(error)
        log.info("%s is applied image by image: %s", self.name, reason)
        return self._one_by_one

    def _move_to(self, device: torch.device) -> None:
        """Weights and buffers; kornia's own `to` would also move the generators, and other devices draw other numbers."""
        if isinstance(self._transform, nn.Module):
            for tensor in (*self._transform.parameters(), *self._transform.buffers()):
                tensor.data = tensor.data.to(device)


class _NotJoinedError(Exception):
    """Parameters that do not belong to one image each."""


def _is_kornia(transform: object) -> bool:
    """Whether it is an augmentation of kornia, or a sequence that holds one."""
    if isinstance(transform, (_BasicAugmentationBase, ImageSequential)):
        return True
    return isinstance(transform, nn.Sequential) and any(map(_is_kornia, transform))


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
    """The global generators, seeded by the key; afterwards they are as they were."""
    number = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1
    with _GENERATORS, torch.random.fork_rng([device] if device.type == "cuda" else []):
        of_python, of_numpy = random.getstate(), np.random.get_state()
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def _states(device: torch.device) -> list[object]:
    """The states of the global generators, to be compared."""
    of_numpy: Any = np.random.get_state()
    found = [torch.get_rng_state().numpy().tobytes(), random.getstate(), of_numpy[1].tobytes(), of_numpy[2]]
    return [*found, torch.cuda.get_rng_state(device).numpy().tobytes()] if device.type == "cuda" else found
