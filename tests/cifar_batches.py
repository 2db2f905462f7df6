"""Real images for the tests that need them."""

from pathlib import Path

from torch import nn

from featviz.data import ImageFolderBatches


def some_batches(cifar: Path, model: nn.Module, count: int, part: str = "train") -> ImageFolderBatches:
    """Evenly spread CIFAR-10 images as (x, label) batches in the network's own scale."""
    mean, std = (tuple(getattr(model, name)) for name in ("mean", "std"))
    return ImageFolderBatches(cifar / part, 32, mean, std, limit=count)
