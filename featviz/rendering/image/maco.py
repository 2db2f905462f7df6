"""MAgnitude Constrained Optimization: only the phases move, the magnitudes are those of natural images (Fel et al. 2023)."""

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.rendering.image.parameterizations import Parameterization, register_parameterization
from featviz.rendering.image.spectrum import frequency_scale, inverse, onesided_mask, profile_scale, spectrum_shape

CONTRAST = 2.0  # factor before the sigmoid: the standard deviation of the pixels is then about that of photographs, 0.2


@register_parameterization("maco")
class Maco(Parameterization):
    """sigmoid(CONTRAST M irfft2(magnitude * exp(i values))), what the sigmoid gets brought to unit variance before M.

    Values are the phases (unit, channels, h, w//2 + 1), at the start the angles of `start` (..., 2), real and imaginary part.
    Magnitudes are `config.profile` (see `featviz.magnitude_profile`), or 1/f**`config.decay` without one: no frequency can be
    amplified beyond its share in natural images.
    """

    magnitude: Tensor
    onesided: Tensor

    def __init__(self, start: Tensor, config: RenderConfig) -> None:
        super().__init__(torch.atan2(start[..., 1], start[..., 0]).contiguous(), config)
        size, profile = self.image_hw, config.profile
        magnitude = frequency_scale(size, config.decay) if profile is None else profile_scale(size, profile)
        magnitude[0, 0] = 0  # the mean is gray
        self.register_buffer("magnitude", magnitude.to(self.values))
        self.register_buffer("onesided", onesided_mask(size[1]).to(self.values))

    @classmethod
    def start_shape(cls, channels: int, config: RenderConfig) -> tuple[int, ...]:
        return channels, *spectrum_shape(config.image_hw)

    @property
    def weight_decay_scale(self) -> float:
        return 0.0  # phases of 0 are no gray image

    def forward(self) -> Tensor:
        spectrum = torch.polar(self.magnitude.expand_as(self.values), self.values)
        x = inverse(spectrum, self.onesided, self.image_hw[1])
        return self.to_image(CONTRAST * x / x.square().mean((-2, -1), keepdim=True).sqrt().clamp_min(1e-12))
