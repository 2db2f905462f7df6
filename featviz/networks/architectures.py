"""Architectures by name, with fresh weights.

build("resnet20-x2", classes=100)             # of featviz's zoo
build("resnet18", num_classes=10)             # of torchvision
build("timm:resnet18", num_classes=10)        # of timm
build("mynets.small:make_net", width=64)      # a callable of your own module
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from featviz.errors import ModelError, near_names, summary
from featviz.zoo.named import EXAMPLE_NAMES, zoo_network

ACCEPTED = (
    "a zoo name (resnet20-x2), a torchvision name (resnet18), a timm name (timm:resnet18) or package.module:callable"
)


def build(spec: str, **arguments: object) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        spec: the architecture, by one of the four kinds of names above.
        arguments: keyword arguments of the architecture.

    Raises:
        ModelError: no such name (with near ones), or the architecture refuses the arguments.
    """
    if spec.startswith("timm:"):
        timm, name = import_timm(spec), spec.removeprefix("timm:")
        if not timm.is_model(name):
            raise ModelError(f"{spec}: timm has no architecture {name!r}, {near_names(name, timm.list_models())}")
        return _construct(spec, lambda **given: timm.create_model(name, pretrained=False, **given), arguments)
    if ":" in spec:
        return _construct(spec, _import_callable(spec), arguments)
    if "-x" in spec:
        return zoo_network(spec, **arguments)
    import torchvision  # takes seconds, which networks of the zoo do without

    known = torchvision.models.list_models(module=torchvision.models)
    if spec not in known:
        raise ModelError(
            f"there is no architecture {spec!r}, {near_names(spec, [*EXAMPLE_NAMES, *known])} Give {ACCEPTED}."
        )
    return _construct(spec, lambda **given: torchvision.models.get_model(spec, weights=None, **given), arguments)


def import_timm(wanted: str) -> Any:
    """The package timm.

    Raises:
        ModelError: it is not installed; `wanted` is what needs it.
    """
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ModelError(f"{wanted} needs timm: pip install 'featviz[timm]'.") from error


def _import_callable(spec: str) -> Callable[..., object]:
    """The callable `package.module:callable`, looked for in the current folder too."""
    module_name, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{spec}: there is no module {error.name!r} in {os.getcwd()} or among the installed packages: give {ACCEPTED}."
        ) from error
    except Exception as error:
        raise ModelError(
            f"{spec}: importing {module_name} failed ({summary(error)}): repair that module first."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise ModelError(f"{spec}: {module_name} has no callable {name!r}, {near_names(name, public)}")
    return found


def _construct(spec: str, make: Callable[..., object], arguments: dict[str, object]) -> nn.Module:
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    try:
        model = make(**arguments)
    except Exception as error:
        raise ModelError(f"{spec}({given}) failed ({summary(error)}): change its arguments.") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{spec}({given}) gave an object of type {type(model).__name__}: give a callable that returns a torch.nn.Module."
        )
    return model
