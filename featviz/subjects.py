"""Subjects: a network with its name and its own input normalization.

Data are images in [0, 1], and every subject normalizes them for itself: (image - mean) / std, per channel. The values are the
first that are there of: those given with the `Subject`, those of the call (`RenderConfig.mean`), those that its loader
remembered (weights by name), the model's own `mean` and `std`, timm's `pretrained_cfg` or `default_cfg`. Otherwise ImageNet's
are assumed for 3 channels, which is logged once per class of networks, and none for other numbers of channels.

>>> subject = as_subject(nn.Conv2d(1, 8, 3), "A")
>>> input_normalization(subject).record()
{'mean': [0.0], 'std': [1.0], 'source': 'none: images are fed as they are'}
"""

import logging
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.data import Data, inputs_of
from featviz.errors import DataError, ModelError, RenderError
from featviz.isolation import weight_sharing_copy

log = logging.getLogger("featviz")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GIVEN = "given with the subject"
ASSUMED = "assumed: ImageNet's, since the network does not tell its own"
_REMEMBERED = "_featviz_normalization"  # attribute of a network, which its copies keep
_said: weakref.WeakSet[type] = weakref.WeakSet()  # classes of networks for which the assumption was logged


@dataclass(frozen=True)
class Normalization:
    """(image - mean) / std of images in [0, 1], one value per channel, and where the values came from."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str

    def __call__(self, images: Tensor) -> Tensor:
        """What the network is fed for images (batch, channels, h, w) in [0, 1]."""
        mean, std = (torch.tensor(values, device=images.device, dtype=images.dtype) for values in (self.mean, self.std))
        return (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)

    def same_values(self, other: "Normalization") -> bool:
        """Whether both normalize alike, wherever the values came from."""
        ours, theirs = (*self.mean, *self.std), (*other.mean, *other.std)
        return len(ours) == len(theirs) and all(abs(x - y) < 1e-6 for x, y in zip(ours, theirs, strict=True))

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        return {"mean": list(self.mean), "std": list(self.std), "source": self.source}


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, its name in panels and messages, and the normalization that it was trained with.

    `featviz.Subject(model, mean=..., std=...)` is taken wherever a model is taken.

    Args:
        model: any module on images (batch, channels, h, w).
        name: in panels, files and messages; None: given by the function that takes the subject.
        mean, std: per channel, of images in [0, 1]; both or neither. None: see the module's docstring.

    Raises:
        ModelError: `model` is no network. RenderError: only one of mean and std, or values that are not usable.
    """

    model: nn.Module
    name: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            kind = type(self.model).__name__
            raise ModelError(f"an object of type {kind} is no network: give a torch.nn.Module or a featviz.Subject.")
        if self.mean is None and self.std is None:
            return
        checked = _checked(self.mean, self.std, None, GIVEN)
        object.__setattr__(self, "mean", checked.mean)  # plain floats in place of an array's or a tensor's
        object.__setattr__(self, "std", checked.std)


def as_subject(model: nn.Module | Subject, name: str | None = None) -> Subject:
    """A subject as it is, or a network as a subject; `name` is used where it has none.

    Raises:
        ModelError: neither a network nor a subject.
    """
    if not isinstance(model, Subject):
        return Subject(model, name)
    return replace(model, name=name) if model.name is None and name is not None else model


Subjects = Mapping[str, nn.Module | Subject] | Sequence[Subject]


def named_subjects(subjects: Subjects) -> dict[str, Subject]:
    """Subjects by name, in order: the keys of a mapping are the names, those of a sequence bring their own.

    Raises:
        RenderError: no subject, one without a name, or two of one name.
    """
    pairs = (
        [(name, as_subject(subject, name)) for name, subject in subjects.items()]
        if isinstance(subjects, Mapping)
        else [(subject.name, subject) for subject in map(as_subject, subjects)]
    )
    if not pairs:
        raise RenderError("there is no subject to render: give at least one network.")
    found: dict[str, Subject] = {}
    for name, subject in pairs:
        if not name:
            raise RenderError("a subject has no name: give subjects={'A': model, ...} or Subject(model, name='A').")
        if name in found:
            raise RenderError(f"two subjects are called {name!r}: give each its own name.")
        found[name] = subject
    return found


def common_channels(subjects: Mapping[str, Subject], config: RenderConfig | None = None) -> int:
    """Channels of the images that all subjects take.

    Raises:
        RenderError: they take different numbers of channels.
    """
    channels = {name: input_channels(subject, config) for name, subject in subjects.items()}
    if len(set(channels.values())) > 1:
        told = ", ".join(f"{name} {number}" for name, number in channels.items())
        raise RenderError(
            f"the networks take images of other numbers of channels ({told}): render them in panels of their own."
        )
    return next(iter(channels.values()))


def remember_normalization(model: nn.Module, mean: Sequence[float], std: Sequence[float], source: str) -> None:
    """Keep with a network, and with its copies, how its input is normalized and who says so (weights by name).

    Raises:
        RenderError: values that are not usable.
    """
    object.__setattr__(model, _REMEMBERED, _checked(mean, std, None, source))


def remember_given(model: nn.Module, subject: Subject) -> None:
    """Keep with a network the mean and std that a subject brings, where it brings any."""
    if subject.mean is not None and subject.std is not None:
        remember_normalization(model, subject.mean, subject.std, GIVEN)


def with_normalization_of(subject: Subject, config: RenderConfig) -> Subject:
    """The subject with the mean and std of a config, where it brings none."""
    return subject if subject.mean is not None else replace(subject, mean=config.mean, std=config.std)


def network_of(model: nn.Module | Subject) -> nn.Module:
    """The network of a subject; where the subject brings mean and std, a copy that shares the weights and remembers them.

    Raises:
        ModelError: neither a network nor a subject, or a network that cannot be copied.
    """
    subject = as_subject(model)
    if subject.mean is None or subject.std is None:
        return subject.model
    network = weight_sharing_copy(subject.model)
    network.train(subject.model.training)
    remember_given(network, subject)
    return network


def input_channels(model: nn.Module | Subject, config: RenderConfig | None = None) -> int:
    """Channels of the images that a network takes.

    The first of: the number of values of the subject's mean, or of `config.mean`; `in_channels` of the first convolution;
    `in_features` of a first linear layer over the pixels of the config's input; 3.
    """
    subject = as_subject(model)
    for mean in (subject.mean, None if config is None else config.mean):
        if mean is not None:
            return len(mean)
    for module in subject.model.modules():
        channels = getattr(module, "in_channels", None)
        if isinstance(channels, int) and isinstance(getattr(module, "weight", None), Tensor):
            return channels
        if isinstance(module, nn.Linear) and config is not None:
            pixels = config.input_hw[0] * config.input_hw[1]
            return module.in_features // pixels if module.in_features % pixels == 0 else 3
    return 3


def input_normalization(
    model: nn.Module | Subject, config: RenderConfig | None = None, channels: int | None = None
) -> Normalization:
    """How the input of a network is normalized; the module's docstring gives the order in which it is looked for.

    Args:
        config: its mean and std are for every subject that brings none.
        channels: of the images; None: `input_channels`.

    Raises:
        RenderError: given values of another number than `channels`, only one of mean and std, or values that cannot belong
            to images in [0, 1].
    """
    channels = input_channels(model, config) if channels is None else channels
    known = known_normalization(model, config, channels)
    if known is not None:
        return known
    if channels != 3:
        return as_they_are(channels)
    _say_assumed(as_subject(model).model)
    return Normalization(IMAGENET_MEAN, IMAGENET_STD, ASSUMED)


def as_they_are(channels: int) -> Normalization:
    """Of images that a network is fed unchanged."""
    return Normalization((0.0,) * channels, (1.0,) * channels, "none: images are fed as they are")


def known_normalization(
    model: nn.Module | Subject, config: RenderConfig | None = None, channels: int | None = None
) -> Normalization | None:
    """As `input_normalization`, but None where nothing tells it, so that it would be assumed."""
    subject = as_subject(model)
    network = subject.model
    channels = input_channels(subject, config) if channels is None else channels
    if subject.mean is not None:
        return _checked(subject.mean, subject.std, channels, GIVEN)
    if config is not None and (config.mean is not None or config.std is not None):
        return _checked(config.mean, config.std, channels, "given with the call")
    remembered = getattr(network, _REMEMBERED, None)
    if isinstance(remembered, Normalization) and len(remembered.mean) == channels:
        return remembered
    for source, holder in (
        ("the model's mean and std", network),
        ("timm's pretrained_cfg", getattr(network, "pretrained_cfg", None)),
        ("timm's default_cfg", getattr(network, "default_cfg", None)),
    ):
        mean, std = (_numbers(_entry(holder, name)) for name in ("mean", "std"))
        if mean and std and len(mean) == len(std) == channels:
            return _checked(mean, std, channels, source)
    return None


def normalized_inputs(
    data: Data, subjects: Sequence[nn.Module | Subject], device: torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """The batches of `data` on a device, each as every one of the subjects is fed it.

    Images (batch, channels, h, w) whose first batch lies in [0, 1] are normalized for each subject; subjects of one
    normalization get one tensor. A first batch with values outside [0, 1] is taken for normalized already: the data are fed as
    they are, which is logged. So are data that are no images (other than four axes, or integers other than uint8).

    Raises:
        DataError: images of uint8 or of 0 to 255, or normalized already although the subjects differ in their normalization.
        RenderError: as `input_normalization`.
    """
    given = [as_subject(subject) for subject in subjects]
    normalizations: list[Normalization] | None = None
    for number, x in enumerate(inputs_of(data, device)):
        if number == 0:
            normalizations = _of_images(x, given)
        if normalizations is None:
            yield (x,) * len(given)
            continue
        made: list[tuple[Normalization, Tensor]] = []
        for normalization in normalizations:
            if not any(normalization.same_values(other) for other, _ in made):
                made.append((normalization, normalization(x)))
        yield tuple(next(fed for other, fed in made if other.same_values(own)) for own in normalizations)


def _of_images(x: Tensor, subjects: Sequence[Subject]) -> list[Normalization] | None:
    """How each subject normalizes data that begin with this batch; None where they are fed as they are."""
    if x.ndim == 4 and x.dtype == torch.uint8:
        raise DataError("the data are uint8 images: give floats in [0, 1], the values divided by 255.")
    if x.ndim != 4 or not x.is_floating_point() or not x.numel():
        return None
    normalizations = [input_normalization(subject, channels=x.shape[1]) for subject in subjects]
    low, high = x.min().item(), x.max().item()
    if low >= 0 and high > 20:
        raise DataError(
            f"the data have values from {low:.3g} to {high:.3g}, as images of 0 to 255 have: divide them by 255."
        )
    if low >= 0 and high <= 1:
        return normalizations
    if not all(other.same_values(normalizations[0]) for other in normalizations):
        raise DataError(
            f"the data have values from {low:.3g} to {high:.3g}, normalized already, but the networks are normalized in "
            "different ways: give images in [0, 1]."
        )
    log.warning("the data have values from %.3g to %.3g: taken for normalized already, and fed as they are.", low, high)
    return None


def _checked(mean: Any, std: Any, channels: int | None, source: str) -> Normalization:
    if mean is None or std is None:
        raise RenderError("mean and std belong together: give both, or neither.")
    found = {}
    for name, given in (("mean", mean), ("std", std)):
        values = _numbers(given)
        if not values:
            raise RenderError(f"{name} is {given!r}: give finite numbers, one per channel.")
        if max(values) > 1.5:
            scaled = ", ".join(f"{value / 255:.3g}" for value in values)
            raise RenderError(
                f"{name} is {_shown(values)} ({source}), but images are in [0, 1]: did you mean {scaled}, divided by 255?"
            )
        found[name] = values
    mean, std = found["mean"], found["std"]
    if len(mean) != len(std) or channels not in (None, len(mean)):
        takes = "" if channels is None else f", the network takes {channels} channels"
        raise RenderError(f"mean has {len(mean)} values and std {len(std)}{takes}: give one per channel.")
    if min(std) <= 0:
        raise RenderError(f"std is {_shown(std)}: each value must be positive.")
    return Normalization(mean, std, source)


def _say_assumed(model: nn.Module) -> None:
    if type(model) not in _said:
        _said.add(type(model))
        log.warning(
            "%s does not tell how its input is normalized: ImageNet's mean and std are assumed. Give mean and std, if it was "
            "trained with others.",
            type(model).__name__,
        )


def _entry(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _numbers(values: Any) -> tuple[float, ...] | None:
    """Finite numbers, one or more, of a tuple, list, array or tensor; None where they are none."""
    if not isinstance(values, (tuple, list)) and not hasattr(values, "__array__"):
        return None
    if isinstance(values, (tuple, list)) and all(isinstance(value, (int, float)) for value in values):
        return tuple(map(float, values)) if values and all(map(math.isfinite, values)) else None
    try:
        found = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach().flatten()
    except (TypeError, ValueError, RuntimeError):
        return None
    return tuple(found.tolist()) if len(found) and found.isfinite().all() else None


def _shown(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
