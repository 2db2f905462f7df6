"""Parameterizations: what Adam moves -> images (unit, channels, h, w) in [0, 1].

"fourier" (`fourier.py`), "pixel" (`pixel.py`) and "maco" (`maco.py`) are registered here by name; `RenderConfig` takes the
name. To write another one, subclass `Parameterization`, give the shape of one unit's values and make images of them:

    import featviz
    from torch.nn import functional as F

    @featviz.register_parameterization("coarse")
    class Coarse(featviz.Parameterization):
        "Pixels at a quarter of the resolution, enlarged."

        @classmethod
        def start_shape(cls, channels, config):
            h, w = config.image_hw
            return channels, -(-h // 4), -(-w // 4)

        def forward(self):
            return self.to_image(F.interpolate(self.values, self.image_hw, mode="bicubic"))

    featviz.render(model, "layer3:0-3", featviz.RenderConfig(parameterization="coarse"))

One test runs over all registered parameterizations (`tests/rendering/test_parameterizations.py`).
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from featviz.config import PARAMETERIZATIONS, SATURATION_LIMIT, RenderConfig
from featviz.errors import RenderError
from featviz.rendering.image.color import color_tensor, logit, recorrelate

_CLASSES: "dict[str, type[Parameterization]]" = {}
Class = TypeVar("Class", bound="type[Parameterization]")


class Parameterization(nn.Module):
    """The images of some units as a function of `values`, which the ascent moves.

    A subclass gives `start_shape` and `forward`, `values_of` if an image can be its start, and `weight_decay_scale` if
    values are not all to decay alike. Constants belong into buffers, with the device and dtype of `values`. The image of a unit
    must depend on `values[unit]` alone, and `forward` may neither draw random numbers nor wait for the device (its steps are
    recorded as a CUDA graph).

    Args:
        start: (unit, *start_shape), the first values, copied: normal random numbers of standard deviation `config.sd`, or
            what `start_from` gave.
        config: image size, color and the rest.
    """

    values: nn.Parameter
    color: Tensor | None
    color_inverse: Tensor | None

    def __init__(self, start: Tensor, config: RenderConfig) -> None:
        super().__init__()
        self.image_hw = config.image_hw
        self.values = nn.Parameter(start.detach().clone())
        color = color_tensor(config)
        inverse = None if color is None else torch.linalg.pinv(color)
        self.register_buffer("color", None if color is None else color.to(self.values))
        self.register_buffer("color_inverse", None if inverse is None else inverse.to(self.values))

    @classmethod
    def start_shape(cls, channels: int, config: RenderConfig) -> tuple[int, ...]:
        """Shape of the values of one unit, for images of `channels` channels and `config.image_hw` pixels."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        """The images (unit, channels, h, w) in [0, 1] of `values`, differentiable."""
        raise NotImplementedError

    @property
    def weight_decay_scale(self) -> Tensor | float:
        """What `config.weight_decay` is multiplied by, per value: 1 is meant for the Nyquist frequency, 0 is no decay.

        0.1, for values that hold all frequencies, unless the class says otherwise.
        """
        return 0.1

    def values_of(self, x: Tensor) -> Tensor | None:
        """The values (unit, *start_shape) whose images are `to_image(x)`, x (unit, channels, h, w); linear in x.

        None where there are none: an image cannot be the start then, and `config.saturation_decay` does nothing.
        """
        del x
        return None

    @classmethod
    def start_from(cls, images: Tensor, config: RenderConfig) -> Tensor:
        """The start (unit, *start_shape) whose images are `images` (unit, channels, h, w) in [0, 1].

        Pixels closer than `DARKEST` to 0 or 1 are moved to there.

        Raises:
            RenderError: this parameterization has no such start.
        """
        shape = len(images), *cls.start_shape(images.shape[1], config)
        blank = cls(torch.zeros(shape, dtype=torch.float64, device=images.device), config)
        values = blank.values_of(blank._decorrelated(logit(images.double())))
        if values is None:
            raise RenderError(
                f"the parameterization {config.parameterization!r} cannot start from an image: use 'fourier' or 'pixel'."
            )
        return values.to(images.dtype)

    def to_image(self, x: Tensor) -> Tensor:
        """sigmoid(M x) of x (unit, channels, h, w), M the color matrix of the config for images of three channels."""
        return torch.sigmoid(x if self.color is None or x.shape[1] != 3 else recorrelate(x, self.color))

    def excess(self, images: Tensor) -> Tensor | None:
        """What takes colors beyond `SATURATION_LIMIT` before the sigmoid, as values (unit, *start_shape).

        The values less these have images whose colors end there.

        Args:
            images: (unit, channels, h, w), those of the values.

        Returns:
            None where there is no `values_of`.
        """
        before = logit(images)
        return self.values_of(self._decorrelated(before - before.clamp(-SATURATION_LIMIT, SATURATION_LIMIT)))

    def _decorrelated(self, x: Tensor) -> Tensor:
        """The inverse of the color matrix times x."""
        return x if self.color_inverse is None or x.shape[1] != 3 else recorrelate(x, self.color_inverse)


def register_parameterization(name: str) -> Callable[[Class], Class]:
    """Class decorator: make a `Parameterization` known to `RenderConfig(parameterization=name)` in this process.

    A name that is registered again, as a notebook cell does, stands for the newer class.

    Raises:
        RenderError: the name of one of featviz's own parameterizations, or a class that is no `Parameterization`.
    """

    def register(new: Class) -> Class:
        known = _CLASSES.get(name)
        if known is not None and known.__module__.startswith("featviz."):
            raise RenderError(f"{name!r} is a parameterization of featviz: register yours by another name.")
        if not issubclass(new, Parameterization):
            raise RenderError(f"{new.__name__} is no parameterization: subclass featviz.Parameterization.")
        _CLASSES[name] = new
        if name not in PARAMETERIZATIONS:
            PARAMETERIZATIONS.append(name)
        return new

    return register


def parameterization_class(config: RenderConfig) -> type[Parameterization]:
    """The class that `config.parameterization` names.

    Raises:
        RenderError: it is not registered in this process.
    """
    if config.parameterization not in _CLASSES:
        raise RenderError(
            f"the parameterization {config.parameterization!r} is not registered in this process: "
            "import the module that registers it."
        )
    return _CLASSES[config.parameterization]


def parameterization(start: Tensor, config: RenderConfig) -> Parameterization:
    """The config's parameterization with this start (unit, *start_shape)."""
    return parameterization_class(config)(start, config)


def as_lucent_param(
    images: Parameterization,
) -> Callable[[], tuple[list[nn.Parameter], Callable[[], Tensor]]]:
    """A featviz parameterization as the `param_f` of lucent's `render_vis`.

    lucent runs on `cuda:0` where there is one: move the parameterization there first.

    >>> render_vis(model, "layer4:7", as_lucent_param(parameterization(starts.values, config)))  # doctest: +SKIP
    """
    return lambda: ([images.values], images)
