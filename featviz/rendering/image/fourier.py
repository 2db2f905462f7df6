"""The Fourier parameterization: values are the spectrum of the image, scaled by 1/f**decay (Olah et al. 2017)."""

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.rendering.image.parameterizations import Parameterization, register_parameterization
from featviz.rendering.image.spectrum import NYQUIST, frequency_scale, inverse, onesided_mask, spectrum_shape

LUCID_DIVISOR = 4.0  # Lucid divides the inverse transform by it, which gives less saturated starts


@register_parameterization("fourier")
class Fourier(Parameterization):
    """sigmoid(M irfft2(scale * values) / 4): values (unit, channels, h, w//2 + 1, 2), the last axis real and imaginary part.

    The inverse transform is orthonormal; `scale` is 1/f**`config.decay`, so that one step of Adam moves low frequencies, of
    which natural images consist, more than high ones. Values of the Nyquist frequency decay by `config.weight_decay`, others in
    proportion to their frequency: noise, which is of high ones, fades before contrast does.
    """

    scale: Tensor
    onesided: Tensor
    relative_frequency: Tensor

    def __init__(self, start: Tensor, config: RenderConfig) -> None:
        super().__init__(start, config)
        self.register_buffer("scale", frequency_scale(self.image_hw, config.decay).to(self.values)[..., None])
        self.register_buffer("onesided", onesided_mask(self.image_hw[1]).to(self.values))
        relative = frequency_scale(self.image_hw, -1.0) / NYQUIST
        self.register_buffer("relative_frequency", relative.to(self.values)[..., None])

    @classmethod
    def start_shape(cls, channels: int, config: RenderConfig) -> tuple[int, ...]:
        return channels, *spectrum_shape(config.image_hw)

    def forward(self) -> Tensor:
        spectrum = torch.view_as_complex(self.scale * self.values)
        return self.to_image(inverse(spectrum, self.onesided, self.image_hw[1]) / LUCID_DIVISOR)

    @property
    def weight_decay_scale(self) -> Tensor:
        return self.relative_frequency

    def values_of(self, x: Tensor) -> Tensor:
        return torch.view_as_real(torch.fft.rfft2(x * LUCID_DIVISOR, norm="ortho")) / self.scale
