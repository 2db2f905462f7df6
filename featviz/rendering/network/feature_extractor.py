"""Activations of a network's layers for images, and their gradient with respect to the images alone.

images (unit, c, h, w) in [0, 1] -> {layer: activation}. The network is a private copy that shares its weights with the
caller's, in evaluation mode and with frozen weights; it stops as soon as the layers are known.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.data import device_of
from featviz.errors import FeatvizError, ModelError, RenderError
from featviz.isolation import weight_sharing_copy
from featviz.rendering.backends.fold_batchnorm import prepared
from featviz.rendering.backends.traced_graph import Run, compiled_line, quickest, straight_line
from featviz.rendering.network.cut_network import CutNetwork, check_can_be_cut, is_input, resolve_layer, uncompiled
from featviz.rendering.network.failures import machine_failed
from featviz.subjects import Subject, as_subject, input_channels, input_normalization


class FeatureExtractor:
    """A network cut at the last layer that is looked at.

    >>> extractor = FeatureExtractor(model, ("layer3.1.bn2",))  # doctest: +SKIP
    >>> extractor(images)["layer3.1.bn2"].shape  # doctest: +SKIP
    torch.Size([16, 64, 8, 8])

    Args:
        model: any module on images (batch, c, h, w), or a subject. A copy that shares its weights runs.
        layers: dotted module names, or lucent's with underscores; "labels" is the network's output, "input"
            the images.
        config: precision, mean, std and input size are taken from it.
        device: where to run; None: where the model is.
        inputs: what the network takes after the images, see `CutNetwork`.

    Raises:
        UnitError: a layer that the network does not have or does not call; the nearest names are given.
        ModelError: a network that cannot be copied or is scripted, or whose weights are lazy; a layer whose output holds no
            tensor.
        RenderError: a network that cannot take the image size.
    """

    def __init__(
        self,
        model: nn.Module | Subject,
        layers: Iterable[str],
        config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
        device: torch.device | None = None,
        inputs: Iterable[Any] = (),
    ) -> None:
        subject = as_subject(model)
        net = uncompiled(subject.model)
        check_can_be_cut(net)
        self.config = config
        self.device = device_of(net) if device is None else device
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32  # of images and scores
        self.autocast = resolve_precision(config.precision, self.device) == torch.bfloat16
        self.layers = {name: resolve_layer(net, name) for name in layers if not is_input(net, name)}
        self.channels = input_channels(subject, config)
        normalization = input_normalization(subject, config, self.channels)
        mean, std = (
            torch.tensor(v, dtype=self.dtype, device=self.device) for v in (normalization.mean, normalization.std)
        )
        self.mean = mean
        self._inverse_std = std.view(-1, 1, 1).reciprocal()
        self._shift = -self.mean.view(-1, 1, 1) * self._inverse_std
        # Statistics of the batch couple its images: then they are rendered one by one.
        coupled = any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
            for module in net.modules()
        )
        self.batch: int | None = 1 if coupled else None  # images at once, once that is known
        self.net = self._private_copy(net)
        weight = next((p for p in self.net.parameters() if p.is_floating_point()), None)
        self._weight_dtype = self.dtype if weight is None else weight.dtype
        self._cut = CutNetwork(self.net, tuple(dict.fromkeys(self.layers.values())), tuple(inputs))
        self._fast: CutNetwork | None = None  # the network as the ascent runs it
        self._lines: dict[tuple[int, ...], Run | None] = {}

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
        outputs = dict(zip(self._cut.layers, self._run(x, precise, once) if self._cut.layers else (), strict=True))
        found = {asked: outputs[name] for asked, name in self.layers.items()}
        return found if "input" in found else {**found, "input": x if images is None else images}

    def forget_lines(self) -> None:
        """Give back the memory of what was made for batches of a size."""
        self._lines.clear()

    def weights(self) -> list[Tensor]:
        """All tensors that the networks of this extractor consist of."""
        nets = [self.net] if self._fast is None else [self.net, self._fast.net]
        return [tensor for net in nets for tensor in (*net.parameters(), *net.buffers())]

    def _private_copy(self, model: nn.Module) -> nn.Module:
        doubles = [weight.dtype == torch.float64 for weight in model.parameters() if weight.is_floating_point()]
        fits = all(doubles) if self.dtype == torch.float64 else not doubles or not all(doubles)
        return weight_sharing_copy(model).to(self.device, None if fits else self.dtype)

    def _run(self, x: Tensor, precise: bool, once: bool) -> tuple[Tensor, ...]:
        size = tuple(x.shape[1:])
        autocast = self.autocast and not precise and self._weight_dtype == torch.float32
        x = torch.addcmul(self._shift, x, self._inverse_std)
        x = x.to(self._weight_dtype, memory_format=torch.channels_last)
        try:
            net = self._cut if precise or self.dtype == torch.float64 else self._prepared(x[:1].detach(), autocast)
            line = None if net is self._cut else self._line(net, x, autocast, once)
            if line is not None:
                return tuple(line(x))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                return net(x)
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

    def _prepared(self, x: Tensor, autocast: bool) -> CutNetwork:
        """The network made fast at the first step; itself where it cannot be copied."""
        if self._fast is None:
            probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
            self._fast = self._cut.copy()

            def run(net: nn.Module, precise: bool) -> list[Tensor]:
                cut = self._cut.copy()
                cut.net = net
                with (
                    torch.no_grad(),
                    torch.autocast(self.device.type, torch.bfloat16, enabled=autocast and not precise),
                ):
                    return list(cut(probe))

            kind = torch.bfloat16 if autocast else self._weight_dtype
            try:
                self._fast.net = prepared(self.net, run, self.layers.values(), kind)
            except ModelError:
                self._fast = self._cut
        return self._fast

    def _line(self, net: CutNetwork, x: Tensor, autocast: bool, once: bool) -> Run | None:
        """The network for images of this shape as a straight line, made at the first climb; None where it stays as it is."""
        shape = tuple(x.shape)
        fusing = self.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if not x.requires_grad or not (fusing or self.config.compile):
            return None
        if shape not in self._lines and not once:

            def running(net: CutNetwork) -> Run:
                def run(x: Tensor) -> tuple[Tensor, ...]:
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                        return net(x)

                return run

            run, traced = (
                running(net),
                running(net.copy()),
            )  # the copy may keep a tensor of its trace, which has no values
            line = straight_line(run, x, autocast, traced) if fusing else None
            if self.config.compile:
                line = quickest([line or run, compiled_line(run, x, autocast, traced)], x)
            self._lines[shape] = None if line is run else line
        return self._lines.get(shape)


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
        return FeatureExtractor(model, (layer,), config, device)(images)[layer]

    with torch.no_grad():
        score(T)
    return tuple(asked)
