"""A check against fooling: does a rendering excite its unit by the way through the layers that natural images take?

A unit can be excited by an image that has nothing to do with what excites it in practice, and a rendering shows that image
(Geirhos et al. 2024, "Don't trust your eyes: on the (un)reliability of feature visualizations", arXiv 2306.04719). So in every
layer up to the unit's the activations of a rendering are compared with those of the natural images that excite the unit:

    similarity   Spearman's rank correlation of two images' mean activations of all units of the layer
    normalised   (rendering with exemplars - random with exemplars) / (exemplars with each other - random with exemplars)

Normalised, 1 is as alike as the exemplars are to each other, and 0 as random images are to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from featviz.errors import DataError
from featviz.evidence.fates.fold_sums import Floats
from featviz.evidence.layer_means import layer_means
from featviz.evidence.layer_names import measurable_layers
from featviz.subjects import Subject, as_subject


@dataclass(frozen=True, eq=False)
class NaturalPath:
    """Similarities (layer,) to the exemplars of one unit, in the order of the layers; see the module's docstring.

    rendering: of the renderings. exemplars: of the exemplars with each other. random: of random images.
    """

    layers: tuple[str, ...]
    rendering: Floats
    exemplars: Floats
    random: Floats

    @property
    def normalised(self) -> Floats:
        """(layer,) 1: like the exemplars among themselves, 0: like random images; NaN where exemplars are not more alike."""
        span = self.exemplars - self.random
        return np.divide(self.rendering - self.random, span, out=np.full(span.shape, np.nan), where=span > 1e-6)

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        columns = zip(self.layers, self.rendering, self.exemplars, self.random, self.normalised, strict=True)
        keys = ("rendering", "exemplars", "random", "normalised")
        return {
            layer: {key: None if np.isnan(x) else round(float(x), 4) for key, x in zip(keys, values, strict=True)}
            for layer, *values in columns
        }


def natural_path(
    model: nn.Module | Subject,
    renderings: Tensor,
    exemplars: Sequence[Tensor] | Tensor,
    random: Tensor,
    layers: str | Sequence[str] | None = None,
) -> NaturalPath:
    """Compare the way of renderings of one unit through a network with that of natural images.

    Args:
        renderings: (image, channels, h, w) in [0, 1], one or more of the unit.
        exemplars: whole images that excite the unit most, two or more, (image, channels, h, w).
        random: images taken at random, of the same data.
        layers: up to the unit's; names or patterns, None: all norms, or all layers with weights.

    Raises:
        DataError: fewer than two exemplars, no rendering or no random image.
    """
    best = exemplars if isinstance(exemplars, Tensor) else torch.stack(list(exemplars))
    if len(best) < 2 or not len(renderings) or not len(random):
        raise DataError(
            f"{len(renderings)} renderings, {len(best)} exemplars and {len(random)} random images are too few: give at least "
            "one rendering, two exemplars and one random image."
        )
    subject = as_subject(model, "the network")
    chosen = measurable_layers(subject.model, layers, {})
    ranks = []
    for images in (renderings, best, random):
        means = layer_means({"it": subject}, chosen, images)
        ranks.append({layer: _standardised(means["it", layer].numpy()) for layer in chosen})
    shown, natural, others = ranks
    within = []
    for layer in chosen:
        alike = natural[layer] @ natural[layer].T
        within.append((alike.sum() - np.trace(alike)) / (len(best) * (len(best) - 1)))
    to_exemplars = [np.array([(x[layer] @ natural[layer].T).mean() for layer in chosen]) for x in (shown, others)]
    return NaturalPath(tuple(chosen), to_exemplars[0], np.array(within), to_exemplars[1])


def _standardised(values: Floats) -> Floats:
    """(image, unit) ranks of each image's units, centred, of norm 1: their products are Spearman's correlations."""
    ranks = rankdata(values, axis=1)
    ranks = ranks - ranks.mean(1, keepdims=True)
    norm = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.divide(ranks, norm, out=np.zeros_like(ranks), where=norm > 0)
