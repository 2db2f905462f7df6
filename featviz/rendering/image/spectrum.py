"""The spectrum of images: frequencies, their weights in an ascent or in natural images, and the transform to an image."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from featviz.data import Data, inputs_of
from featviz.errors import RenderError

NYQUIST = 0.5  # cycles per pixel, the highest frequency along an axis
NYQUIST_CORNER = 0.5**0.5  # the highest of an image, along its diagonal


def spectrum_shape(size: tuple[int, int]) -> tuple[int, int, int]:
    """Shape of one channel's half spectrum of an image (h, w): (h, w//2 + 1, 2), the last axis real and imaginary part."""
    return size[0], size[1] // 2 + 1, 2


def frequencies(size: tuple[int, int]) -> Tensor:
    """The frequency of every entry of the half spectrum of an image (h, w): (h, w//2 + 1) float64, cycles per pixel."""
    fy = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None]
    return (fy**2 + torch.fft.rfftfreq(size[1], dtype=torch.float64) ** 2).sqrt()


def frequency_scale(size: tuple[int, int], decay: float) -> Tensor:
    """1 / max(f, 1/max(h, w))**decay in float64, (h, w//2 + 1); f in cycles per pixel, as in Lucid."""
    return frequencies(size).clamp(min=1 / max(size)) ** -decay


def onesided_mask(width: int) -> Tensor:
    """(w//2 + 1, 2) ones and zeros for real and imaginary part: which entries of a row of a half spectrum the image depends on.

    After the vertical transform, the columns of frequency zero and of the Nyquist frequency of a real image are real. The
    values that the ascent moves need not obey that. CPU libraries ignore the imaginary part there, cuFFT promises nothing:
    it is set to zero.
    """
    mask = torch.ones(width // 2 + 1, 2)
    mask[0, 1] = 0
    if width % 2 == 0:
        mask[-1, 1] = 0
    return mask


def inverse(spectrum: Tensor, onesided: Tensor, width: int) -> Tensor:
    """Real images (..., h, w) from complex half spectra (..., h, w//2 + 1), orthonormal; `onesided` as `onesided_mask`."""
    rows = torch.fft.ifft(spectrum, dim=-2, norm="ortho")
    rows = torch.view_as_complex(torch.view_as_real(rows) * onesided)
    return torch.fft.irfft(rows, n=width, dim=-1, norm="ortho")


def profile_scale(size: tuple[int, int], profile: Sequence[float]) -> Tensor:
    """Magnitudes (h, w//2 + 1) in float64 for an image (h, w) from a profile, interpolated linearly between its entries."""
    values = torch.tensor(profile, dtype=torch.float64)
    at = (frequencies(size) / NYQUIST_CORNER * (len(values) - 1)).clamp(0, len(values) - 1)
    low = at.floor().long().clamp(max=max(len(values) - 2, 0))
    high = (low + 1).clamp(max=len(values) - 1)
    return torch.lerp(values[low], values[high], at - low)


def magnitude_profile(data: Data, entries: int = 33) -> tuple[float, ...]:
    """The mean magnitude of a data set's images by frequency, for `RenderConfig(parameterization="maco", profile=...)`.

    The gray values of every image are multiplied by a Hann window (the edges of the image would show as a cross in the
    spectrum) and transformed; the magnitudes are averaged over the images and over rings of equal frequency. The profile
    holds for any image size.

    Args:
        data: batches x (batch, c, h, w), or (x, label).
        entries: how many frequencies, at equal steps from 0 to the highest, sqrt(1/2) cycles per pixel.

    Returns:
        The mean magnitudes, the largest 1.

    Raises:
        RenderError: there is no batch, or one that holds no images, or all pixels are equal.
    """
    total, count = torch.zeros(entries, dtype=torch.float64), torch.zeros(entries, dtype=torch.float64)
    for x in inputs_of(data, torch.device("cpu")):
        if x.ndim != 4 or min(x.shape[-2:]) < 4:
            raise RenderError(f"a batch of {tuple(x.shape)} holds no images: magnitude_profile needs (batch, c, h, w).")
        gray = x.detach().double().mean(1)
        h, w = gray.shape[-2:]
        window = torch.hann_window(h, dtype=torch.float64)[:, None] * torch.hann_window(w, dtype=torch.float64)
        magnitude = torch.fft.rfft2((gray - gray.mean((-2, -1), keepdim=True)) * window, norm="ortho").abs().mean(0)
        ring = (frequencies((h, w)) / NYQUIST_CORNER * (entries - 1)).round().long().flatten()
        total.index_add_(0, ring, len(x) * magnitude.flatten())
        count.index_add_(0, ring, torch.full((ring.numel(),), float(len(x)), dtype=torch.float64))
    seen = (count > 0).nonzero().flatten()
    if not len(seen) or not total.max() > 0:
        raise RenderError("the data for the magnitude profile is empty or of one color: give real images.")
    means = total[seen] / count[seen]
    profile = np.interp(np.arange(entries), seen.numpy(), (means / means.max()).numpy())
    return tuple(float(value) for value in profile)
