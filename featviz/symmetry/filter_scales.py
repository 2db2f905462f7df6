"""Which filters have an arbitrary scale, because a batch norm divides by it.

operators in the order in which they run -> the names of the parameters whose rows a batch norm normalises.

A convolution or linear layer hands the scale of each filter (row of its weight) on to one channel of its output. Homogeneous
operators (x -> c x gives y -> c y for c > 0: relu, pooling, shape, concatenation) keep it; every other operator, a sum with a
residual stream included, ends it. A batch norm that meets it divides by it. Example, `bn(relu(conv(x)))`: with a filter of
`conv` twice as large it is the same network, once the norm's statistics are measured again.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from featviz.symmetry.rules.norms import BATCH_NORMS
from featviz.symmetry.rules.registry import Call

aten = torch.ops.aten
CONVOLUTIONS = {aten.convolution, aten._convolution}
PRODUCTS = {aten.mm, aten.addmm}  # of inputs and the transposed weight of a linear layer
HOMOGENEOUS = {
    aten.relu, aten.relu_, aten.leaky_relu, aten.leaky_relu_, aten.cat, aten.mean,
    aten.max_pool2d_with_indices, aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d,
    aten.view, aten._unsafe_view, aten.reshape, aten.permute, aten.transpose, aten.t, aten.clone, aten.detach, aten.alias,
    aten.unsqueeze, aten.squeeze, aten.expand, aten.contiguous, aten.constant_pad_nd, aten.slice, aten.split, aten.chunk,
    aten.channel_shuffle, aten.native_channel_shuffle,
}  # fmt: skip


class FilterScales:
    """Follows the filters' scales through one forward pass.

    Args:
        parameters: the network's, by name.

    Attributes:
        normalized: names of the parameters whose filters a batch norm has met so far.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.normalized: set[str] = set()
        self._names = {id(tensor): name for name, tensor in parameters.items()}
        self._filters = WeakTensorKeyDictionary()  # tensor -> names of the parameters whose filters scale its channels

    def follow(self, call: Call) -> None:
        """Take note of one operator that has run."""
        operator = call.operator.overloadpacket
        if operator in BATCH_NORMS:
            self.normalized |= self._of(call["input"])
            return
        if operator in CONVOLUTIONS and not call["transposed"]:
            found = self._of(call["weight"])
        elif operator in PRODUCTS:
            found = self._of(call["mat2"])
        elif operator in HOMOGENEOUS:
            found = frozenset().union(*(self._of(tensor) for tensor in call.inputs))
        else:
            found = frozenset()
        for tensor in call.outputs:
            if found or tensor in self._filters:
                self._filters[tensor] = found

    def _of(self, tensor: Tensor) -> frozenset[str]:
        own = self._names.get(id(tensor))
        return (self._filters.get(tensor) or frozenset()) if own is None else frozenset([own])
