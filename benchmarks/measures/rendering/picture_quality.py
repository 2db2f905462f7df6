"""What a picture is worth beyond the score that it was made for.

images (unit, 3, h, w) in [0, 1], in the order of some units -> a figure per unit. Activations are counted on a scale of the
unit's own: 0 is its mean over natural images, 1 its best natural image.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from featviz.config import RenderConfig
from featviz.evidence.layer_means import layer_means
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import channel
from featviz.rendering.optimize.loop import score_images
from measures.rendering.real_networks import RealNetwork

Scales = Mapping[tuple[str, str], tuple[Tensor, Tensor]]
DARK = 0.02  # a channel of a pixel within this of 0 or 1 is saturated


def natural_scales(network: RealNetwork, layers: Sequence[str] | None = None) -> Scales:
    """(subject, layer) -> mean and largest activation of every unit over the natural images, (unit,) each.

    Args:
        layers: None: the network's three.
    """
    subjects = {"own": network.subject} | ({"other": network.other} if network.other else {})
    found = layer_means(
        subjects, dict.fromkeys(network.layers if layers is None else layers), list(network.natural.split(100))
    )
    return {key: (means.mean(0).float(), means.amax(0).float()) for key, means in found.items()}


def activation(network: RealNetwork, scales: Scales, layer: str, units: list[int], images: Tensor, by: str) -> Tensor:
    """(unit,) on the unit's natural scale, without transforms, of image i for unit `units[i]`; `by` "own" or "other"."""
    subject = network.subject if by == "own" else network.other
    assert subject is not None
    extractor = FeatureExtractor(subject, (layer,), RenderConfig(size=images.shape[-1], precision="float32"))
    mean, best = (values[units] for values in scales[by, layer])
    return (score_images(extractor, channel(layer, units), images) - mean) / (best - mean)


def unseen_transforms(images: Tensor) -> list[Tensor]:
    """The images mirrored, blurred, with 60 % of the contrast, and with noise: nothing that an ascent was made robust to."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return [images.flip(-1), blurred, 0.5 + 0.6 * (images - 0.5), (images + 0.06 * noise).clamp(0, 1)]


def high_frequencies(images: Tensor) -> Tensor:
    """(unit,) share of the energy, the mean taken off, beyond half the Nyquist frequency on either axis."""
    height, width = images.shape[-2:]
    power = torch.fft.fft2(images - images.mean((-2, -1), keepdim=True)).abs().square().sum(1)
    high = torch.fft.fftfreq(height).abs()[:, None].maximum(torch.fft.fftfreq(width).abs()) > 0.25
    return power[:, high].sum(1) / power.sum((1, 2))


def saturated(images: Tensor) -> Tensor:
    """(unit,) share of values within `DARK` of 0 or 1."""
    return ((images < DARK) | (images > 1 - DARK)).float().mean((1, 2, 3))


def picture_figures(
    network: RealNetwork, scales: Scales, layer: str, units: list[int], images: Tensor
) -> dict[str, Tensor]:
    """(unit,) each: activation "own", "unseen" under other transforms and by the "other" network, where there is one; "high",
    "saturated" and "chroma".
    """
    seen = [activation(network, scales, layer, units, changed, "own") for changed in unseen_transforms(images)]
    found = {
        "own": activation(network, scales, layer, units, images, "own"),
        "unseen": torch.stack(seen).mean(0),
        "high": high_frequencies(images),
        "saturated": saturated(images),
        "chroma": chroma(images),
    }
    if network.other is not None:
        found["other"] = activation(network, scales, layer, units, images, "other")
    return found


def chroma(images: Tensor) -> Tensor:
    """(unit,) root mean square distance of the colors from gray."""
    return (images - images.mean(1, keepdim=True)).square().mean((1, 2, 3)).sqrt()
