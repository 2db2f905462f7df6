"""A network and its input gradient as two straight-line graphs of ATen operators, made from one trace.

function of images, images -> `GradientGraph`. The trace runs the function and then autograd, so that whatever decides about
the gradient (detach, no_grad, an autograd.Function, hooks on tensors and modules) is in the graph as what it did.

For f(x) = relu(w x): the traced graph is

    y = convolution(x, w);  z = relu(y);  t = empty_like(z);  d = threshold_backward(t, z);  g = convolution_backward(d, x, w)

and is cut at t, which stands for the gradient that comes from the objective: forward(x) -> z, and backward(z, t) -> g.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

Run = Callable[[Tensor], tuple[Tensor, ...]]
aten = torch.ops.aten
_TRACING = (
    threading.RLock()
)  # a trace replaces methods of nn.Module for the whole process; two would restore each other's


def trace_with_gradient(run: Run, x: Tensor) -> fx.GraphModule:
    """The joint graph of `run` and its input gradient for images of x's shape: x -> (outputs, their gradients, gradient of x).

    The gradients of the outputs are nodes `empty_like`, between the forward and the backward part, and have no value yet.
    """

    def joint(x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        outputs = run(x)
        tangents = tuple(torch.empty_like(output) for output in outputs)
        pairs = [pair for pair in zip(outputs, tangents, strict=True) if pair[0].requires_grad]
        if not pairs:
            return outputs, tangents, torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(
            [output for output, _ in pairs],
            x,
            [tangent for _, tangent in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
        return outputs, tangents, gradient

    with _TRACING, torch.enable_grad():
        # Fake tensors have shapes and no memory: a trace holds every intermediate result until its end.
        graph = make_fx(joint, tracing_mode="fake", _allow_non_fake_inputs=True)(x.detach().requires_grad_())
    for node in graph.graph.find_nodes(op="call_function", target=aten.alias.default):
        node.replace_all_uses_with(node.args[0])  # what autograd makes to keep a tensor
    graph.graph.eliminate_dead_code()
    return graph


class GradientGraph:
    """A differentiable function of images from a joint graph.

    Args:
        joint: of `trace_with_gradient`, perhaps rewritten.
    """

    def __init__(self, joint: fx.GraphModule) -> None:
        self.forward, self.backward, self.outputs = _split(joint)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        return _Apply.apply(x, self)  # pyright: ignore[reportReturnType]


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: GradientGraph) -> tuple[Tensor, ...]:
        results = graph.forward(x)
        outputs = tuple(results[: graph.outputs])
        ctx.graph, ctx.kept = graph, list(results[graph.outputs :])
        ctx.save_for_backward(*outputs)  # these alone, which autograd watches for writes
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        kept, ctx.kept = ctx.kept, None
        kept += [*ctx.saved_tensors, *gradients]
        return ctx.graph.backward(kept), None


def _split(joint: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule, int]:
    """The forward graph, x -> (outputs, values that the backward graph reads), the backward graph, and how many outputs.

    The backward graph empties one list of those values, the outputs and their gradients, so that nothing else holds them and
    each is freed after its last reader.
    """
    nodes = list(joint.graph.nodes)
    outputs, tangents, gradient = nodes[-1].args[0]
    border = min(nodes.index(tangent) for tangent in tangents)
    before = {node for node in nodes[:border] if node.op != "get_attr"}
    after = [node for node in nodes[border:-1] if node not in tangents]
    read = dict.fromkeys([*(node for user in after for node in user.all_input_nodes), gradient])
    kept = [node for node in read if node in before and node not in outputs]

    forward, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in nodes[:border]:
        copies[node] = forward.node_copy(node, copies.__getitem__)
    forward.output(tuple(copies[node] for node in (*outputs, *kept)))

    backward, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    given = backward.placeholder("given")
    for node in (*kept, *outputs, *tangents):
        copies[node] = backward.call_method("pop", (given, 0))
    for node in nodes:
        if node.op == "get_attr":
            copies[node] = backward.node_copy(node)
    for node in after:
        if node not in copies:
            copies[node] = backward.node_copy(node, copies.__getitem__)
    backward.output(copies[gradient])
    return _module(joint, forward), _module(joint, backward), len(outputs)


def _module(root: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """The graph with the root's constants, without the shapes of its trace: a result may lie in memory in another order."""
    for node in graph.nodes:
        node.meta.clear()
        if node.target is aten.view.default:
            node.target = aten.reshape.default
    return fx.GraphModule(root, graph)


def output_and_gradient(run: Callable[[Tensor], Sequence[Tensor]], x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Outputs, and the gradient with respect to x of their sum with random weights, the same for every image."""
    y = x.detach().clone().requires_grad_()
    outputs = tuple(run(y))
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(out.shape[1:], generator=random).to(x.device) for out in outputs]
    total = torch.stack([(out.float() * weight).sum() for out, weight in zip(outputs, weights, strict=True)]).sum()
    gradient = torch.zeros_like(y)
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, y, allow_unused=True, materialize_grads=True)
    return [out.detach() for out in outputs], gradient
