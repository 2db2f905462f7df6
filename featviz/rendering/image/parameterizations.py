"""Parameterizations: what Adam moves -> images (unit, channels, h, w) in [0, 1].

`Fourier` is Lucid's decorrelated space (Olah et al. 2017): a spectrum whose frequencies are scaled by
1/f**decay, and a color matrix, before the sigmoid. `Pixel` leaves out the spectrum. `Maco` (Fel et al. 2023) holds the
magnitudes of natural images and moves the phases alone. Each unit has its own image; none sees another.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.rendering.image.color import IMAGENET_MATRIX, recorrelate
from featviz.rendering.image.spectrum import frequency_scale, inverse, onesided_mask, profile_scale

MAGIC = 4.0  # Lucid's divisor of the inverse transform: less saturation
CONTRAST = 2.0  # of Maco before the sigmoid: standard deviation of the pixels about that of photographs, 0.2


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
        self.values = nn.Parameter(start.detach().clone())
        kind = {"device": start.device, "dtype": start.dtype}
        self.register_buffer("scale", frequency_scale(size, decay).to(**kind)[..., None])
        self.register_buffer("onesided", onesided_mask(size[1]).to(**kind))
        self.register_buffer("color", None if color is None else color.to(**kind))

    def forward(self) -> Tensor:
        x = inverse(torch.view_as_complex(self.scale * self.values), self.onesided, self.size[1]) / MAGIC
        return torch.sigmoid(x if self.color is None else recorrelate(x, self.color))


class Pixel(nn.Module):
    """Images from pixels: sigmoid(M x).

    Args:
        start: first values (unit, channels, h, w), copied. The parameter is named `values` as in `Fourier`.
        color: matrix (3, 3), or None for none.
    """

    color: Tensor | None

    def __init__(self, start: Tensor, color: Tensor | None = None) -> None:
        super().__init__()
        self.values = nn.Parameter(start.detach().clone())
        self.register_buffer("color", None if color is None else color.to(start.device, start.dtype))

    def forward(self) -> Tensor:
        return torch.sigmoid(self.values if self.color is None else recorrelate(self.values, self.color))


class Maco(nn.Module):
    """Images from phases: sigmoid(CONTRAST M irfft2(magnitude * exp(i phase))), the inner image brought to unit variance.

    MAgnitude Constrained Optimization (Fel et al. 2023): no frequency can be amplified beyond its share in natural images.

    Args:
        start: (unit, channels, h, w//2 + 1, 2), of which the angles are the first phases. The parameter is named `values`.
        size: (h, w) of the images in pixels.
        decay: power of 1/f of the magnitudes where there is no profile.
        profile: mean magnitudes of natural images by frequency, see `magnitude_profile`.
        color: matrix (3, 3), or None for none.
    """

    magnitude: Tensor
    onesided: Tensor
    color: Tensor | None

    def __init__(
        self,
        start: Tensor,
        size: tuple[int, int],
        decay: float = 1.0,
        profile: Sequence[float] | None = None,
        color: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.values = nn.Parameter(torch.atan2(start[..., 1], start[..., 0]).detach().contiguous())
        kind = {"device": start.device, "dtype": start.dtype}
        magnitude = frequency_scale(size, decay) if profile is None else profile_scale(size, profile)
        magnitude[0, 0] = 0  # the mean is gray
        self.register_buffer("magnitude", magnitude.to(**kind))
        self.register_buffer("onesided", onesided_mask(size[1]).to(**kind))
        self.register_buffer("color", None if color is None else color.to(**kind))

    def forward(self) -> Tensor:
        spectrum = torch.polar(self.magnitude.expand_as(self.values), self.values)
        x = inverse(spectrum, self.onesided, self.size[1])
        x = x / x.square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)
        return torch.sigmoid(CONTRAST * (x if self.color is None else recorrelate(x, self.color)))


def parameterization(start: Tensor, config: RenderConfig) -> Fourier | Pixel | Maco:
    """The config's parameterization at a start: (unit, channels, h, w//2 + 1, 2) for Fourier and Maco, (unit, channels, h, w)
    for pixels.
    """
    color = color_tensor(config, start.shape[1])
    if config.parameterization == "pixel":
        return Pixel(start, color)
    if config.parameterization == "maco":
        return Maco(start, config.image_hw, config.decay, config.profile, color)
    return Fourier(start, config.image_hw, config.decay, color)


def as_lucent_param(
    images: Fourier | Pixel | Maco,
) -> Callable[[], tuple[list[nn.Parameter], Callable[[], Tensor]]]:
    """A featviz parameterization as the `param_f` of lucent's `render_vis`.

    lucent runs on `cuda:0` where there is one: move the parameterization there first.

    >>> render_vis(model, "layer4:7", as_lucent_param(parameterization(starts.values, config)))  # doctest: +SKIP
    """
    return lambda: ([images.values], images)
