"""Rules of operators, one file for each kind; `registry.py` says how to write one, and `register` adds one from
outside.
"""

from featviz.symmetry.rules.concatenate import concatenate, pad, stack
from featviz.symmetry.rules.convolution import convolution
from featviz.symmetry.rules.copies import constant, copy, same_shape
from featviz.symmetry.rules.elementwise import elementwise, glu
from featviz.symmetry.rules.matmul import addmm, mm
from featviz.symmetry.rules.norms import batch_norm, group_norm, layer_norm, reduction, softmax
from featviz.symmetry.rules.recurrent import recurrent
from featviz.symmetry.rules.registry import Call, register, rule, rule_of
from featviz.symmetry.rules.shape import data_movement
from featviz.symmetry.rules.spatial import per_channel

__all__ = [
    "Call",
    "addmm",
    "batch_norm",
    "concatenate",
    "constant",
    "convolution",
    "copy",
    "data_movement",
    "elementwise",
    "glu",
    "group_norm",
    "layer_norm",
    "mm",
    "pad",
    "per_channel",
    "recurrent",
    "reduction",
    "register",
    "rule",
    "rule_of",
    "same_shape",
    "softmax",
    "stack",
]
