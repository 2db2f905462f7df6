"""Data: any iterable of batches, `x` or `(x, label)`, and batches of a folder of images.

x is (batch, channels, h, w), in [0, 1]: every network normalises for itself (`subjects.normalized_inputs`). label is (batch,).
A folder gives labels where it has one folder per class: the index of the class in alphabetical order.

    data = ImageFolderBatches("cifar/train", 32, limit=5000)
    featviz.merge(a, b, alignment, data=data)      # may iterate over the images any number of times
"""

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from featviz.errors import BatchError, DataError
from featviz.reading import check_file

Data = Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]
Batch = Tensor | tuple[Tensor, Tensor]
# What image files may hold. Pillow knows more formats, and starts a program for one of them (Ghostscript for EPS).
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
MOST_PIXELS = 89_478_485  # of an image: Pillow warns of more, since a small file may say so and fill the memory
MOST_BYTES = 2**29  # of an image file, which is read as a whole
NO_DATA = "there is no data: `data` yielded no batch (a generator serves only once); give a list or a DataLoader."


def inputs_of(data: Data, device: torch.device) -> Iterator[Tensor]:
    """The inputs of every batch, on a device; labels are left out.

    Raises:
        BatchError: there is no batch.
    """
    batch = None
    for batch in data:
        yield parts_of(batch)[0].to(device, non_blocking=True)
    if batch is None:
        raise BatchError(NO_DATA)


def parts_of(batch: object) -> tuple[Any, ...]:
    """The inputs of a batch, and what follows them.

    Raises:
        BatchError: it is neither a tensor nor a tuple or list that begins with one.
    """
    parts = (batch,) if isinstance(batch, Tensor) else tuple(batch) if isinstance(batch, (tuple, list)) else ()
    if not parts or not isinstance(parts[0], Tensor):
        kind = f"a {type(batch).__name__}" + (f" of a {type(parts[0]).__name__}" if parts else "")
        raise BatchError(f"`data` has a batch that is {kind}: give batches x or (x, label), x a tensor.")
    return parts


def labelled_batches(data: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Every batch as (x, label), on a device.

    Raises:
        BatchError: there is no batch, or one without labels.
    """
    batch = None
    for batch in data:
        x, *rest = parts_of(batch)
        if not rest or not isinstance(rest[0], Tensor):
            raise BatchError("the loss needs labels, which `data` has not: give batches (x, label), both tensors.")
        yield x.to(device, non_blocking=True), rest[0].to(device, non_blocking=True)
    if batch is None:
        raise BatchError(NO_DATA)


def device_of(model: nn.Module) -> torch.device:
    """The device of the network's first parameter or buffer; the CPU where it has none."""
    tensor = next(model.parameters(), None)
    tensor = next(model.buffers(), None) if tensor is None else tensor
    return torch.device("cpu") if tensor is None else tensor.device


class ImageFolderBatches:
    """Batches of the images of a folder, in a shuffled order that is the same in every iteration.

    Args:
        folder: images in one folder per class, or images alone.
        size: (height, width) in pixels, or the side of a square; images are scaled to cover it and cropped at the center.
        mean, std: per channel, of values in [0, 1], by which the images are normalised: (x - mean) / std; one value each
            makes them gray. None: images stay in [0, 1].
        channels: 3 or 1 (gray), where there is no mean.
        batch: images in a batch, at most.
        limit: how many images at most, taken evenly from all (so from every class).
        seed: of the order.

    Attributes:
        paths: of the images, in the order of the batches. labels: (image,) of them, or None.

    Raises:
        DataError: no such folder, no images in it, a class folder without any, numbers out of range, or (when iterated) an
            image that cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int | tuple[int, int],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        channels: int = 3,
        batch: int = 250,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        mean = (0.0,) * channels if mean is None else mean
        std = (1.0,) * len(mean) if std is None else std
        self.size = size if isinstance(size, tuple) else (size, size)
        self.batch = batch
        self._color_mode = "L" if len(mean) == 1 else "RGB"
        self._mean, self._std = (torch.tensor(tuple(v)).view(-1, 1, 1) for v in (mean, std))
        if len(mean) not in (1, 3) or len(mean) != len(std) or min(self.size) < 1 or batch < 1:
            raise DataError(
                f"images with {len(mean)} means and {len(std)} stds, size {self.size} and batches of {batch} cannot be made: "
                "give one or three of each, and a size and a batch of 1 or more."
            )
        paths, labels = _list_images(Path(folder))
        chosen = _evenly_spaced(len(paths), limit)
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed)).tolist()
        self.paths = [paths[chosen[index]] for index in order]
        self.labels = None if labels is None else torch.tensor([labels[chosen[index]] for index in order])

    def __len__(self) -> int:
        """How many batches there are."""
        return -(-len(self.paths) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.paths), self.batch):
            span = slice(first, first + self.batch)
            images = torch.stack([read_image(path, self.size, self._color_mode) for path in self.paths[span]])
            x = (images / 255 - self._mean) / self._std
            yield x if self.labels is None else (x, self.labels[span])


def read_image(path: str | Path, size: tuple[int, int], color_mode: str = "RGB") -> Tensor:
    """An image file as uint8 (channels, h, w), scaled to cover `size` (height, width) and cropped at the center.

    Args:
        color_mode: of Pillow: "RGB", or "L" for gray.

    Raises:
        DataError: it cannot be read as an image, or has more than `MOST_PIXELS`.
    """
    try:
        check_file(path, MOST_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            content = io.BytesIO(
                Path(path).read_bytes()
            )  # of a file, Pillow would allocate what a header says is to come
            with Image.open(content, formats=IMAGE_FORMATS) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise Image.DecompressionBombError(f"{opened.width} x {opened.height} pixels")
                image = opened.convert(color_mode)
        pixels = np.array(_resized_and_cropped(image, *size))
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} has more than {MOST_PIXELS} pixels: make it smaller, or remove it.") from error
    except Exception as error:  # a damaged image raises whatever its remains lead to
        raise DataError(f"{path} cannot be read as an image: replace or remove it.") from error
    return torch.from_numpy(pixels).view(*size, -1).permute(2, 0, 1)


def _resized_and_cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize the image (bilinear, antialiased) to the smallest that covers height x width, and crop its center."""
    if image.size == (width, height):
        return image
    crop_width = min(image.width, image.height * width / height)
    crop_height = min(image.height, image.width * height / width)
    left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
    box = (left, top, left + crop_width, top + crop_height)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _list_images(folder: Path) -> tuple[list[Path], list[int] | None]:
    """Images and their labels where the folder has one folder per class; the images and None where it has images."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder  # takes seconds to import

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
        reason = " ".join(str(error).split(". Supported")[0].split()).rstrip(". ")
        raise DataError(f"{folder} has a class folder without images ({reason}): fill or remove it.") from error
    return [Path(path) for path, _ in samples], [label for _, label in samples]


def _evenly_spaced(count: int, limit: int | None) -> list[int]:
    """At most `limit` of 0 ... count - 1, evenly spaced."""
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} leaves no images: give 1 or more.")
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]
