"""The trunk: a network cut at the last layer that is needed, and only there for its activations.

images (unit, c, h, w) in [0, 1] -> {layer: activation}. While the trunk is open the network is in eval mode,
its weights are frozen (the gradient reaches the image alone) and it stops as soon as the layers are known; on
closing, also by an error, it is exactly as it was before.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.data import device_of
from featviz.errors import FeatvizError, ModelError, RenderError, UnitError, near_names
from featviz.isolation import copy_of, frozen, in_turn
from featviz.rendering.backends.fold_batchnorm import prepared
from featviz.rendering.backends.traced_graph import Run, compiled_line, quickest, straight_line
from featviz.subjects import input_channels, input_normalization


class _Reached(BaseException):
    """All layers are known; no `except Exception` of a network may swallow it."""


class Trunk:
    """A context manager: `with Trunk(model, ("layer3.1.bn2",)) as trunk: trunk(x)["layer3.1.bn2"]`.

    A module that is called several times in a forward pass (a shared ReLU) gives its first output, that of which
    an alignment knows the units; lucent gives its last one.

    Args:
        model: any module on images (batch, c, h, w). Comes back untouched; for "float64" and for another
            device than its own a copy is used.
        layers: dotted module names, or lucent's with underscores; "labels" is the network's output, "input"
            the images.
        config: precision, mean, std and input size are taken from it.
        device: where to run; None: where the model is.

    Raises:
        UnitError: a layer that the network does not have or does not call; the nearest names are given.
        ModelError: a layer whose output holds no tensor; a network that is scripted, or whose weights are lazy.
        RenderError: a network that cannot take the image size.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[str],
        config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
        device: torch.device | None = None,
    ) -> None:
        self.model = uncompiled(model)
        self.config = config
        self.device = device_of(model) if device is None else device
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32  # of images and scores
        self.autocast = resolve_precision(config.precision, self.device) == torch.bfloat16
        self.layers = {name: resolve_layer(self.model, name) for name in layers if not _is_input(self.model, name)}
        if isinstance(self.model, torch.jit.ScriptModule):
            raise ModelError(
                "a scripted or traced network has no layers to look at: give the nn.Module it was made from."
            )
        if any(isinstance(weight, nn.parameter.UninitializedParameter) for weight in self.model.parameters()):
            raise ModelError("the network has lazy weights that have no shape yet: run it on an image first.")
        self.channels = input_channels(self.model, config)
        normalization = input_normalization(self.model, config, self.channels)
        self.mean = torch.tensor(normalization.mean, dtype=self.dtype, device=self.device)
        self._inverse_std = (
            torch.tensor(normalization.std, dtype=self.dtype, device=self.device).view(-1, 1, 1).reciprocal()
        )
        self._shift = -self.mean.view(-1, 1, 1) * self._inverse_std
        self._order = tuple(dict.fromkeys(self.layers.values()))  # the modules whose outputs are wanted
        # Statistics of the batch couple its images: then they are rendered one by one.
        mixed = any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
            for module in self.model.modules()
        )
        self.batch: int | None = 1 if mixed else None  # images at once, once that is known
        self._captured: dict[str, Tensor] | None = None  # while this trunk runs: others may be open on the same model
        self._open: contextlib.ExitStack | None = None
        self._thread = threading.get_ident()  # others may run the model, or a copy of it with our hooks
        self._fast: nn.Module | None = None  # the network as the ascent runs it
        self._lines: dict[tuple[int, ...], Run | None] = {}

    def __enter__(self) -> "Trunk":
        with contextlib.ExitStack() as stack:
            self.net = self._network(stack)
            stack.enter_context(frozen(self.net))
            modules = dict(self.net.named_modules(remove_duplicate=False))
            for name in self._order:
                handle = modules[name].register_forward_hook(self._hook(name))
                stack.callback(handle.remove)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        if self._open is not None:
            self._open.close()
            self._open = self._fast = None
            self.forget_lines()

    def __call__(
        self, x: Tensor, images: Tensor | None = None, precise: bool = False, once: bool = False
    ) -> dict[str, Tensor]:
        """Activations by layer name (as it was asked for) of what the network is fed.

        Args:
            x: (unit, c, h_in, w_in) in [0, 1]; normalised here.
            images: what "input" shall be where x has been warped; None: x itself.
            precise: without autocast, in float32.
            once: few more images of this shape will follow: nothing is made ready for them.
        """
        if self._open is None:
            raise RuntimeError("the trunk is closed: use it in a with statement")
        captured = self._captured = {}
        try:
            if self._order:
                self._run(x, precise, once)
        finally:
            self._captured = None
        for name in self.layers.values():
            if name not in captured:
                raise UnitError(f"the network has a layer {name} but does not call it in eval mode: take one it calls.")
        found = {asked: captured[name] for asked, name in self.layers.items()}
        return found if "input" in found else {**found, "input": x if images is None else images}

    def forget_lines(self) -> None:
        """Give back the memory of what was made for batches of a size."""
        self._lines.clear()

    def weights(self) -> list[Tensor]:
        """All tensors that the networks of this trunk consist of."""
        nets = [self.net] if self._fast is None else [self.net, self._fast]
        return [tensor for net in nets for tensor in (*net.parameters(), *net.buffers())]

    def _network(self, stack: contextlib.ExitStack) -> nn.Module:
        """The model, until `stack` ends not in use by other threads, or a copy where its own weights do not serve."""
        with in_turn():
            weights = [weight for weight in self.model.parameters() if weight.is_floating_point()]
            doubles = [weight.dtype == torch.float64 for weight in weights]
            exact = self.dtype == torch.float64
            fits = all(doubles) if exact else not doubles or not all(doubles)
            inference = any(tensor.is_inference() for tensor in (*self.model.parameters(), *self.model.buffers()))
            if not fits or inference or self.device != device_of(self.model):
                return copy_of(self.model).to(self.device, self.dtype if not fits else None)
            stack.enter_context(in_turn())
            return self.model

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def capture(module: nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            elsewhere = threading.get_ident() != self._thread
            if elsewhere or self._captured is None or name in self._captured:
                return
            tensor = first_tensor(output)
            if tensor is None:
                kind = type(output).__name__
                raise ModelError(f"{name or 'the network'} gives a {kind} without a tensor: take another layer.")
            self._captured[name] = tensor
            if len(self._captured) == len(self._order):
                raise _Reached
            self._captured[name] = tensor.clone()  # an in-place operation may follow

        return capture

    def _run(self, x: Tensor, precise: bool, once: bool) -> None:
        size = tuple(x.shape[1:])
        weight = next((p for p in self.net.parameters() if p.is_floating_point()), x)
        autocast = self.autocast and not precise and weight.dtype == torch.float32
        x = torch.addcmul(self._shift, x, self._inverse_std)
        x = x.to(weight.dtype, memory_format=torch.channels_last)
        try:
            net = self.net if precise or self.dtype == torch.float64 else self._prepared(x[:1].detach(), autocast)
            line = None if net is self.net else self._line(net, x, autocast, once)
            if line is not None and self._captured is not None:
                self._captured.update(zip(self._order, line(x), strict=True))
                return
            with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                _until_reached(net, x)
        except FeatvizError:
            raise
        except Exception as error:
            if machine_failed(error):
                raise
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise RenderError(
                f"the network cannot take images of {' x '.join(map(str, size))} ({message}): "
                "give a larger size, or the input_size that it was trained with, if that is the reason."
            ) from error

    def _prepared(self, x: Tensor, autocast: bool) -> nn.Module:
        """The network made fast at the first step; itself where it cannot be copied."""
        if self._fast is None:
            wanted = self._captured
            probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)

            def run(net: nn.Module, precise: bool) -> list[Tensor]:
                captured = self._captured = {}
                with (
                    torch.no_grad(),
                    torch.autocast(self.device.type, torch.bfloat16, enabled=autocast and not precise),
                ):
                    _until_reached(net, probe)
                return list(captured.values())

            weight = next((p for p in self.net.parameters() if p.is_floating_point()), x)
            try:
                self._fast = prepared(self.net, run, self.layers.values(), torch.bfloat16 if autocast else weight.dtype)
            except ModelError:
                self._fast = self.net
            finally:
                self._captured = wanted
        return self._fast

    def _line(self, net: nn.Module, x: Tensor, autocast: bool, once: bool) -> Run | None:
        """The network for images of this shape as a straight line, made at the first climb; None where it stays as it is."""
        shape = tuple(x.shape)
        fusing = self.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if not x.requires_grad or not (fusing or self.config.compile):
            return None
        if shape not in self._lines and not once:
            wanted = self._captured

            def running(net: nn.Module) -> Run:
                def run(x: Tensor) -> tuple[Tensor, ...]:
                    captured = self._captured = {}
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                        _until_reached(net, x)
                    return tuple(captured[name] for name in self._order)

                return run

            run, shared = running(net), {id(t): t for t in (*net.parameters(), *net.buffers())}
            try:
                traced = running(copy_of(net, shared))  # it may keep a tensor of its trace, which has no values
                line = straight_line(run, x, autocast, traced) if fusing else None
                if self.config.compile:
                    line = quickest([line or run, compiled_line(run, x, autocast, traced)], x)
                self._lines[shape] = None if line is run else line
            finally:
                self._captured = wanted
        return self._lines.get(shape)


def _until_reached(net: nn.Module, x: Tensor) -> None:
    with contextlib.suppress(_Reached):
        net(x)


def machine_failed(error: BaseException) -> bool:
    """Out of memory or a broken device: no fault of the image's size."""
    text = str(error)
    accelerator = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError, accelerator)) or "CUDA error" in text or "alloc" in text
    )


def uncompiled(model: nn.Module) -> nn.Module:
    """A compiled network makes no module calls that a hook could see: the one within."""
    return getattr(model, "_orig_mod", model)


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that a module's output is, or the first one in its tuple, list or dict."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def _is_input(model: nn.Module, name: str) -> bool:
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


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The float type of a config's `precision`; "auto" is bfloat16 where the device multiplies it
    natively.
    """
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def recorded_layers(
    score: Callable[[Callable[[str], Tensor]], Any],
    model: nn.Module,
    images: Tensor,
    config: RenderConfig,
    device: torch.device | None = None,
) -> tuple[str, ...]:
    """The layers that a callable on T(layer) asks for, by running it once on images (unit, c, h_in, w_in)."""
    asked: dict[str, None] = {}

    def T(layer: str) -> Tensor:
        asked[layer] = None
        with Trunk(model, (layer,), config, device) as trunk:
            return trunk(images)[layer]

    with torch.no_grad():
        score(T)
    return tuple(asked)
