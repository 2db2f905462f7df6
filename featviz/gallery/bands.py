"""Images of any number of channels as something to look at: three chosen bands as a color image, or a gray tile per band.

>>> drawable(np.zeros((7, 32, 32)), bands=(3, 2, 1)).shape
(32, 32, 3)
>>> drawable(np.zeros((4, 32, 32))).shape
(66, 66, 1)
"""

import math
from collections.abc import Sequence

import numpy as np

from featviz.errors import OutputError

GAP = 2  # white pixels between the tiles of an image


def drawable(image: np.ndarray, bands: Sequence[int] | None = None) -> np.ndarray:
    """An image (channels, h, w) in [0, 1] as (h', w', 3) in color or (h', w', 1) in gray.

    Args:
        bands: the channels, counted from 0, that are shown as red, green and blue. None: color for 3 channels, gray for 1, and
            otherwise a gray tile for every channel, row by row, as near to a square as there may be.

    Raises:
        OutputError: other than three bands, or a band that the image does not have.
    """
    channels, height, width = image.shape
    if bands is not None:
        check_bands(bands, channels)
        return image[list(bands)].transpose(1, 2, 0)
    if channels in (1, 3):
        return image.transpose(1, 2, 0)
    across = math.ceil(math.sqrt(channels))
    down = math.ceil(channels / across)
    tiles = np.ones((down * (height + GAP) - GAP, across * (width + GAP) - GAP, 1), dtype=image.dtype)
    for channel in range(channels):
        top, left = channel // across * (height + GAP), channel % across * (width + GAP)
        tiles[top : top + height, left : left + width, 0] = image[channel]
    return tiles


def check_bands(bands: Sequence[int] | None, channels: int) -> None:
    """Find out that images of so many channels can be shown by these bands.

    Raises:
        OutputError: they cannot.
    """
    if bands is None:
        return
    if len(bands) != 3:
        raise OutputError(f"{len(bands)} bands are given: give three, which are shown as red, green and blue.")
    for band in bands:
        if not 0 <= band < channels:
            raise OutputError(
                f"there is no band {band} in images of {channels} channels: they are 0 to {channels - 1}."
            )


def bands_explained(bands: Sequence[int] | None, channels: int) -> str:
    """A sentence for below a picture; empty where nothing needs to be said."""
    if bands is not None:
        return f" Bands {', '.join(map(str, bands))} of {channels} as red, green and blue."
    return "" if channels in (1, 3) else f" Images of {channels} bands, a gray tile for each, row by row."
