"""Parameterizations: what Adam moves -> images (unit, channels, h, w) in [0, 1].

`Fourier` is Lucid's decorrelated space (Olah et al. 2017): a spectrum whose frequencies are scaled by
1/f**decay, and a color matrix, before the sigmoid. `Pixel` leaves out the spectrum. Each unit has its own
image; none sees another.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.picture.color import IMAGENET_MATRIX, recorrelate

MAGIC = 4.0  # Lucid's divisor of the inverse transform: less saturation


def spectrum_shape(size: tuple[int, int]) -> tuple[int, int, int]:
    """Shape of one channel's half spectrum for an image (h, w): (h, w//2 + 1, 2), the last axis real,
    imaginary.
    """
    return size[0], size[1] // 2 + 1, 2


def frequency_scale(size: tuple[int, int], decay: float) -> Tensor:
    """1 / max(f, 1/max(h, w))**decay in float64, (h, w//2 + 1); f in cycles per pixel, as in Lucid."""
    h, w = size
    fy = torch.fft.fftfreq(h, dtype=torch.float64)[:, None]
    fx = torch.fft.rfftfreq(w, dtype=torch.float64)
    return (fy**2 + fx**2).sqrt().clamp(min=1 / max(h, w)) ** -decay


def color_tensor(config: RenderConfig, channels: int) -> Tensor | None:
    """The config's color matrix (3, 3) in float64; None where there is none or the images are not RGB."""
    if config.color is None or channels != 3:
        return None
    matrix = IMAGENET_MATRIX if isinstance(config.color, str) else config.color
    return torch.tensor(matrix, dtype=torch.float64)


class Fourier(nn.Module):
    """Images from spectra: sigmoid(M irfft2(scale * spectrum) / 4), the inverse transform orthonormal.

    Args:
        start: first spectrum (unit, channels, h, w//2 + 1, 2), copied.
        size: (h, w) of the images in pixels.
        decay: power of 1/f, 0 or more.
        color: matrix (3, 3), or None for none.
    """

    scale: Tensor
    onesided: Tensor
    color: Tensor | None

    def __init__(self, start: Tensor, size: tuple[int, int], decay: float = 1.0, color: Tensor | None = None) -> None:
        super().__init__()
        self.size = size
        self.spectrum = nn.Parameter(start.detach().clone())
        kind = {"device": start.device, "dtype": start.dtype}
        self.register_buffer("scale", frequency_scale(size, decay).to(**kind)[..., None])
        # The spectrum is free, but that of a real image has a real zero and Nyquist column once the vertical
        # transform is done. CPU libraries ignore the imaginary part there, cuFFT promises nothing: drop it
        # ourselves.
        onesided = torch.ones(size[1] // 2 + 1, 2, **kind)
        onesided[0, 1] = 0
        if size[1] % 2 == 0:
            onesided[-1, 1] = 0
        self.register_buffer("onesided", onesided)
        self.register_buffer("color", None if color is None else color.to(**kind))

    def forward(self) -> Tensor:
        rows = torch.fft.ifft(torch.view_as_complex(self.scale * self.spectrum), dim=-2, norm="ortho")
        rows = torch.view_as_complex(torch.view_as_real(rows) * self.onesided)
        x = torch.fft.irfft(rows, n=self.size[1], dim=-1, norm="ortho") / MAGIC
        return torch.sigmoid(x if self.color is None else recorrelate(x, self.color))


class Pixel(nn.Module):
    """Images from pixels: sigmoid(M x).

    Args:
        start: first values (unit, channels, h, w), copied. The parameter is named `spectrum` as in `Fourier`.
        color: matrix (3, 3), or None for none.
    """

    color: Tensor | None

    def __init__(self, start: Tensor, color: Tensor | None = None) -> None:
        super().__init__()
        self.spectrum = nn.Parameter(start.detach().clone())
        self.register_buffer("color", None if color is None else color.to(start.device, start.dtype))

    def forward(self) -> Tensor:
        return torch.sigmoid(self.spectrum if self.color is None else recorrelate(self.spectrum, self.color))


def parameterization(start: Tensor, config: RenderConfig) -> Fourier | Pixel:
    """The config's parameterization at a start: (unit, channels, h, w//2 + 1, 2) for Fourier, (unit,
    channels, h, w).
    """
    color = color_tensor(config, start.shape[1])
    if config.parameterization == "pixel":
        return Pixel(start, color)
    return Fourier(start, config.canvas, config.decay, color)


def as_lucent_param(
    images: Fourier | Pixel,
) -> Callable[[], tuple[list[nn.Parameter], Callable[[], Tensor]]]:
    """A featviz parameterization as the `param_f` of lucent's `render_vis`.

    lucent runs on `cuda:0` where there is one: move the parameterization there first.

    >>> render_vis(model, "layer4:7", as_lucent_param(parameterization(draw.start, config)))  # doctest: +SKIP
    """
    return lambda: ([images.spectrum], images)
