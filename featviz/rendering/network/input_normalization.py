"""What a network expects of its input: how many color channels, and their mean and standard deviation."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.errors import RenderError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def input_channels(model: nn.Module, config: RenderConfig | None = None) -> int:
    """Color channels of the images that the network takes.

    The first of: the length of `config.mean`; `in_channels` of its first convolution; `in_features` of a first linear
    layer over the pixels of the config's input; 3.
    """
    if config is not None and config.mean is not None:
        return len(config.mean)
    for module in model.modules():
        channels = getattr(module, "in_channels", None)
        if isinstance(channels, int) and isinstance(getattr(module, "weight", None), Tensor):
            return channels
        if isinstance(module, nn.Linear) and config is not None:
            pixels = config.fed[0] * config.fed[1]
            return module.in_features // pixels if module.in_features % pixels == 0 else 3
    return 3


def input_statistics(model: nn.Module, config: RenderConfig, channels: int) -> Statistics:
    """Mean and standard deviation per channel that the network's input is normalised with.

    The first that is there: `config.mean`, `config.std`; the model's own `mean`, `std`; timm's `pretrained_cfg` or
    `default_cfg`; ImageNet's for 3 channels; 0 and 1.

    Raises:
        RenderError: a config with other than `channels` values, or only one of the two, or a std that is not
            positive.
    """
    if config.mean is not None or config.std is not None:
        return _checked(config, channels)
    for holder in (model, *(getattr(model, name, None) for name in ("pretrained_cfg", "default_cfg"))):
        mean, std = (_numbers(_entry(holder, name), channels) for name in ("mean", "std"))
        if mean and std:
            return mean, std
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.0,) * channels, (1.0,) * channels


def _checked(config: RenderConfig, channels: int) -> Statistics:
    if config.mean is None or config.std is None:
        raise RenderError("mean and std belong together: give both, or neither.")
    if len(config.mean) != channels or len(config.std) != channels:
        raise RenderError(
            f"mean has {len(config.mean)} values and std {len(config.std)}, "
            f"the network takes {channels} channels: give one per channel."
        )
    if min(config.std) <= 0:
        raise RenderError(f"std is {config.std}: each value must be positive.")
    return config.mean, config.std


def _entry(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _numbers(value: Any, channels: int) -> tuple[float, ...] | None:
    """The value as plain numbers if it is one per channel."""
    if isinstance(value, Tensor):
        value = value.detach().flatten().tolist()
    if not isinstance(value, (tuple, list)) or len(value) != channels:
        return None
    return tuple(float(v) for v in value) if all(isinstance(v, (int, float)) for v in value) else None
