"""Products of a batch with one matrix, done at once.

straight line of ATen operators (`straight.py`) -> the same line without copies of weights. A linear layer whose input is not
contiguous (the projections of an attention whose tokens were transposed) becomes a product of every token's images with its own
copy of the weights: in bfloat16 on a CPU that is the larger part of a vision transformer's time.
"""

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
VIEWS = (aten.view.default, aten.expand.default)


def join_products(line: fx.GraphModule) -> fx.GraphModule:
    """Replace, in place, every bmm(a, b), where b is one matrix expanded, by a single mm."""
    graph = line.graph
    for node in graph.find_nodes(op="call_function", target=aten.bmm.default):
        a, b = node.args
        matrix = _expanded(b)
        if matrix is None:
            continue
        count, rows, inner = a.meta["val"].shape
        with graph.inserting_before(node):
            flat = graph.call_function(aten.reshape.default, (a, [count * rows, inner]))
            product = graph.call_function(aten.mm.default, (flat, matrix))
            made = graph.call_function(aten.view.default, (product, [count, rows, b.meta["val"].shape[2]]))
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    line.recompile()
    return line


def _expanded(node: Any) -> fx.Node | None:
    """The matrix of which a batch of matrices (b, k, m) is one and the same, b times."""
    shape = node.meta["val"].shape
    while isinstance(node, fx.Node) and node.target in VIEWS:
        source: Any = node.args[0]
        if node.target is aten.expand.default and source.meta["val"].shape == shape[1:]:
            return source
        if node.meta["val"].shape != shape:
            return None
        node = source
    return None
