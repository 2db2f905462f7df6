"""CIFAR-10 for the benchmarks: images as one uint8 tensor (n, 3, 32, 32), labels (n,), from a folder or from torchvision."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
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
    """Normalised (images, labels) batches in a fixed order; iterable any number of times.

    Args:
        images: uint8 (n, 3, 32, 32). labels: (n,).
        mean, std: per channel, for values in [0, 1].
        batch: images in a batch.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...], batch: int = 500
    ) -> None:
        self.images, self.labels, self.batch = images, labels, batch
        self.mean = torch.as_tensor(mean).view(1, -1, 1, 1)
        self.std = torch.as_tensor(std).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in zip(self.images.split(self.batch), self.labels.split(self.batch), strict=True):
            yield (images / 255 - self.mean) / self.std, labels

    @property
    def example(self) -> Tensor:
        """The first image, (1, 3, 32, 32) in [0, 1]."""
        return self.images[:1].float() / 255


def sample(root: Path, train: bool, count: int, model: nn.Module) -> Batches:
    """`count` images in a fixed random order, normalised as `model` wants them."""
    images, labels = load_cifar(root, train)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return Batches(images[order], labels[order], model.mean, model.std, 250)


def add_cifar(parser: argparse.ArgumentParser, images: int | None, tested: int | None) -> None:
    """--data, and how many images are used where that is a choice."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER",
        help="CIFAR-10 as train/<class>/* and test/<class>/*, or where torchvision keeps it",
    )  # fmt: skip
    if images is not None:
        parser.add_argument("--images", type=int, default=images, help="training images for matching and repair")
    if tested is not None:
        parser.add_argument("--tested", type=int, default=tested, help="test images")
