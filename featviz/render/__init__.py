"""The picture room: from a network and a question to an image. It knows nothing of permutations."""

from featviz.render.ascent import Renderings, alive, ascend, score_images
from featviz.render.color import IMAGENET_MATRIX, color_matrix, recorrelate
from featviz.render.draw import Draw, draw
from featviz.render.objectives import (
    Objective,
    channel,
    deepdream,
    direction,
    diversity,
    from_callable,
    logit,
    neuron,
)
from featviz.render.parameterization import Fourier, Pixel, as_lucent_param, parameterization
from featviz.render.restart import living_draw
from featviz.render.robustness import warp
from featviz.render.single import layer_width, render, resolve_device
from featviz.render.statistics import input_channels, input_statistics
from featviz.render.trunk import Trunk, recorded_layers, resolve_layer

__all__ = [
    "IMAGENET_MATRIX",
    "Draw",
    "Fourier",
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
    "input_channels",
    "input_statistics",
    "layer_width",
    "living_draw",
    "logit",
    "neuron",
    "parameterization",
    "recorded_layers",
    "recorrelate",
    "render",
    "resolve_device",
    "resolve_layer",
    "score_images",
    "warp",
]
