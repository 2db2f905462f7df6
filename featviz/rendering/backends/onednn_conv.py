"""Convolutions that do their addition and their ReLU in the same pass, on a CPU with oneDNN.

straight line of ATen operators (`straight.py`) -> the same line with fewer passes over memory. Much of a trunk's time on a CPU
goes into reading and writing activations: a ReLU, or the sum at the end of a residual block, costs what a 1x1 convolution
does.
oneDNN computes conv(x) + other and the ReLU before the result leaves the cache, from weights laid out once for it. The
gradient with respect to the input is such a convolution too, with the kernel turned by 180 degrees, where the stride is 1;
for the stem of a network see `phases.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from featviz.rendering.backends.strided_conv_backward import Phases, has_phases

aten = torch.ops.aten
RELU = (aten.relu.default, aten.relu_.default)
ADD = (aten.add.Tensor, aten.add_.Tensor)


class Step(torch.autograd.Function):
    """relu(conv(x) + other): both optional; gradients for x and other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor | None, plan: "FusedConvolution") -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = plan.convolved(x, None if other is None else other.contiguous(memory_format=torch.channels_last))
        ctx.plan, ctx.size = plan, x.shape
        ctx.save_for_backward(*([y] if plan.relu else []))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        if ctx.plan.relu:
            gradient = aten.threshold_backward(gradient, ctx.saved_tensors[0], 0)
        to_x = ctx.plan.pulled_back(gradient, ctx.size) if ctx.needs_input_grad[0] else None
        return to_x, gradient if ctx.needs_input_grad[1] else None, None


class FusedConvolution(nn.Module):
    """A convolution of fixed weights (out, in/groups, kh, kw) on images of one size, with what follows it."""

    def __init__(self, size: Sequence[int], weight: Tensor, bias: Tensor | None, args: tuple, relu: bool) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = args
        self.weight, self.bias, self.relu = weight, bias, relu
        self.forward_weight = _laid_out(weight, self.padding, self.stride, self.dilation, self.groups, size)
        kernel = weight.shape[2:]
        self.back_padding = [d * (k - 1) - p for d, k, p in zip(self.dilation, kernel, self.padding, strict=True)]
        self.back_weight = self.phases = self.between = None
        point = all(k == 1 for k in kernel) and not any(self.padding)
        turned = weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
        given = [size[0], weight.shape[0], *_reached(size[2:], kernel, self.stride, self.padding, self.dilation)]
        if has_phases(weight, self.stride, self.dilation, self.groups):
            self.phases = Phases(weight, self.stride[0], self.padding, size)
            turned, self.back_padding = self.phases.weight, self.phases.padding
        elif point or (all(s == 1 for s in self.stride) and min(self.back_padding) >= 0):
            pass
        elif weight.shape[1] == 1 and weight.dtype == torch.bfloat16 and min(self.back_padding) >= 0:
            # Depthwise and strided: oneDNN has no fast kernel, and zeros in between cost little.
            given[2:] = self.between = _reached(size[2:], kernel, [1, 1], self.padding, self.dilation)
        else:
            return
        self.back_weight = _laid_out(turned, self.back_padding, [1, 1], self.dilation, self.groups, given)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return Step.apply(x, other, self)  # pyright: ignore[reportReturnType]

    def convolved(self, x: Tensor, other: Tensor | None) -> Tensor:
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        run = torch.ops.mkldnn._convolution_pointwise
        after = "relu" if self.relu else "none"
        if other is None:
            return run(x, self.forward_weight, self.bias, *geometry, after, [], "")
        last = "relu" if self.relu else None
        return run.binary(x, other, self.forward_weight, self.bias, *geometry, "add", 1.0, last, [], "")

    def pulled_back(self, gradient: Tensor, size: Sequence[int]) -> Tensor:
        """The gradient with respect to the input of that size."""
        if self.back_weight is not None:
            geometry = (self.back_padding, [1, 1], self.dilation, self.groups)
            if self.between is not None:
                gradient = self._spread(gradient, [*gradient.shape[:2], *self.between])
            small = torch.ops.mkldnn._convolution_pointwise(gradient, self.back_weight, None, *geometry, "none", [], "")
            if self.phases is not None:
                return self.phases.together(small)
            if tuple(small.shape) == tuple(size):
                return small
            return self._spread(small, size)  # a 1x1 kernel reads every stride-th pixel only
        x = _empty(size, gradient.dtype)  # only its layout is read
        return aten.convolution_backward(
            gradient, x, self.weight, None, self.stride, self.padding, self.dilation, False, [0, 0], self.groups,
            [True, False, False],
        )[0]  # fmt: skip

    def _spread(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """x at every stride-th pixel of an image of that size, zeros in between."""
        spread = _empty(size, x.dtype).zero_()
        spread[:, :, :: self.stride[0], :: self.stride[1]] = x
        return spread


def _reached(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Height and width of a convolution's output."""
    return [
        (h + 2 * p - d * (k - 1) - 1) // s + 1
        for h, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]


def _empty(size: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(size, dtype=dtype, memory_format=torch.channels_last)


def _laid_out(
    weight: Tensor,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    size: Sequence[int],
) -> Tensor:
    plain = weight.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._reorder_convolution_weight(plain, padding, stride, dilation, groups, list(size))


def fuse_convolutions(line: fx.GraphModule) -> fx.GraphModule:
    """Replace, in place, every convolution of fixed weights by a `FusedConvolution` with what follows it."""
    graph = line.graph
    for node in list(graph.nodes):
        found = _read(line, node)
        if found is None:
            continue
        size, weight, bias, args = found
        chain, other = [node], None
        after = _only_user(node)
        if after is not None and after.target in ADD and _free_to_move(chain, after) and _adds(after, node):
            chain.append(after)
            other = next(arg for arg in after.args if arg is not node)
            after = _only_user(after)
        relu = after is not None and after.target in RELU and _free_to_move(chain, after)
        if after is not None and relu:
            chain.append(after)
        name = f"fused_{node.name}"
        line.add_submodule(name, FusedConvolution(size, weight, bias, args, relu))
        with graph.inserting_before(chain[-1]):
            made = graph.call_module(name, (node.args[0], *([] if other is None else [other])))
        made.meta = dict(chain[-1].meta)
        chain[-1].replace_all_uses_with(made)
        for old in reversed(chain):
            graph.erase_node(old)
    graph.eliminate_dead_code()
    line.recompile()
    return line


def _read(line: fx.GraphModule, node: fx.Node) -> tuple[Sequence[int], Tensor, Tensor | None, tuple] | None:
    """Size of the input, weight, bias and (stride, padding, dilation, groups) of a convolution that can be fused."""
    if node.op != "call_function" or node.target is not aten.convolution.default:
        return None
    args: Any = node.args
    source, weight, bias, stride, padding, dilation, transposed, _, groups = args
    x, kernel, offset = source.meta.get("val"), _constant(line, weight), _constant(line, bias)
    if transposed or x is None or x.dim() != 4 or kernel is None or (bias is not None and offset is None):
        return None
    if x.dtype not in (torch.bfloat16, torch.float32) or kernel.dtype != x.dtype:
        return None
    geometry = tuple(list(v) * (2 // len(v)) for v in (stride, padding, dilation))
    return x.shape, kernel, offset, (*geometry, groups)


def _constant(line: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    return getattr(line, str(node.target)).detach()


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
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable and node not in chain:
            return False
        node = node.next
    return True
