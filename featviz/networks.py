"""A network from a word: `resnet20-x2` (the zoo), `resnet18` (torchvision), `package.module:callable` (yours).

build("resnet20-x2", classes=100)
build("resnet18", num_classes=10)
build("mynets.small:make_net", width=64)
"""

import importlib
import os
import sys
from collections.abc import Callable

from torch import nn

from featviz.errors import ModelError, near_names
from featviz.zoo.named import NAMES, zoo_network

WAYS = "a zoo name (resnet20-x2), a torchvision name (resnet18) or package.module:callable"


def build(spec: str, **arguments: object) -> nn.Module:
    """Build the network with fresh weights; `arguments` go to whatever makes it.

    Raises:
        ModelError: no such name (with near ones), or its maker refuses the arguments.
    """
    if ":" in spec:
        return _make(spec, _find(spec), arguments)
    if "-x" in spec:
        return zoo_network(spec, **arguments)
    import torchvision  # its models cost seconds, which networks of the zoo need not wait for

    known = torchvision.models.list_models(module=torchvision.models)
    if spec not in known:
        raise ModelError(f"there is no architecture {spec!r}, {near_names(spec, [*NAMES, *known])} Give {WAYS}.")
    return _make(spec, lambda **given: torchvision.models.get_model(spec, weights=None, **given), arguments)


def _find(spec: str) -> Callable[..., object]:
    """The callable `package.module:callable`, looked for in the current folder too."""
    module_name, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{spec}: there is no module {error.name!r} in {os.getcwd()} or among the installed packages: give {WAYS}."
        ) from error
    except Exception as error:
        raise ModelError(f"{spec}: importing {module_name} failed with {_told(error)}: mend it first.") from error
    found = getattr(module, name, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise ModelError(f"{spec}: {module_name} has no callable {name!r}, {near_names(name, public)}")
    return found


def _make(spec: str, maker: Callable[..., object], arguments: dict[str, object]) -> nn.Module:
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    try:
        model = maker(**arguments)
    except Exception as error:
        raise ModelError(f"{spec}({given}) failed with {_told(error)}: change its arguments.") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{spec}({given}) gave an object of type {type(model).__name__}: give a callable that returns a torch.nn.Module."
        )
    return model


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())[:200].rstrip(". ")
    return f"{type(error).__name__} ({text})" if text else type(error).__name__
