"""Photographs as starts and references: a tensor, files, or one of either -> (image, channels, h, w) in [0, 1]."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from featviz.config import RenderConfig
from featviz.data import read_image
from featviz.errors import DataError

STEPS = 48  # of an ascent beside photographs, whose penalties are made for about so many
LR = 0.2
Photographs = Tensor | str | Path | Sequence[str | Path]


def as_photographs(images: Photographs, channels: int, config: RenderConfig) -> tuple[Tensor, RenderConfig]:
    """The photographs, and the config with their size; where it gives no steps or lr, STEPS and LR for every quality.

    A linear schedule becomes a constant one.

    Args:
        images: (c, h, w) or (image, c, h, w) in [0, 1], which keep their size; or files, which get the config's.

    Raises:
        DataError: no image, files that cannot be read, other numbers of channels, or values outside [0, 1].
    """
    if not isinstance(images, Tensor):
        paths = [images] if isinstance(images, (str, Path)) else list(images)
        mode = {1: "L", 3: "RGB"}.get(channels)
        if not paths or mode is None:
            raise DataError(f"{len(paths)} image files for networks on {channels} channels: give a tensor of images.")
        photographs = torch.stack([read_image(path, config.image_hw, mode) for path in paths]) / 255
    else:
        photographs = images.detach().cpu()
        photographs = photographs[None] if photographs.ndim == 3 else photographs
    shape = tuple(photographs.shape)
    if photographs.ndim != 4 or 0 in shape or shape[1] != channels or not photographs.is_floating_point():
        raise DataError(f"images of shape {shape} and type {photographs.dtype}: give floats (image, {channels}, h, w).")
    if photographs.min() < 0 or photographs.max() > 1:
        low, high = photographs.min().item(), photographs.max().item()
        raise DataError(f"the images have values from {low:.3g} to {high:.3g}: give images in [0, 1], not normalized.")
    steps, lr = (STEPS if config.steps is None else config.steps), (LR if config.lr is None else config.lr)
    # The large first steps of a linear schedule would leave the photograph.
    schedule = "constant" if config.schedule == "linear" else config.schedule
    return photographs, replace(config, size=(shape[2], shape[3]), steps=steps, lr=lr, schedule=schedule)
