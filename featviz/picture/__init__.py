"""The picture room: from a network and a question to an image. It knows nothing of permutations."""

from featviz.picture.ascent import Renderings, alive, ascend, score_images
from featviz.picture.batching import must_fit
from featviz.picture.color import IMAGENET_MATRIX, color_matrix, recorrelate
from featviz.picture.draw import Draw, draw
from featviz.picture.objectives import (
    Objective,
    channel,
    deepdream,
    direction,
    diversity,
    from_callable,
    logit,
    neuron,
)
from featviz.picture.parameterization import Fourier, Maco, Pixel, as_lucent_param, parameterization
from featviz.picture.restart import living_draw, warn_of_dead
from featviz.picture.robustness import warp
from featviz.picture.single import layer_width, render, resolve_device
from featviz.picture.spectrum import magnitude_profile
from featviz.picture.statistics import input_channels, input_statistics
from featviz.picture.trunk import Trunk, recorded_layers, resolve_layer, uncompiled
from featviz.picture.untouched import in_turn, ordinary_modes

__all__ = [
    "IMAGENET_MATRIX",
    "Draw",
    "Fourier",
    "Maco",
    "Objective",
    "Pixel",
    "Renderings",
    "Trunk",
    "alive",
    "as_lucent_param",
    "ascend",
    "channel",
    "color_matrix",
    "deepdream",
    "direction",
    "diversity",
    "draw",
    "from_callable",
    "in_turn",
    "input_channels",
    "input_statistics",
    "layer_width",
    "living_draw",
    "logit",
    "magnitude_profile",
    "must_fit",
    "neuron",
    "ordinary_modes",
    "parameterization",
    "recorded_layers",
    "recorrelate",
    "render",
    "resolve_device",
    "resolve_layer",
    "score_images",
    "uncompiled",
    "warn_of_dead",
    "warp",
]
