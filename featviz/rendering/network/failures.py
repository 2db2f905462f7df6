"""Why a network failed: memory, a broken device, or a size that it does not take."""

import torch

MEMORY_WORDS = (
    "can't allocate memory",
    "out of memory",
)  # of torch's allocators, which raise a RuntimeError for want of a type


def out_of_memory(error: BaseException) -> bool:
    """Memory was refused, by a device or by the system."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)


def machine_failed(error: BaseException) -> bool:
    """Out of memory or a broken device: no fault of the network or the image's size."""
    accelerator = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
    return out_of_memory(error) or isinstance(error, accelerator) or str(error).startswith("CUDA error")
