"""Activations of a network's layers for images, and their gradient with respect to the images alone.

images (unit, c, h, w) in [0, 1] -> {layer: activation}. The network is a private copy that shares its weights with the
caller's, in evaluation mode and with frozen weights; it stops as soon as the layers are known.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.data import device_of
from featviz.errors import FeatvizError
from featviz.failures import machine_failed
from featviz.isolation import weight_sharing_copy
from featviz.rendering.backends.backend import Backend, BackendReport
from featviz.rendering.backends.cuda_graph import CudaGraph
from featviz.rendering.backends.eager import EagerBackend
from featviz.rendering.backends.traced_graph import TracedGraph
from featviz.rendering.network.cut_network import CutNetwork, check_can_be_cut, is_input, resolve_layer, uncompiled
from featviz.rendering.network.failures import explained
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
        config: everything that is made with this extractor follows it.
        device: where to run; None: where the model is.
        inputs: what the network takes after the images, the same for all: tensors (of any device, repeated for every image
            where the first axis is 1) and other values.

    Attributes:
        channels: of the images.
        dtype: of images and scores, float32 or float64.
        mean: (channels,), the color that the network is fed as 0.

    Raises:
        UnitError: a layer that the network does not have or does not call; the nearest names are given.
        ModelError: a network that cannot be copied or is scripted, whose weights are lazy, or that takes something else than
            images and `inputs`; a layer whose output holds no tensor.
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
        own = uncompiled(subject.model)
        check_can_be_cut(own)
        self.config = config
        self.device = device_of(own) if device is None else device
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.channels = input_channels(subject, config)
        normalization = input_normalization(subject, config, self.channels)
        self.mean, std = (
            torch.tensor(values, dtype=self.dtype, device=self.device)
            for values in (normalization.mean, normalization.std)
        )
        self._inverse_std = std.view(-1, 1, 1).reciprocal()
        self._shift = -self.mean.view(-1, 1, 1) * self._inverse_std
        # Statistics of the batch couple its images: then they are rendered one by one.
        coupled = any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
            for module in own.modules()
        )
        self.batch: int | None = 1 if coupled else None  # images at once, once that is known
        doubles = [weight.dtype == torch.float64 for weight in own.parameters() if weight.is_floating_point()]
        fits = all(doubles) if self.dtype == torch.float64 else not doubles or not all(doubles)
        self.net = weight_sharing_copy(own).to(self.device, None if fits else self.dtype)
        weight = next((weight for weight in self.net.parameters() if weight.is_floating_point()), None)
        self._fed_dtype = self.dtype if weight is None else weight.dtype
        moved = (self._on_device(value) for value in inputs)
        self._look_at(layers, CutNetwork(self.net, (), tuple(moved)))

    def for_layers(self, layers: Iterable[str]) -> "FeatureExtractor":
        """An extractor of other layers from the same private copy of the network."""
        made = copy.copy(self)
        made._look_at(layers, self._network)
        return made

    def with_config(self, config: RenderConfig) -> "FeatureExtractor":
        """An extractor of the same layers and copy for images of another size; config differs in nothing that was read."""
        made = copy.copy(self)
        made.config = config
        return made

    def __call__(
        self, x: Tensor, images: Tensor | None = None, precise: bool = False, once: bool = False
    ) -> dict[str, Tensor]:
        """Activations by layer name (as it was asked for) of what the network is fed.

        Args:
            x: (unit, c, h_in, w_in) in [0, 1]; normalised here.
            images: what "input" shall be where x has been warped; None: x itself.
            precise: by the eager backend, without autocast.
            once: few more images of this shape will follow: nothing is made ready for them.
        """
        outputs = dict(zip(self._network.layers, self._outputs(x, precise, once), strict=True))
        found = {asked: outputs[name] for asked, name in self.layers.items()}
        return found if "input" in found else {**found, "input": x if images is None else images}

    @property
    def report(self) -> BackendReport:
        """How the network is run; for a traced graph known once a batch with gradient has run."""
        return self.backend.report

    def _look_at(self, layers: Iterable[str], network: CutNetwork) -> None:
        self.layers = {name: resolve_layer(self.net, name) for name in layers if not is_input(self.net, name)}
        self._network = network.cut_at(tuple(dict.fromkeys(self.layers.values())))
        self._precise = EagerBackend(self._network, self.device, autocast=False)
        self.backend = self._fastest_backend()

    def _fastest_backend(self) -> Backend:
        bfloat16 = resolve_precision(self.config.precision, self.device) == torch.bfloat16
        autocast = bfloat16 and self._fed_dtype == torch.float32
        if self.config.backend == "eager":
            return EagerBackend(self._network, self.device, autocast, "asked for")
        if self.device.type not in ("cpu", "cuda"):
            return EagerBackend(self._network, self.device, autocast, f"no rewrite is known for {self.device.type}")
        fastest = CudaGraph if self.device.type == "cuda" else TracedGraph
        return fastest(self._network, self.device, autocast, exact=self.dtype == torch.float64)

    def _outputs(self, x: Tensor, precise: bool, once: bool) -> tuple[Tensor, ...]:
        if not self._network.layers:
            return ()
        fed = torch.addcmul(self._shift, x, self._inverse_std)
        fed = fed.to(self._fed_dtype, memory_format=torch.channels_last)
        try:
            return (self._precise if precise else self.backend)(fed, once)
        except FeatvizError:
            raise
        except Exception as error:
            if machine_failed(error):
                raise
            raise explained(self._network, fed.detach(), error) from error

    def _on_device(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().to(self.device, self._fed_dtype if value.is_floating_point() else None)


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
    score: Callable[[Callable[[str], Tensor]], Any], extractor: FeatureExtractor, images: Tensor
) -> tuple[str, ...]:
    """The layers that a callable on T(layer) asks for, by running it once on images (unit, c, h_in, w_in)."""
    asked: dict[str, Tensor] = {}

    def T(layer: str) -> Tensor:
        if layer not in asked:
            asked[layer] = extractor.for_layers((layer,))(images, precise=True)[layer]
        return asked[layer]

    with torch.no_grad():
        score(T)
    return tuple(asked)
