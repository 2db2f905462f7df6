"""Named robustness: "affine" is the fused warp of `warps.py`; "lucid" and "strong" are kornia pipelines.

(name, channels, size) -> `SeededTransform`, or None for the fused warp. Shifts are fractions of the image side. Costs and the
pictures that come of them are in docs/results.md.
"""

from collections.abc import Callable

import torch
from kornia import augmentation as K
from torch import Tensor, nn

from featviz.config import ROBUSTNESS, RenderConfig
from featviz.errors import RenderError
from featviz.rendering.robustness.seeded_transform import SeededTransform

Robustness = str | nn.Module | Callable[[Tensor], Tensor]


def lucid(channels: int, size: tuple[int, int]) -> nn.Module:
    """Lucid's standard transforms at its image of 128 px, each resampled apart; gray lies outside.

    Shift by up to 4 px, zoom by up to 10 %, rotation by up to 10 degrees, shift by up to 2 px (Olah et al. 2017;
    `lucid.optvis.transform`).
    """
    del size
    outside = {"p": 1.0, "padding_mode": "fill", "fill_value": torch.full((channels,), 0.5)}
    return K.AugmentationSequential(
        K.RandomAffine(0.0, translate=(1 / 32, 1 / 32), **outside),
        K.RandomAffine(0.0, scale=(0.9, 1.1), **outside),
        K.RandomAffine(10.0, **outside),
        K.RandomAffine(0.0, translate=(1 / 64, 1 / 64), **outside),
    )


def strong(channels: int, size: tuple[int, int]) -> nn.Module:
    """Rotation, zoom, shift, perspective, crops of 60 to 100 % of the area, color, blur, erased rectangles and noise.

    The color steps are left out where images do not have three channels.
    """
    color = [
        K.RandomBrightness((0.9, 1.1), p=1.0),
        K.RandomContrast((0.9, 1.1), p=1.0),
        K.RandomSaturation((0.8, 1.2), p=1.0),
        K.RandomHue((-0.03, 0.03), p=1.0),
    ]
    return K.AugmentationSequential(
        K.RandomAffine(10.0, (1 / 16, 1 / 16), (0.9, 1.1), p=1.0, padding_mode="reflection"),
        K.RandomPerspective(0.2, p=1.0),
        K.RandomResizedCrop(size, (0.6, 1.0), (0.9, 1.1), p=1.0, cropping_mode="resample"),
        *(color if channels == 3 else []),
        K.RandomGaussianBlur((5, 5), (0.1, 1.0), p=0.5),
        K.RandomErasing((0.02, 0.1), value=0.5, p=0.5),
        K.RandomGaussianNoise(0.0, 0.03, p=1.0),
    )


def seeded_robustness(robustness: Robustness | None, config: RenderConfig, channels: int) -> SeededTransform | None:
    """What transforms the images before the network: of a preset's name, a pipeline, or None for `config.robustness`.

    Returns:
        None for "affine", the fused warp.

    Raises:
        RenderError: no preset of that name, or nothing that can be called.
    """
    if robustness is None:
        robustness = config.robustness
    if not isinstance(robustness, str):
        return SeededTransform(robustness)
    if robustness not in ROBUSTNESS:
        raise RenderError(f"there is no robustness {robustness!r}: use one of {', '.join(ROBUSTNESS)}, or a pipeline.")
    if robustness == "affine":
        return None
    pipeline = {"lucid": lucid, "strong": strong}[robustness](channels, config.image_hw)
    return SeededTransform(pipeline, robustness)


def robustness_in_words(robustness: Robustness | None, config: RenderConfig) -> str:
    """A preset's name, or what a pipeline says of itself, for records."""
    if isinstance(robustness, str) or robustness is None:
        return robustness or config.robustness
    return " ".join(repr(robustness).split()) if isinstance(robustness, nn.Module) else SeededTransform(robustness).name
