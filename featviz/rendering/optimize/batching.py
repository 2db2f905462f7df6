"""Batches: how many images are optimised together, and what happens when they do not fit.

(extractor, objective, units) -> the units in lists that fit the memory. With `batch="auto"` one and two images are sent through
the network and what they keep for the gradient is counted; a batch that runs out of memory all the same is halved and done
again. A unit's image is the same whatever it is batched with, so neither shows in the results.
"""

import contextlib
import gc
import math
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from featviz.errors import RenderError
from featviz.failures import out_of_memory
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Objective

Part = TypeVar("Part")
SHARE = 0.85  # of the memory that is planned with: libraries take scratch that nobody counts
COPIES = 2  # of the weights: the folded network, and its weights laid out for both directions
WORKSPACES = {"cuda": 128 * 2**20}  # of cuBLAS: 32 MiB for both streams, forward and backward
SCATTER = {"cpu": 2.2}  # measured: freed blocks that are kept lie scattered
MOST = {"cpu": 32, "cuda": 256}  # more images at once gain nothing: a CPU is busy with 8


def in_batches(
    extractor: FeatureExtractor, objective: Objective, units: int, work: Callable[[list[int]], Part]
) -> list[Part]:
    """`work` on the units, batch by batch; a batch that ran out of memory is tried again with half the units.

    Raises:
        RenderError: one image alone, or a batch that may not be split, does not fit.
    """
    parts, first = [], 0
    most = units if objective.coupled else batch_size(extractor, objective)
    while first < units:
        rows = list(range(first, min(first + most, units)))
        try:
            parts.append(work(rows))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if objective.coupled or len(rows) == 1:
                raise _too_large(len(rows), extractor) from None
            most = extractor.batch = math.ceil(len(rows) / 2)
        else:
            first += len(rows)
            continue
        extractor.backend.forget()  # out of the except clause: the error's frames hold the batch's tensors
        gc.collect()
        if extractor.device.type == "cuda":
            torch.cuda.empty_cache()
    return parts


@contextlib.contextmanager
def memory_of(images: int, extractor: FeatureExtractor) -> Iterator[None]:
    """Work on so many images that cannot be split.

    Raises:
        RenderError: the memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise _too_large(images, extractor) from None


def _too_large(images: int, extractor: FeatureExtractor) -> RenderError:
    (h, w), (fed_h, fed_w) = extractor.config.image_hw, extractor.config.input_hw
    fed = "" if (h, w) == (fed_h, fed_w) else f", fed at {fed_h} x {fed_w} px,"
    return RenderError(
        f"{images} images of {h} x {w} px{fed} do not fit the memory of {extractor.device}: "
        "take a smaller size or input_size, or fewer images."
    )


def batch_size(extractor: FeatureExtractor, objective: Objective) -> int:
    """How many images at once: `config.batch`, or as many as pay and fit; fewer once the memory ran out."""
    config = extractor.config
    if extractor.batch is None:
        if isinstance(config.batch, int):
            extractor.batch = config.batch
        else:
            budget = memory_budget(extractor.device) if config.memory is None else config.memory * 2**30
            weights = sum(weight.nbytes for weight in extractor.net.parameters())
            left = SHARE * budget - WORKSPACES.get(extractor.device.type, 0) - COPIES * weights
            fitting = int(left / image_bytes(extractor, objective))
            extractor.batch = max(1, min(fitting, MOST.get(extractor.device.type, 32)))
    return extractor.batch


def image_bytes(extractor: FeatureExtractor, objective: Objective) -> float:
    """Memory in bytes that one more image of a batch takes in a step of the ascent; infinite where two do not fit."""
    with memory_of(1, extractor):
        one = _kept_for_the_gradient(extractor, objective, 1)
    try:
        two = _kept_for_the_gradient(extractor, objective, 2)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return math.inf
    grown = [more - less for less, more in zip(one, two, strict=False) if more > less]  # the others are weights
    image = extractor.channels * math.prod(extractor.config.input_hw) * (8 if extractor.dtype == torch.float64 else 4)
    # What the backward pass holds at a time, and the image's own: spectrum, moments, warps.
    return SCATTER.get(extractor.device.type, 1) * (sum(grown) + 3 * max(grown, default=0) + 12 * image)


def _kept_for_the_gradient(extractor: FeatureExtractor, objective: Objective, images: int) -> list[int]:
    """Bytes of every tensor that a forward pass on so many images keeps, in the order of their first use."""
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # so that no address is used twice

    def count(tensor: Tensor) -> None:  # what gave the tensor to its own graph would hold the graph for ever
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor.detach())

    shape = (images, extractor.channels, *extractor.config.input_hw)
    x = torch.full(shape, 0.5, device=extractor.device, dtype=extractor.dtype).requires_grad_()
    with torch.enable_grad(), saved_tensors_hooks(count, lambda nothing: nothing):
        found = extractor(x, once=True)
        score = objective.select([0] * images).score(found.__getitem__)
    del found, score
    return list(kept.values())


def memory_budget(device: torch.device) -> float:
    """Bytes that are free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30
