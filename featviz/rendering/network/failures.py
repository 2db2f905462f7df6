"""Why a network cannot take the images that are rendered for it: it wants another kind of input, or another size."""

import torch
from torch import Tensor, nn

from featviz.errors import ModelError, RenderError, summary
from featviz.rendering.network.cut_network import CutNetwork

SIDES = (16, 32, 64, 96, 128, 224, 256, 299, 384)  # that networks are trained with, in pixels


def explained(network: CutNetwork, x: Tensor, error: Exception) -> ModelError | RenderError:
    """What to tell of a network that failed on images x with this error; whether their size is at fault is tried out."""
    said = summary(error)
    shape = " x ".join(map(str, x.shape[1:]))
    kind = next((m for m in network.net.modules() if isinstance(getattr(m, "in_channels", None), int)), None)
    if isinstance(kind, (nn.Conv1d, nn.ConvTranspose1d)):
        return ModelError(
            f"the network begins with a {type(kind).__name__}, which takes sequences (batch, c, length), and gets images "
            f"(batch, c, h, w) ({said}): render a module that makes a sequence of each image, for example by x.flatten(2), "
            "and calls this network."
        )
    channels = getattr(kind, "in_channels", None)
    if channels not in (None, x.shape[1]) and _runs(network, x.new_zeros(1, channels, *x.shape[2:]), max(x.shape[2:])):
        return RenderError(
            f"the network takes images of {channels} channels and gets {x.shape[1]}, as many as mean and std have values: give "
            f"{channels} values of each."
        )
    side = next((side for side in _sides(network.net, x) if _runs(network, x, side)), None)
    if side is not None:
        return RenderError(
            f"the network cannot take images of {shape} ({said}): it takes {side} x {side} pixels, give size={side}, or "
            f"input_size={side} to have images of any size resized to that."
        )
    return RenderError(
        f"the network fails on images of {shape}, and on those of other sizes ({said}): make sure that it runs on "
        f"torch.rand(1, {', '.join(map(str, x.shape[1:]))}) in evaluation mode."
    )


def _sides(net: nn.Module, x: Tensor) -> list[int]:
    """Sides to try: the one that the network tells, then larger ones, then smaller ones."""
    told = getattr(net, "image_size", None)
    config = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None)
    if isinstance(config, dict) and "input_size" in config:
        told = config["input_size"][-1]
    now = max(x.shape[-2:])
    larger = sorted({side for side in (*SIDES, 2 * now, 4 * now) if side > now})
    return [*([told] if isinstance(told, int) else []), *larger, *(side for side in reversed(SIDES) if side < now)]


def _runs(network: CutNetwork, x: Tensor, side: int) -> bool:
    try:
        with torch.no_grad():
            network(x.new_zeros(1, x.shape[1], side, side))
    except Exception:  # any failure says that this is not the size, the first error is the one that is told
        return False
    return True
