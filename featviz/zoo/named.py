"""The zoo by name: `resnet20-x2`, `vgg11_bn-x0.5` -> a network with fresh weights."""

import re

from torch import nn

from featviz.errors import ModelError, near_names, summary
from featviz.zoo.resnet import CifarResNet
from featviz.zoo.vgg import STAGES, CifarVGG

DEPTHS = (20, 32, 44, 56, 110)
EXAMPLE_NAMES = tuple(
    [f"resnet{depth}-x{width}" for depth in DEPTHS for width in (1, 2, 4, 8, 16)]
    + [f"vgg{depth}{norm}-x{width}" for depth in STAGES for norm in ("", "_bn") for width in (1, 2)]
)  # for suggestions: every width is accepted


def zoo_network(name: str, **arguments: object) -> nn.Module:
    """Build `resnet<depth>-x<width>` or `vgg<depth>[_bn]-x<width>`; `arguments` go to its class.

    Raises:
        ModelError: no such name, depth or width, an argument that the class does not take, or more weights than memory holds.
    """
    found = re.fullmatch(r"(resnet|vgg)(\d+)(_bn)?-x(\d{1,6}(?:\.\d{1,6})?)", name)
    if not found or (found[1] == "resnet" and (found[3] or "." in found[4])) or float(found[4]) == 0:
        raise ModelError(f"there is no {name!r} in the zoo: {near_names(name, EXAMPLE_NAMES)}")
    try:
        if found[1] == "resnet":
            return CifarResNet(int(found[2]), int(found[4]), **arguments)  # pyright: ignore[reportArgumentType]
        return CifarVGG(int(found[2]), float(found[4]), bool(found[3]), **arguments)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} cannot be built: {error}.") from error
    except RuntimeError as error:
        raise ModelError(f"{name} is too large ({summary(error)}): take a smaller width.") from error
