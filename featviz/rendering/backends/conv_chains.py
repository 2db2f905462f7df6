"""Convolutions of fixed weights in a joint graph, with the addition and the ReLU that follow them.

For the rewrites that do all of it in one kernel: `onednn_conv.py` on a CPU, `cudnn_conv.py` on a GPU.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten
RELU = (aten.relu.default, aten.relu_.default)
ADD = (aten.add.Tensor, aten.add_.Tensor)
Geometry = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups


@dataclass(frozen=True)
class Chain:
    """relu(convolution + other): nodes that may become one, in their order.

    other: what is added, None where nothing is. relu: whether the last one is a ReLU.
    """

    nodes: list[fx.Node]
    other: fx.Node | None
    relu: bool


def fixed_convolution(
    joint: fx.GraphModule, x: Any, weight: Any, geometry: Sequence[Any], device: str, dtypes: Collection[torch.dtype]
) -> tuple[Sequence[int], Tensor, Geometry] | None:
    """Size of the input, weight and geometry of a convolution on images whose weight is a constant of the graph, or None.

    Args:
        x, weight: input and kernel of the node. geometry: the other arguments: stride, padding, dilation, transposed, output
            padding, groups.
        device: type of the device. dtypes: of input and weight, which have the same.
    """
    stride, padding, dilation, transposed, _, groups = geometry
    value, kernel = x.meta.get("val"), constant(joint, weight)
    if transposed or value is None or value.dim() != 4 or kernel is None:
        return None
    if value.dtype not in dtypes or kernel.dtype != value.dtype or value.device.type != device:
        return None
    first, second, third = (list(v) * (2 // len(v)) for v in (stride, padding, dilation))
    return value.shape, kernel, (first, second, third, groups)


def constant(joint: fx.GraphModule, node: Any) -> Tensor | None:
    """The value of a node that nothing writes into, None of others."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or any(writes(user) for user in node.users):
        return None
    return getattr(joint, str(node.target)).detach()


def chain_from(node: fx.Node) -> Chain:
    """A convolution's node, with the addition and the ReLU that alone read what is before them."""
    nodes, other = [node], None
    after = _only_user(node)
    if after is not None and after.target in ADD and _free_to_move(nodes, after) and _adds(after, node):
        nodes.append(after)
        other = next(arg for arg in after.args if isinstance(arg, fx.Node) and arg is not node)
        after = _only_user(after)
    relu = after is not None and after.target in RELU and _free_to_move(nodes, after)
    if after is not None and relu:
        nodes.append(after)
    return Chain(nodes, other, relu)


def replace_chain(joint: fx.GraphModule, chain: Chain, module: nn.Module) -> None:
    """Put a module of (x) or (x, other) in the place of a chain."""
    first, last = chain.nodes[0], chain.nodes[-1]
    name = f"fused_{first.name}"
    joint.add_submodule(name, module)
    with joint.graph.inserting_before(last):
        made = joint.graph.call_module(name, (first.args[0], *([] if chain.other is None else [chain.other])))
    made.meta = dict(last.meta)
    last.replace_all_uses_with(made)
    for old in reversed(chain.nodes):
        joint.graph.erase_node(old)


def writes(node: fx.Node) -> bool:
    """Whether it changes a tensor in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _adds(node: fx.Node, first: fx.Node) -> bool:
    """node is first + another tensor of its shape and type; in place only on `first`."""
    if len(node.args) != 2 or node.kwargs or (node.target is aten.add_.Tensor and node.args[0] is not first):
        return False
    values: list[Any] = [arg.meta.get("val") for arg in node.args if isinstance(arg, fx.Node)]
    if len(values) != 2 or node.args[0] is node.args[1]:
        return False
    return values[0].shape == values[1].shape and values[0].dtype == values[1].dtype


def _free_to_move(chain: Sequence[fx.Node], last: fx.Node) -> bool:
    """Nothing but the chain writes into a tensor between its first node and the last."""
    node = chain[0].next
    while node is not last:
        if writes(node) and node not in chain:
            return False
        node = node.next
    return True
