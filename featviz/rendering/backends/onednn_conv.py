"""Rewrite: convolutions that do their addition and their ReLU in the same pass, on a CPU with oneDNN.

Much of a network's time on a CPU goes into reading and writing activations: a ReLU, or the sum at the end of a residual block,
costs what a 1x1 convolution does. oneDNN computes relu(conv(x) + other) before the result leaves the cache, from weights laid
out once for it. The gradient with respect to the input is such a convolution too, with the kernel turned by 180 degrees, where
the stride is 1; for the first layer of a network see `strided_conv_backward.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from featviz.rendering.backends.conv_chains import Geometry, chain_from, constant, fixed_convolution, replace_chain
from featviz.rendering.backends.strided_conv_backward import Phases, has_phases

aten = torch.ops.aten


class FusedConvolution(nn.Module):
    """relu(conv(x) + other), the addition and the ReLU optional, of fixed weights (out, in/groups, kh, kw).

    Args:
        size: of the input, (image, c, h, w).
    """

    def __init__(
        self, size: Sequence[int], weight: Tensor, bias: Tensor | None, geometry: Geometry, relu: bool
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = geometry
        self.bias, self.relu = bias, relu
        self.weight = _laid_out(weight, self.padding, self.stride, self.dilation, self.groups, size)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        run = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            return run(x, self.weight, self.bias, *geometry, "relu" if self.relu else "none", [], "")
        other = other.contiguous(memory_format=torch.channels_last)
        last = "relu" if self.relu else None
        return run.binary(x, other, self.weight, self.bias, *geometry, "add", 1.0, last, [], "")


class InputGradient(nn.Module):
    """The gradient of a convolution's output -> that of its input, for fixed weights.

    Args:
        size: of the input, (image, c, h, w).
    """

    def __init__(self, size: Sequence[int], weight: Tensor, geometry: Geometry) -> None:
        super().__init__()
        self.size, self.plain_weight = tuple(size), weight
        self.stride, self.padding, self.dilation, self.groups = geometry
        kernel = weight.shape[2:]
        self.back_padding = [d * (k - 1) - p for d, k, p in zip(self.dilation, kernel, self.padding, strict=True)]
        self.weight = self.phases = self.between = None
        point = all(k == 1 for k in kernel) and not any(self.padding)
        turned = weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
        given = [size[0], weight.shape[0], *_output_size(size[2:], kernel, self.stride, self.padding, self.dilation)]
        if has_phases(weight, self.stride, self.dilation, self.groups):
            self.phases = Phases(weight, self.stride[0], self.padding, size)
            turned, self.back_padding = self.phases.weight, self.phases.padding
        elif point or (all(s == 1 for s in self.stride) and min(self.back_padding) >= 0):
            pass
        elif weight.shape[1] == 1 and weight.dtype == torch.bfloat16 and min(self.back_padding) >= 0:
            # Depthwise and strided: oneDNN has no fast kernel, and zeros in between cost little.
            given[2:] = self.between = _output_size(size[2:], kernel, [1, 1], self.padding, self.dilation)
        else:
            return
        self.weight = _laid_out(turned, self.back_padding, [1, 1], self.dilation, self.groups, given)

    def forward(self, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if self.weight is None:
            x = _empty(self.size, gradient.dtype)  # only its layout is read
            return aten.convolution_backward(
                gradient, x, self.plain_weight, None, self.stride, self.padding, self.dilation, False, [0, 0],
                self.groups, [True, False, False],
            )[0]  # fmt: skip
        if self.between is not None:
            gradient = self._spread(gradient, [*gradient.shape[:2], *self.between])
        geometry = (self.back_padding, [1, 1], self.dilation, self.groups)
        small = torch.ops.mkldnn._convolution_pointwise(gradient, self.weight, None, *geometry, "none", [], "")
        if self.phases is not None:
            return self.phases.together(small)
        # A 1x1 kernel reads every stride-th pixel only.
        return small if tuple(small.shape) == self.size else self._spread(small, self.size)

    def _spread(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """x at every stride-th pixel of an image of that size, zeros in between."""
        spread = _empty(size, x.dtype).zero_()
        spread[:, :, :: self.stride[0], :: self.stride[1]] = x
        return spread


def _output_size(
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


def onednn_conv(joint: fx.GraphModule) -> int:
    """Replace, in place, every convolution of fixed weights and every input gradient of one; how many convolutions."""
    if not torch.backends.mkldnn.is_available():
        return 0
    graph, count = joint.graph, 0
    for node in graph.find_nodes(op="call_function", target=aten.convolution.default):
        count += _fuse(joint, node)
    for node in graph.find_nodes(op="call_function", target=aten.convolution_backward.default):
        gradient, x, weight, _, *geometry, mask = node.args
        found = _fixed(joint, x, weight, geometry)
        users = list(node.users)
        if found is None or list(mask) != [True, False, False] or [user.args[1] for user in users] != [0]:
            continue
        name = f"gradient_{node.name}"
        joint.add_submodule(name, InputGradient(*found))
        with graph.inserting_before(node):
            made = graph.call_module(name, (gradient,))
        made.meta = dict(users[0].meta)
        users[0].replace_all_uses_with(made)
        graph.erase_node(users[0])
        graph.erase_node(node)
    return count


def _fuse(joint: fx.GraphModule, node: fx.Node) -> bool:
    """Replace a convolution, with the addition and the ReLU that follow it, where its weights are fixed."""
    x, weight, bias, *geometry = node.args
    found, offset = _fixed(joint, x, weight, geometry), constant(joint, bias)
    if found is None or (bias is not None and offset is None):
        return False
    size, kernel, settings = found
    chain = chain_from(node)
    replace_chain(joint, chain, FusedConvolution(size, kernel, offset, settings, chain.relu))
    return True


def _fixed(
    joint: fx.GraphModule, x: Any, weight: Any, geometry: Sequence[Any]
) -> tuple[Sequence[int], Tensor, Geometry] | None:
    """As `fixed_convolution`, on a CPU and of a precision that oneDNN knows."""
    known = [torch.float32, *([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [])]
    return fixed_convolution(joint, x, weight, geometry, "cpu", known)
