"""A network as the straight line of ATen operators that it runs for images of one size.

function of images, images -> `fx.GraphModule` that computes the same without the network's Python: what can be rewritten
(`fused.py`, `products.py`) or compiled. A line is for one shape; a network that decides by values (`if x.mean() > 0`) has none.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from featviz.errors import RenderError
from featviz.rendering.backends.bmm_to_mm import join_products
from featviz.rendering.backends.onednn_conv import fuse_convolutions

Run = Callable[[Tensor], tuple[Tensor, ...]]
RUNS = 5  # of which the quickest counts


def straight_line(run: Run, x: Tensor, autocast: bool, traced: Run | None = None) -> Run | None:
    """`run` for images of x's shape rewritten; None where it cannot be written down or is not the same.

    The line is compared with `run` on x upside down, of which `run` sees the first and the last image alone: outputs and
    gradient within rounding. `traced` is the same on a copy of the network, which is used up.
    """
    try:
        line = _reshaping(fuse_convolutions(join_products(_written_down(traced or run, x))))
        return line if _same(run, line, x.detach().flip(2), autocast) else None
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a network does that cannot be traced: it runs as it is
        return None


def compiled_line(run: Run, x: Tensor, autocast: bool, traced: Run | None = None) -> Run:
    """`run` for images of x's shape by torch.compile, compared with it like `straight_line`.

    Raises:
        RenderError: it cannot be compiled here, or computes something else.
    """
    try:
        line = torch.compile(_reshaping(join_products(_written_down(traced or run, x))), dynamic=False)
        same = _same(run, line, x.detach().flip(2), autocast)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise RenderError(f"the network cannot be compiled ({reason}): leave out compile.") from error
    if not same:
        raise RenderError("the network computes something else once it is compiled: leave out compile.")
    return line


def quickest(runs: Sequence[Run], x: Tensor) -> Run:
    """The one that takes the least time for forward and input gradient, measured in turns."""
    taken: dict[int, list[float]] = {}
    for _ in range(RUNS + 1):  # the first is a warm-up
        for number, run in enumerate(runs):
            began = time.perf_counter()
            _pulled(run, x.detach())
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            taken.setdefault(number, []).append(time.perf_counter() - began)
    return runs[min(taken, key=lambda number: min(taken[number][1:]))]


class NotStraight(Exception):
    """A part of the network has a gradient of its own, which its operators do not tell."""


class OwnGradients(TorchFunctionMode):
    """Raises `NotStraight` where a tensor gets a hook, or a stretch of the network no gradient at all."""

    DATA: Any = Tensor.data
    REFUSED = (Tensor.register_hook, Tensor.requires_grad_, Tensor.detach, Tensor.detach_, DATA.__get__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.REFUSED or not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise NotStraight
        return func(*args, **(kwargs or {}))


def _written_down(run: Run, x: Tensor) -> fx.GraphModule:
    def watched(x: Tensor) -> tuple[Tensor, ...]:
        with OwnGradients():
            outputs = run(x)
        if any(isinstance(node, torch.autograd.function.BackwardCFunction) for node in _history(outputs)):
            raise NotStraight  # an autograd.Function, or the hook of a module on its gradient
        return outputs

    with torch.enable_grad():
        # Fake tensors have shapes and no memory: a trace holds every intermediate result until its end.
        return make_fx(watched, tracing_mode="fake", _allow_non_fake_inputs=True)(x.detach().requires_grad_())


def _history(outputs: Sequence[Tensor]) -> set[Any]:
    """All nodes of the graph by which autograd would come from the outputs to the images."""
    seen: set[Any] = set()
    ahead: list[Any] = [out.grad_fn for out in outputs]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [parent for parent, _ in node.next_functions]
    return seen


def _reshaping(line: fx.GraphModule) -> fx.GraphModule:
    """The line without the shapes of its trace: a result may lie in memory in another order than there."""
    for node in line.graph.nodes:
        node.meta.clear()
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    line.recompile()
    return line


def _pulled(run: Run, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Outputs, and the gradient with respect to x of their sum with random weights, the same for every image."""
    y = x.clone().requires_grad_()
    outputs = tuple(run(y))
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(out.shape[1:], generator=random).to(x.device) for out in outputs]
    total = torch.stack([(out.float() * weight).sum() for out, weight in zip(outputs, weights, strict=True)]).sum()
    (gradient,) = torch.autograd.grad(total, y)
    return [out.detach() for out in outputs], gradient


def _same(run: Run, line: Run, x: Tensor, autocast: bool) -> bool:
    """Outputs and gradient equal within rounding (relative, Euclidean)."""
    tolerance, rough = (5e-2, 0.7) if autocast else (1e-4, 0.1)  # gradients: a ReLU or a maximum may fall the other way
    ends = sorted({0, len(x) - 1})
    (theirs, pulled), (ours, line_pulled) = _pulled(run, x[ends]), _pulled(line, x)
    if all(a.shape == (len(ends), *b.shape[1:]) for a, b in zip(theirs, ours, strict=True)):
        ours, line_pulled = [b[ends] for b in ours], line_pulled[ends]
    else:  # an output whose first axis is not that of the images
        theirs, pulled = _pulled(run, x)
    if any(not _near(a.float(), b.float(), tolerance) for a, b in zip(theirs, ours, strict=True)):
        return False
    return _near(pulled, line_pulled, rough)


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).norm() <= tolerance * a.norm())
