"""Calibration data: any iterable of batches, `x` or `(x, label)`, and batches of a folder of images.

x is (batch, channels, h, w); label is (batch,). A folder gives labels where it has one folder per class: the position of the
class in alphabetical order.

    data = ImageFolderBatches("cifar/train", 32, mean, std, limit=5000)
    featviz.merge(a, b, alignment, data=data)      # may run over the images any number of times
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from featviz.errors import DataError

Data = Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]
Batch = Tensor | tuple[Tensor, Tensor]


def inputs_of(data: Data, device: torch.device) -> Iterator[Tensor]:
    """The inputs of every batch, on a device; labels are left out."""
    for batch in data:
        yield (batch if isinstance(batch, Tensor) else batch[0]).to(device, non_blocking=True)


def device_of(model: nn.Module) -> torch.device:
    """Where the network's first parameter or buffer lives; the CPU where it has none."""
    tensor = next(model.parameters(), None)
    tensor = next(model.buffers(), None) if tensor is None else tensor
    return torch.device("cpu") if tensor is None else tensor.device


class ImageFolderBatches:
    """Batches of a folder's images in one mixed order; iterable any number of times, always alike.

    Args:
        folder: images in one folder per class, or images alone.
        size: (height, width) in pixels, or the side of a square; images are scaled to cover it and cut at the
            center.
        mean, std: per channel, for values in [0, 1]; one value each makes the images gray.
        batch: images in a batch, at most.
        limit: how many images at most, taken evenly from all (so from every class).
        seed: of the order, which mixes the classes.

    Raises:
        DataError: no such folder, no images in it, a class folder without any, or (when iterated) an image
            that cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int | tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        batch: int = 250,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        self.size = size if isinstance(size, tuple) else (size, size)
        self.batch = batch
        self._mode = "L" if len(mean) == 1 else "RGB"
        self._mean, self._std = (torch.tensor(tuple(v)).view(-1, 1, 1) for v in (mean, std))
        if len(mean) not in (1, 3) or len(mean) != len(std) or min(self.size) < 1 or batch < 1:
            raise DataError(
                f"images of {len(mean)} means, {len(std)} stds, size {self.size} in batches of {batch} are none: "
                "give one or three of each, and a size and a batch of 1 or more."
            )
        paths, labels = _listing(Path(folder))
        chosen = _spread(len(paths), limit)
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed)).tolist()
        self.paths = [paths[chosen[place]] for place in order]
        self.labels = None if labels is None else torch.tensor([labels[chosen[place]] for place in order])

    def __len__(self) -> int:
        """How many batches there are."""
        return -(-len(self.paths) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.paths), self.batch):
            span = slice(first, first + self.batch)
            images = torch.stack([self._read(path) for path in self.paths[span]])
            x = (images / 255 - self._mean) / self._std
            yield x if self.labels is None else (x, self.labels[span])

    def _read(self, path: Path) -> Tensor:
        """One image as uint8 (channels, h, w)."""
        try:
            with Image.open(path) as opened:
                image = opened.convert(self._mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as an image: mend it or take it away.") from error
        pixels = np.array(_cover(image, *self.size))
        return torch.from_numpy(pixels).view(*self.size, -1).permute(2, 0, 1)


def _cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale the image (bilinear, antialiased) to the smallest that covers height x width, and cut its center."""
    if image.size == (width, height):
        return image
    cut_width = min(image.width, image.height * width / height)
    cut_height = min(image.height, image.width * height / width)
    left, top = (image.width - cut_width) / 2, (image.height - cut_height) / 2
    box = (left, top, left + cut_width, top + cut_height)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _listing(folder: Path) -> tuple[list[Path], list[int] | None]:
    """Images and labels of class folders; of a folder without them the images and None."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder  # costs seconds to import

    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give a folder of images, or of one folder per class.")
    flat = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())
    if flat:
        return flat, None
    if not any(path.is_dir() for path in folder.iterdir()):
        raise DataError(f"{folder} has no images: give a folder with {', '.join(IMG_EXTENSIONS[:4])} or the like.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples = ImageFolder(str(folder)).samples
    except FileNotFoundError as error:
        said = " ".join(str(error).split(". Supported")[0].split()).rstrip(". ")
        raise DataError(f"{folder} has a class folder without images ({said}): fill or remove it.") from error
    return [Path(path) for path, _ in samples], [label for _, label in samples]


def _spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of 0 ... count - 1, evenly spaced."""
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} leaves no images: give 1 or more.")
    if limit is None or limit >= count:
        return list(range(count))
    return [place * count // limit for place in range(limit)]
