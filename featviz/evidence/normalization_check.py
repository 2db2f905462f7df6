"""Which normalization of the input was a network trained with? What its outputs and BatchNorm layers say on images.

network, images in [0, 1], candidates -> per candidate: how sure the outputs are, how many are right where there are labels, and
how far the inputs of the BatchNorm layers are from their running statistics. The right normalization has the smallest distance
and, of a classifier, the surest and most often right outputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featviz.data import Data, device_of
from featviz.errors import DataError
from featviz.isolation import weight_sharing_copy
from featviz.moments import Moments, samples_of
from featviz.subjects import IMAGENET_MEAN, IMAGENET_STD, Normalization, Subject, as_subject, input_normalization

Norm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class NormalizationCheck:
    """What a network says of one normalization, on images.

    confidence: the mean over images of the largest softmax probability, 0 to 1; None where outputs are not (image, class).
    accuracy: percent of right outputs; None without labels.
    distance: the mean over BatchNorm channels of the Kullback-Leibler divergence, in nats, of a normal distribution with the
        running mean and variance from one with those of the data; None without BatchNorm.
    images: how many were seen.
    """

    normalization: Normalization
    confidence: float | None
    accuracy: float | None
    distance: float | None
    images: int

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        return {**asdict(self), "normalization": self.normalization.record()}


def candidate_normalizations(model: nn.Module | Subject, channels: int = 3) -> dict[str, Normalization]:
    """The network's own normalization, and the usual ones that differ from it, by name."""
    own = input_normalization(model, channels=channels)
    usual = {
        "0.5, 0.5": Normalization((0.5,) * channels, (0.5,) * channels, "usual"),
        "none": Normalization((0.0,) * channels, (1.0,) * channels, "usual"),
    }
    if channels == 3:
        usual = {"ImageNet's": Normalization(IMAGENET_MEAN, IMAGENET_STD, "usual"), **usual}
    return {"in use": own, **{name: other for name, other in usual.items() if not other.same_values(own)}}


def check_normalization(
    model: nn.Module | Subject, data: Data, candidates: Mapping[str, Normalization] | None = None
) -> dict[str, NormalizationCheck]:
    """Measure a network on images under several normalizations of its input.

    Args:
        data: batches `x` or `(x, label)` of images (batch, channels, h, w) in [0, 1]; iterated once. Labels count
            where they are numbers of the network's outputs.
        candidates: by name; None: `candidate_normalizations`.

    Raises:
        DataError: no batch, or images with values outside [0, 1].
    """
    subject = as_subject(model)
    network = weight_sharing_copy(subject.model)
    device = device_of(network)
    watched: dict[str, _Watch] = {}
    with torch.no_grad():
        for batch in data:
            x, *rest = [batch] if isinstance(batch, Tensor) else batch
            if x.min() < 0 or x.max() > 1:
                raise DataError(
                    f"the images have values from {x.min():.3g} to {x.max():.3g}: give images in [0, 1], not normalized."
                )
            if candidates is None:
                candidates = candidate_normalizations(subject, x.shape[1])
            for name, normalization in candidates.items():
                watch = watched.setdefault(name, _Watch(network, normalization))
                watch.see(x.to(device), rest[0].to(device) if rest else None)
    if not watched:
        raise DataError("the data have no batch: give images (a generator serves only once).")
    return {name: watch.result() for name, watch in watched.items()}


class _Watch:
    """The sums for one candidate."""

    def __init__(self, network: nn.Module, normalization: Normalization) -> None:
        self._network, self._normalization = network, normalization
        self._norms = [m for m in network.modules() if isinstance(m, Norm) and m.running_mean is not None]
        self._moments = [Moments(dtype=torch.float32) for _ in self._norms]
        self._confidence = self._right = 0.0
        self._images, self._classifies, self._labelled = 0, True, True

    def see(self, x: Tensor, labels: Tensor | None) -> None:
        """Run the network on a batch of images in [0, 1]."""
        handles = [
            norm.register_forward_pre_hook(_recorder(own)) for norm, own in zip(self._norms, self._moments, strict=True)
        ]
        try:
            output = self._network(self._normalization(x))
        finally:
            for handle in handles:
                handle.remove()
        self._images += len(x)
        self._classifies &= isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1
        self._labelled &= self._classifies and labels is not None and bool(labels.max() < output.shape[1])
        if self._classifies:
            self._confidence += output.softmax(1).amax(1).sum().item()
        if self._labelled:
            self._right += (output.argmax(1) == labels).sum().item()

    def result(self) -> NormalizationCheck:
        """The means over all images."""
        distances = [
            _divergence(own.mean(0), own.variance(0), norm)
            for norm, own in zip(self._norms, self._moments, strict=True)
            if own.count
        ]
        return NormalizationCheck(
            self._normalization,
            self._confidence / self._images if self._classifies else None,
            100 * self._right / self._images if self._labelled else None,
            float(torch.cat(distances).mean()) if distances else None,
            self._images,
        )


def _recorder(moments: Moments) -> Callable[[nn.Module, Any], None]:
    """A hook that takes in the input of a BatchNorm layer."""

    def record(module: nn.Module, args: Any) -> None:
        del module
        moments.add(samples_of(args[0], 1))

    return record


def _divergence(mean: Tensor, variance: Tensor, norm: Norm) -> Tensor:
    """KL(data || running statistics) of normal distributions, per channel, with the norm's own epsilon."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    expected = norm.running_var.to(variance) + norm.eps
    ratio = (variance + norm.eps) / expected
    shift = (mean - norm.running_mean.to(mean)).square() / expected
    return 0.5 * (ratio + shift - 1 - ratio.log())


def best_normalization(checks: Mapping[str, NormalizationCheck]) -> str | None:
    """The candidate that fits best, by accuracy where there are labels, else by BatchNorm, else by confidence.

    A candidate other than the first, which is in use, is named only where it is better by more than noise: by 1 point of
    accuracy, a tenth of the distance, or a tenth of what is missing to full confidence. None: there is no measure.
    """
    used = next(iter(checks))
    for measure, sign in (("accuracy", 1), ("distance", -1), ("confidence", 1)):
        values = {name: getattr(check, measure) for name, check in checks.items()}
        if None in values.values():
            continue
        least = {"accuracy": 1.0, "distance": values[used] / 10, "confidence": (1 - values[used]) / 10}[measure]
        best = max(values, key=lambda name: sign * values[name])
        return best if sign * (values[best] - values[used]) > least else used
    return None
