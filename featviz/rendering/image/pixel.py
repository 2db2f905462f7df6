"""The pixel parameterization: values are the pixels themselves, without any smoothing."""

from torch import Tensor

from featviz.config import RenderConfig
from featviz.rendering.image.parameterizations import Parameterization, register_parameterization


@register_parameterization("pixel")
class Pixel(Parameterization):
    """sigmoid(M values): values (unit, channels, h, w)."""

    @classmethod
    def start_shape(cls, channels: int, config: RenderConfig) -> tuple[int, ...]:
        return channels, *config.image_hw

    def forward(self) -> Tensor:
        return self.to_image(self.values)

    def values_of(self, x: Tensor) -> Tensor:
        return x
