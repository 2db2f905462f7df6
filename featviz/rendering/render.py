"""Rendering in one network: what is asked for -> images.

`render(model, "layer3.1.conv2:0-15")` renders sixteen units; an `Objective` or a lucid-style callable renders
whatever it scores.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.data import device_of
from featviz.errors import DeviceError, RenderError, UnitError
from featviz.isolation import ordinary_modes
from featviz.rendering.network.cut_network import resolve_layer
from featviz.rendering.network.feature_extractor import FeatureExtractor, recorded_layers
from featviz.rendering.objectives import Neuron, Objective, as_objective, channel, units_first
from featviz.rendering.optimize.batching import memory_of
from featviz.rendering.optimize.loop import Progress, ascend
from featviz.rendering.optimize.renderings import Renderings
from featviz.rendering.optimize.restarts import starts_with_gradient, warn_of_dead_units
from featviz.rendering.receptive_field import at_receptive_field
from featviz.rendering.robustness.presets import Robustness, seeded_robustness
from featviz.rendering.robustness.seeded_transform import SeededTransform
from featviz.subjects import Subject, as_subject
from featviz.units import format_unit, parse_units
from featviz.weights.checks import check_finite

What = str | Sequence[str] | Objective | Callable[[Callable[[str], Tensor]], Tensor]


@ordinary_modes
def render(
    model: nn.Module | Subject,
    what: What,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    *,
    device: torch.device | str | None = None,
    robustness: Robustness | None = None,
    progress: Progress | None = None,
    axis: int | None = None,
    images: int | None = None,
    canvas: str = "full",
    inputs: Sequence[Any] = (),
) -> Renderings:
    """Render units or an objective in one network, which is neither run nor changed: a copy on its weights is.

    >>> render(model, "layer3.1.conv2:0-15", RenderConfig(size=224)).images.shape  # doctest: +SKIP
    torch.Size([16, 3, 224, 224])

    A unit without a gradient at its start is tried with `config.restarts` other starts, and reported by a
    warning and in `Renderings.dead` where none helps.

    Args:
        model: a network on images (batch, c, h, w), or a `Subject`.
        what: "layer:17", "layer:0-15", "layer" (all its units), a list of such; an `Objective`; or any lucid-
            or lucent-style callable on T(layer) that gives a loss to minimise.
        device: "cuda", "cuda:1", "cpu", ...; None: where the model is.
        robustness: the random transforms of the images; None: `config.robustness`. A preset's name, a kornia augmentation or
            `AugmentationSequential`, or any differentiable callable from images (unit, c, h, w) in [0, 1] to what the network
            is fed. What it draws from the global generators follows from the unit's seed and the step.
        progress: called after each step with (steps done, steps to do), one per image and step; units of
            several layers are counted in turn.
        axis: the axis of the units in the layer's output; None: 1, or the last one of tokens and of a linear
            layer or LayerNorm.
        images: how many images to make for an objective that does not prescribe it; None: 1.
        canvas: "full", or "receptive_field": of a `neuron` objective only what the unit sees of an image of `config.size`,
            measured from the network; the images have that smaller size.
        inputs: what the network takes after the images, the same in every step: tensors, repeated for every image where their
            first axis is 1, and other values.

    Raises:
        UnitError: a layer or unit that the network does not have.
        RenderError: a size that the network cannot take, something that is no objective, or no neuron where its receptive
            field is asked for.
        ModelError: NaN among the weights, a network that cannot be copied, one that takes something else than images and
            `inputs`.
        DeviceError: a device that is not there.
    """
    subject = as_subject(model)
    if canvas not in ("full", "receptive_field"):
        raise RenderError(f"canvas is {canvas!r}: use 'full' or 'receptive_field'.")
    network = FeatureExtractor(subject, (), config, resolve_device(device, subject.model), inputs)
    check_finite(network.net, subject.name or "the network")
    if canvas == "receptive_field":
        if not isinstance(what, Neuron):
            raise RenderError("canvas='receptive_field' is for one position: give a neuron(layer, units) objective.")
        what, small = at_receptive_field(network.for_layers((what.layer,)), what)
        network = network.with_config(small)
    transform = seeded_robustness(robustness, network.config, network.channels)
    if isinstance(what, (str, Sequence)):
        return _render_units(network, [what] if isinstance(what, str) else what, transform, progress, axis)
    objective = as_objective(what)
    count = objective.images or images or 1
    if images not in (None, count):
        raise RenderError(f"the objective is for {count} images, not for {images}: leave out images.")
    layers = objective.layers
    if layers is None:
        with memory_of(count, network):
            layers = recorded_layers(objective.score, network, _gray(network, count))
    extractor = network.for_layers(layers)
    keys = _keys(extractor, objective, count)
    units = objective.image_units
    names = [f"image {number}" for number in range(count)] if units is None else [format_unit(*unit) for unit in units]
    return _render(extractor, objective, keys, names, transform, progress)


def _keys(extractor: FeatureExtractor, objective: Objective, count: int) -> list[Hashable]:
    """Of the seeds: the unit that an image is for, as where it is asked for by name; a unit that comes again gets another."""
    if objective.image_units is None:
        return [("objective", number) for number in range(count)]
    times: Counter[tuple[str, int]] = Counter()
    keys: list[Hashable] = []
    for layer, unit in objective.image_units:
        key = (extractor.layers.get(layer, layer), unit)
        keys.append((*key, times[key]) if times[key] else key)
        times[key] += 1
    return keys


def _render_units(
    network: FeatureExtractor,
    specs: Sequence[str],
    transform: SeededTransform | None,
    progress: Progress | None,
    axis: int | None,
) -> Renderings:
    """Units of any layers: one ascent per layer, results in the order asked for."""
    parsed = [(resolve_layer(network.net, spec.layer), spec.channels) for spec in map(parse_units, specs)]
    widths = unit_counts(network, [layer for layer, _ in parsed], axis)
    asked: list[tuple[str, int]] = []
    for layer, channels in parsed:
        width, _ = widths[layer]
        for unit in range(width) if channels is None else channels:
            if unit >= width:
                raise UnitError(f"{layer} has no unit {unit}: its units are 0 to {width - 1}.")
            asked.append((layer, unit))
    if not asked:
        raise RenderError("there is no unit to render: name at least one, for example layer3.1.conv2:17.")
    parts: list[Renderings] = []
    order: list[int] = []
    for layer in dict.fromkeys(layer for layer, _ in asked):
        keys = [key for key in asked if key[0] == layer]
        order += [row for row, key in enumerate(asked) if key[0] == layer]
        extractor = network.for_layers((layer or "labels",))
        objective = channel(layer or "labels", [unit for _, unit in keys], widths[layer][1])
        names = [format_unit(*key) for key in keys]
        parts.append(_render(extractor, objective, keys, names, transform, progress))
    return Renderings.join(parts).select(sorted(range(len(asked)), key=order.__getitem__))


def _render(
    extractor: FeatureExtractor,
    objective: Objective,
    keys: Sequence[Any],
    names: Sequence[str],
    transform: SeededTransform | None,
    progress: Progress | None,
) -> Renderings:
    """Start where the units have a gradient, ascend, and report the dead."""
    starts = starts_with_gradient([(extractor, objective)], keys, transform)
    renderings = ascend(extractor, objective, starts, transform, progress)
    dead = [name for name, flag in zip(names, renderings.dead.tolist(), strict=True) if flag]
    warn_of_dead_units(dead, extractor.config, stacklevel=4)
    return renderings


def layer_width(
    model: nn.Module | Subject,
    layer: str,
    config: RenderConfig,
    device: torch.device | None = None,
    axis: int | None = None,
) -> tuple[int, int | None]:
    """How many units a layer's output has for images of the config's size, and on which axis they are; see `unit_counts`."""
    return unit_counts(FeatureExtractor(model, (), config, device), [layer], axis)[layer]


def unit_counts(
    network: FeatureExtractor, layers: Sequence[str], axis: int | None = None
) -> dict[str, tuple[int, int | None]]:
    """How many units the outputs of layers have, and on which axis they are: by one forward pass of one gray image.

    The axis is the one given, or the last for linear layers and LayerNorms, or None: that of `channel`.

    Args:
        network: of any layers.
        layers: dotted module names, "" for the network's own output.
    """
    modules = dict(network.net.named_modules(remove_duplicate=False))
    asked = {layer: layer or "labels" for layer in layers}
    with memory_of(1, network), torch.no_grad():
        activations = network.for_layers(asked.values())(_gray(network, 1), precise=True)
    found: dict[str, tuple[int, int | None]] = {}
    for layer, name in asked.items():
        last = axis is None and isinstance(modules[layer], (nn.Linear, nn.LayerNorm))
        own = -1 if last else axis
        found[layer] = units_first(activations[name], own).shape[1], own
    return found


def _gray(network: FeatureExtractor, count: int) -> Tensor:
    """Images of the size that the network is fed, all 1/2."""
    shape = (count, network.channels, *network.config.input_hw)
    return torch.full(shape, 0.5, device=network.device, dtype=network.dtype)


def resolve_device(device: torch.device | str | None, model: nn.Module | None = None) -> torch.device:
    """The device asked for; None: where the model is, the CPU without one.

    Raises:
        DeviceError: it is not there, or there is no device of that name.
    """
    if device is None:
        return torch.device("cpu") if model is None else device_of(model)
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"{device!r} is no device: use 'cpu', 'cuda' or 'cuda:1'.") from error
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise DeviceError(f"{place} is not there: this machine has no CUDA device; use device='cpu'.")
        if place.index is not None and place.index >= count:
            raise DeviceError(f"{place} is not there: this machine has cuda:0 to cuda:{count - 1}.")
        return torch.device("cuda", torch.cuda.current_device() if place.index is None else place.index)
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("mps is not there: this machine has no Metal device; use device='cpu'.")
    return place
