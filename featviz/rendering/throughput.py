"""Render throughput of a network's layer on a device, beside what the network and the device themselves can do.

(network, layer, configuration) -> `Throughput`: time per image and step of `featviz.render` with all set-up counted, that of
the bare trunk (torch's own network, frozen and cut at the layer, forward and input gradient at the same batch, precision and
layout), arithmetic done against the rate of a large matrix product measured here, and peak memory.
"""

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from featviz.config import RenderConfig
from featviz.isolation import copy_of
from featviz.rendering.network.cut_network import resolve_layer
from featviz.rendering.network.feature_extractor import FeatureExtractor, resolve_precision
from featviz.rendering.objectives import channel
from featviz.rendering.optimize.batching import batch_size
from featviz.rendering.render import render, resolve_device, unit_counts

STEPS = 48  # of every image, where the configuration gives none


@dataclass(frozen=True)
class Throughput:
    """Figures of one layer: milliseconds are per image and step of the ascent.

    images, steps: what was rendered; batch: images at once. seconds: of the whole call. milliseconds: seconds over images and
    steps. trunk: the bare trunk's milliseconds. gigaflop: multiply-adds, counted twice, of the trunk's forward and input
    gradient per image. teraflops: of those done per second by the render. rate: teraflops of a large matrix product at this
    precision. peak: bytes of the device's memory at most, None on a CPU. backend: how the network was run, with its rewrites.
    """

    device: str
    precision: str
    images: int
    steps: int
    batch: int
    seconds: float
    milliseconds: float
    trunk: float
    gigaflop: float
    teraflops: float
    rate: float
    peak: int | None
    backend: str

    @property
    def per_second(self) -> float:
        """Renderings per second of this device."""
        return self.images / self.seconds

    @property
    def of_trunk(self) -> float:
        """Time per step over that of the bare trunk."""
        return self.milliseconds / self.trunk


def throughput(
    model: nn.Module,
    layer: str,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    images: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Throughput:
    """Measure one layer, with the same number of steps for every image.

    Args:
        config: where it gives no steps, STEPS are made.
        images: how many units are rendered; None: one full batch.

    Raises:
        UnitError, RenderError, DeviceError: as `render`.
    """
    config = replace(config, steps=STEPS if config.steps is None else config.steps)
    place = resolve_device(device, model)
    layer = resolve_layer(model, layer)
    network = FeatureExtractor(model, (), config, place)
    width, axis = unit_counts(network, [layer])[layer]
    extractor = network.for_layers((layer,))
    batch = batch_size(extractor, channel(layer, [0], axis))
    channels = extractor.channels
    count = batch if images is None else images
    specs = [f"{layer}:{unit % width}" for unit in range(count)]
    batch = min(batch, count)
    precision = resolve_precision(config.precision, place)
    render(model, specs[:batch], replace(config, steps=min(3, config.most_steps)), device=place)  # warm-up
    extractor(torch.rand(batch, channels, *config.input_hw, device=place, dtype=extractor.dtype).requires_grad_())
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    seconds = timed(lambda: render(model, specs, config, device=place, progress=progress), place)
    peak = torch.cuda.max_memory_allocated(place) if place.type == "cuda" else None
    step = bare_trunk(model, layer, (batch, channels, *config.input_hw), precision, place)
    with FlopCounterMode(display=False) as counter:
        step()
    flop = counter.get_total_flops() / batch
    trunk = min(timed(step, place) for _ in range(5)) / batch
    each = seconds / count / max(1, config.most_steps)
    return Throughput(
        torch.cuda.get_device_name(place) if place.type == "cuda" else str(place),
        str(precision).removeprefix("torch."),
        count,
        config.most_steps,
        batch,
        seconds,
        1000 * each,
        1000 * trunk,
        flop / 1e9,
        flop / each / 1e12,
        matrix_rate(precision, place),
        peak,
        str(extractor.report),
    )


class _Reached(Exception):
    """The trunk's end."""


def bare_trunk(
    model: nn.Module, layer: str, shape: tuple[int, ...], precision: torch.dtype, device: torch.device
) -> Callable[[], Tensor]:
    """One step without featviz: forward to the layer and gradient with respect to the images, weights frozen, channels_last."""
    net = copy_of(model).to(device).eval().requires_grad_(False)
    net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    if precision == torch.float64:
        net = net.double()
    found: list[Tensor] = []

    def reach(module: nn.Module, inputs: object, output: Tensor) -> None:
        del module, inputs
        found[:] = [output]
        raise _Reached

    net.get_submodule(layer).register_forward_hook(reach)
    dtype = torch.float64 if precision == torch.float64 else torch.float32
    x = torch.rand(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)

    def step() -> Tensor:
        with autocast, contextlib.suppress(_Reached):
            net(x)
        rows = torch.arange(len(x), device=device)
        units = rows % found[0].shape[1]
        x.grad = None
        found[0][rows, units].float().sum().backward()  # the flop counter cannot follow autograd.grad
        assert x.grad is not None
        return x.grad

    return step


def matrix_rate(precision: torch.dtype, device: torch.device) -> float:
    """Teraflops of a large square matrix product at this precision: what the device's arithmetic gives at best."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.rand(side, side, device=device).to(precision)
    timed(lambda: a @ a, device)
    return 2 * side**3 / min(timed(lambda: a @ a, device) for _ in range(5)) / 1e12


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the device's work included."""
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
