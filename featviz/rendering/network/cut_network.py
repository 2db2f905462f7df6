"""A network that runs only as far as the layers that are looked at.

network, layer names -> a function of images that gives the outputs of those layers, from a private copy of the network.
"""

import contextlib
import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import ModelError, UnitError, near_names
from featviz.isolation import weight_sharing_copy


class _AllReached(BaseException):
    """All wanted layers have been called; no `except Exception` of a network may swallow it."""


class CutNetwork:
    """Calls a network up to its last wanted layer: images (batch, c, h, w) -> the layers' outputs, in order.

    A module that is called several times in a forward pass (a shared ReLU) gives its first output, that of which an alignment
    knows the units; lucent gives its last one.

    Args:
        net: a private copy in evaluation mode.
        layers: dotted module names, "" for the network's own output.
        inputs: what the network takes after the images. A tensor whose first axis is 1 is repeated for every image.

    Raises:
        ModelError: the network takes another number of inputs.
    """

    def __init__(self, net: nn.Module, layers: Sequence[str], inputs: Sequence[Any] = ()) -> None:
        self.net, self.layers, self.inputs = net, tuple(layers), tuple(inputs)
        _check_inputs(net, self.inputs)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = {}
        modules = dict(self.net.named_modules(remove_duplicate=False))
        with contextlib.ExitStack() as stack:
            for name in self.layers:
                hook = functools.partial(_keep_output, found, len(self.layers), name)
                stack.callback(modules[name].register_forward_hook(hook).remove)
            for name, module in modules.items():
                if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                    hook = functools.partial(_refuse_volume_without_batch, name)
                    stack.callback(module.register_forward_pre_hook(hook).remove)
            with contextlib.suppress(_AllReached):
                self.net(x, *(_for_every_image(value, len(x)) for value in self.inputs))
        for name in self.layers:
            if name not in found:
                raise UnitError(f"the network has a layer {name} but does not call it in eval mode: take one it calls.")
        return tuple(found[name] for name in self.layers)

    def cut_at(self, layers: Sequence[str]) -> "CutNetwork":
        """The same copy of the network, for other layers."""
        return CutNetwork(self.net, layers, self.inputs)

    def copy(self) -> "CutNetwork":
        """Another one on the same weights, whose buffers and Python state are its own."""
        return CutNetwork(weight_sharing_copy(self.net), self.layers, self.inputs)


def _keep_output(found: dict[str, Tensor], wanted: int, name: str, module: nn.Module, args: Any, output: Any) -> None:
    del module, args
    if name in found:
        return
    tensor = first_tensor(output)
    if tensor is None:
        kind = type(output).__name__
        raise ModelError(f"{name or 'the network'} gives a {kind} without a tensor: take another layer.")
    found[name] = tensor
    if len(found) == wanted:
        raise _AllReached
    found[name] = tensor.clone()  # an in-place operation may follow


def _for_every_image(value: Any, images: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == 1:
        return value.expand(images, *value.shape[1:])
    return value


def _check_inputs(net: nn.Module, inputs: Sequence[Any]) -> None:
    try:
        signature = inspect.signature(net.forward)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, *inputs)
    except TypeError as error:
        needed = [
            f"{name}" for name, one in signature.parameters.items()
            if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]  # fmt: skip
        raise ModelError(
            f"the network's forward takes ({', '.join(needed)}) and got the images and {len(inputs)} further inputs "
            f"({error}): give what follows the images as inputs=(...)."
        ) from error


def _refuse_volume_without_batch(name: str, module: nn.Module, args: Any) -> None:
    """PyTorch would take the batch of images for the channels of one volume."""
    if args and isinstance(args[0], Tensor) and args[0].ndim == 4:
        kind = type(module).__name__
        raise ModelError(
            f"{name or 'the network'} is a {kind}, which takes volumes (batch, c, d, h, w), and gets images (batch, c, h, w): "
            "render a module that makes a volume of each image, for example by x.unsqueeze(2), and calls this network."
        )


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that a module's output is, or the first one in its tuple, list or dict."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def uncompiled(model: nn.Module) -> nn.Module:
    """A compiled network makes no module calls that a hook could see: the one within."""
    return getattr(model, "_orig_mod", model)


def check_can_be_cut(model: nn.Module) -> None:
    """Raise ModelError for a network without modules that can be called one by one."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a scripted or traced network has no layers to look at: give the nn.Module it was made from.")
    if any(isinstance(weight, nn.parameter.UninitializedParameter) for weight in model.parameters()):
        raise ModelError("the network has lazy weights that have no shape yet: run it on an image first.")


def is_input(model: nn.Module, name: str) -> bool:
    """Whether "input" means the images, not a module of that name."""
    return name == "input" and "input" not in dict(model.named_children())


def resolve_layer(model: nn.Module, name: str) -> str:
    """The dotted name of a module, also from lucent's spelling `layer4_1_conv2`; "labels" -> "", the network
    itself.

    Raises:
        UnitError: there is no such layer, or the underscores could mean several.
    """
    known = [key for key, _ in model.named_modules(remove_duplicate=False) if key]
    if name in known:
        return name
    if name == "labels":
        return ""
    spelled = [key for key in known if key.replace(".", "_") == name]
    if len(spelled) > 1:
        raise UnitError(f"{name} could be {' or '.join(spelled)}: write it with dots.")
    if not spelled:
        raise UnitError(f"the network has no layer {name!r}: {near_names(name, known)}")
    return spelled[0]
