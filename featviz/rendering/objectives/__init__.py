"""Objectives: what an image is to excite. `base.py` has the base class and how to write another objective.

`channel`, `neuron`, `logit` ask for units, `direction` for a combination of them, `deepdream` and `diversity` for a whole
layer, `from_callable` takes those of lucid and lucent. They are added and scaled: `a + 0.1 * b`.
"""

from featviz.rendering.objectives.base import Activations, Combination, Objective, units_first
from featviz.rendering.objectives.direction import direction
from featviz.rendering.objectives.from_callable import as_objective, from_callable
from featviz.rendering.objectives.unit import Neuron, Unit, channel, logit, neuron
from featviz.rendering.objectives.whole_layer import deepdream, diversity

__all__ = [
    "Activations",
    "Combination",
    "Neuron",
    "Objective",
    "Unit",
    "as_objective",
    "channel",
    "deepdream",
    "direction",
    "diversity",
    "from_callable",
    "logit",
    "neuron",
    "units_first",
]
