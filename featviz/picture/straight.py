"""A network as the straight line of ATen operators that it runs for images of one size.

function of images, images -> `fx.GraphModule` that computes the same without the network's Python: what can be rewritten
(`fused.py`). A line is for one shape; a network that decides by values (`if x.mean() > 0`) has none.
"""

from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from featviz.picture.fused import fuse_convolutions

Run = Callable[[Tensor], tuple[Tensor, ...]]


def straight_line(run: Run, x: Tensor, autocast: bool) -> Run | None:
    """`run` for images of x's shape with its convolutions fused; None where it cannot be written down or is not the same.

    The line is compared with `run` on x upside down: outputs within rounding, gradients along them.
    """
    try:
        with torch.no_grad():
            # Fake tensors have shapes and no memory: a trace holds every intermediate result until its end.
            line = fuse_convolutions(make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)(x.detach()))
        for node in line.graph.nodes:
            node.meta.clear()
            if node.target is torch.ops.aten.view.default:  # a fused convolution may lie in memory in another order
                node.target = torch.ops.aten.reshape.default
        line.recompile()
        tolerance = 5e-2 if autocast else 1e-4
        return line if _same(run, line, x.detach().flip(2), tolerance) else None
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a network does that cannot be traced: it runs as it is
        return None


def _same(run: Run, line: fx.GraphModule, x: Tensor, tolerance: float) -> bool:
    """Outputs equal up to the tolerance (relative, Euclidean), gradients in the same direction."""
    found = []
    for way in (run, line):
        y = x.clone().requires_grad_()
        outputs = tuple(way(y))
        (gradient,) = torch.autograd.grad(torch.stack([out.float().sum() for out in outputs]).sum(), y)
        found.append(([out.detach() for out in outputs], gradient))
    (theirs, pulled), (ours, line_pulled) = found
    if any(not _near(a.float(), b.float(), tolerance) for a, b in zip(theirs, ours, strict=True)):
        return False
    along = torch.nn.functional.cosine_similarity(pulled.flatten(), line_pulled.flatten(), 0)
    return bool(along > 1 - 10 * tolerance or (pulled.count_nonzero() == 0 and line_pulled.count_nonzero() == 0))


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).norm() <= tolerance * a.norm())
