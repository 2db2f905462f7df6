"""From a network and an objective to images by gradient ascent. Knows nothing of permutations."""

from featviz.isolation import ordinary_modes
from featviz.rendering.image.color import IMAGENET_MATRIX, color_matrix, recorrelate
from featviz.rendering.image.fourier import Fourier
from featviz.rendering.image.maco import Maco
from featviz.rendering.image.parameterizations import (
    Parameterization,
    as_lucent_param,
    parameterization,
    register_parameterization,
)
from featviz.rendering.image.pixel import Pixel
from featviz.rendering.image.seeding import Starts, seeded_starts
from featviz.rendering.image.spectrum import magnitude_profile
from featviz.rendering.network.cut_network import resolve_layer, uncompiled
from featviz.rendering.network.feature_extractor import FeatureExtractor, recorded_layers
from featviz.rendering.objectives import (
    Objective,
    channel,
    deepdream,
    direction,
    diversity,
    from_callable,
    logit,
    neuron,
)
from featviz.rendering.optimize.loop import ascend, has_gradient, score_images
from featviz.rendering.optimize.renderings import Renderings
from featviz.rendering.optimize.restarts import starts_with_gradient, warn_of_dead_units
from featviz.rendering.render import layer_width, render, resolve_device, unit_counts
from featviz.rendering.robustness.warps import warp

__all__ = [
    "IMAGENET_MATRIX",
    "FeatureExtractor",
    "Fourier",
    "Maco",
    "Objective",
    "Parameterization",
    "Pixel",
    "Renderings",
    "Starts",
    "as_lucent_param",
    "ascend",
    "channel",
    "color_matrix",
    "deepdream",
    "direction",
    "diversity",
    "from_callable",
    "has_gradient",
    "layer_width",
    "logit",
    "magnitude_profile",
    "neuron",
    "ordinary_modes",
    "parameterization",
    "recorded_layers",
    "recorrelate",
    "register_parameterization",
    "render",
    "resolve_device",
    "resolve_layer",
    "score_images",
    "seeded_starts",
    "starts_with_gradient",
    "uncompiled",
    "unit_counts",
    "warn_of_dead_units",
    "warp",
]
