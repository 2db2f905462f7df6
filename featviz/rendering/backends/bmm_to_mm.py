"""Rewrite: products of a batch with one matrix, done at once.

A linear layer whose input is not contiguous (the projections of an attention whose tokens were transposed) becomes a product of
every token's images with its own copy of the weights: in bfloat16 on a CPU that is the larger part of a vision transformer's
time. bmm(a, expand(b)) becomes mm(reshape(a), b), in the forward and in the backward part, where b is transposed.
"""

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def bmm_to_mm(joint: fx.GraphModule) -> int:
    """Replace, in place, every bmm(a, b), where b is one matrix expanded, by a single mm; how often."""
    graph, count = joint.graph, 0
    for node in graph.find_nodes(op="call_function", target=aten.bmm.default):
        a, b = node.args
        with graph.inserting_before(node):
            matrix = _one_matrix(graph, b)
            if matrix is None:
                continue
            batch, rows, inner = a.meta["val"].shape
            flat = graph.call_function(aten.reshape.default, (a, [batch * rows, inner]))
            product = graph.call_function(aten.mm.default, (flat, matrix))
            made = graph.call_function(aten.view.default, (product, [batch, rows, b.meta["val"].shape[2]]))
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        graph.erase_node(node)
        count += 1
    return count


def _one_matrix(graph: fx.Graph, node: Any) -> fx.Node | None:
    """The matrix (k, m) of which a batch of matrices (b, k, m) is one and the same, b times."""
    shape = node.meta["val"].shape
    if node.target is aten.transpose.int and {axis % 3 for axis in node.args[1:]} == {1, 2}:
        matrix = _one_matrix(graph, node.args[0])
        return None if matrix is None else graph.call_function(aten.t.default, (matrix,))
    if node.target not in (aten.view.default, aten.expand.default):
        return None
    source: Any = node.args[0]
    if node.target is aten.expand.default and source.meta["val"].shape == shape[1:]:
        return source
    return _one_matrix(graph, source) if source.meta["val"].shape == shape else None
