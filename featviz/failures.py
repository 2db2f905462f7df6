"""Why a run failed: the network cannot take what it is fed, or the machine has no memory or a broken device."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from featviz.errors import DataError, FeatvizError, summary

MEMORY_WORDS = (
    "can't allocate memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
)  # where torch raises a plain RuntimeError
Output = TypeVar("Output")


def run_network(network: Callable[..., Output], *inputs: Tensor) -> Output:
    """What a network returns for a batch of a caller's data.

    Raises:
        DataError: it fails on them, as on images of a size that it does not take. What the machine is at fault of is raised as
            it is.
    """
    try:
        return network(*inputs)
    except FeatvizError:
        raise
    except Exception as error:
        if machine_failed(error):
            raise
        raise DataError(
            f"the network fails on a batch of shape {tuple(inputs[0].shape)} ({summary(error)}): give images of the shape "
            "that it takes."
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Memory was refused, by a device or by the system."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)


def machine_failed(error: BaseException) -> bool:
    """Out of memory or a broken device: no fault of the network or the image's size."""
    accelerator = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
    return out_of_memory(error) or isinstance(error, accelerator) or str(error).startswith("CUDA error")
