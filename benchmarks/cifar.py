"""CIFAR-10 for the benchmarks: images as one uint8 tensor (n, 3, 32, 32), labels (n,), from a folder or from torchvision."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, ImageFolder


def load_cifar(root: Path, train: bool, download: bool = False) -> tuple[Tensor, Tensor]:
    """Read `root/train/<class>/*` (or `test`) where it exists, else torchvision's CIFAR-10 under `root`."""
    folder = root / ("train" if train else "test")
    if folder.is_dir():
        dataset = ImageFolder(str(folder))
        images = np.stack([np.asarray(image) for image, _ in dataset])
        labels = dataset.targets
    else:
        dataset = CIFAR10(str(root), train=train, download=download)
        images, labels = dataset.data, dataset.targets
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


class Batches:
    """Normalised (images, labels) batches in a fixed order; iterable any number of times."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch: int = 500,
    ) -> None:
        self.images, self.labels, self.batch = images, labels, batch
        self.mean = torch.as_tensor(mean).view(1, -1, 1, 1)
        self.std = torch.as_tensor(std).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __iter__(self):
        pairs = zip(self.images.split(self.batch), self.labels.split(self.batch), strict=True)
        for images, labels in pairs:
            yield (images / 255 - self.mean) / self.std, labels
