"""The traced graph: a network and its input gradient as straight-line ATen graphs, rewritten to be faster.

1. `fold_batchnorm` makes a copy of the network without norms;  2. one trace records it together with its input gradient
(`gradient_graph.py`);  3. the `REWRITES` change the graph, in order;  4. the result is compared with the eager network, outputs
and gradient, on random images. A network that cannot be traced (one that decides by values) or differs runs eagerly, and the
log and the report say why. A graph is for one shape of batches.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from featviz.errors import summary
from featviz.failures import machine_failed
from featviz.rendering.backends.backend import BackendReport, log
from featviz.rendering.backends.bmm_to_mm import bmm_to_mm
from featviz.rendering.backends.conv_chains import writes
from featviz.rendering.backends.cudnn_conv import cudnn_conv
from featviz.rendering.backends.eager import EagerBackend
from featviz.rendering.backends.fold_batchnorm import fold_batchnorm
from featviz.rendering.backends.gradient_graph import GradientGraph, Run, output_and_gradient, trace_with_gradient
from featviz.rendering.backends.onednn_conv import onednn_conv
from featviz.rendering.network.cut_network import CutNetwork

REWRITES: tuple[Callable[[fx.GraphModule], int], ...] = (bmm_to_mm, onednn_conv, cudnn_conv)
"""Each changes a joint graph in place and says how often it applied."""


class TracedGraph(EagerBackend):
    """See the module's docstring; eager for images without gradient, or of a shape that comes once.

    Args:
        exact: the network stays as it is.
    """

    name = "traced graph"

    def __init__(self, network: CutNetwork, device: torch.device, autocast: bool, exact: bool = False) -> None:
        super().__init__(network, device, autocast, "float64 is for exactness" if exact else None)
        self._folded: tuple[CutNetwork, int] | None = None
        self._graphs: dict[tuple[int, ...], GradientGraph] = {}
        self._failed = exact

    def __call__(self, x: Tensor, once: bool = False) -> tuple[Tensor, ...]:
        shape = tuple(x.shape)
        if x.requires_grad and shape not in self._graphs and not once and not self._failed:
            self._prepare(x)
        graph = self._graphs.get(shape) if x.requires_grad else None
        return super().__call__(x) if graph is None else graph(x)

    def forget(self) -> None:
        self._graphs.clear()

    def _prepare(self, x: Tensor) -> None:
        """Make the graph for images of x's shape, and the report."""
        try:
            joint, rewrites = self._traced(x)
            graph = GradientGraph(joint)
            same = _same(super().__call__, graph, x.detach().flip(2), self.autocast)
        except Exception as error:
            if machine_failed(error):
                raise
            why = summary(error, 120)
            reason = f"it {'decides by values' if 'DataDependent' in why else 'cannot be traced'} ({why})"
            self.report = BackendReport("eager", reason=reason)
        else:
            if same:
                self._graphs[tuple(x.shape)] = graph
                self.report = BackendReport(self.name, rewrites)
            else:
                self.report = BackendReport("eager", reason="its traced graph computes something else")
        self._failed = self.report.reason is not None
        layers = ", ".join(name or "labels" for name in self.network.layers)
        log.info("%s on %s images: %s", layers, " x ".join(map(str, x.shape)), self.report)

    def _traced(self, x: Tensor) -> tuple[fx.GraphModule, dict[str, int]]:
        dtype = torch.bfloat16 if self.autocast else x.dtype
        if self._folded is None:
            probe = torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).to(x)
            self._folded = fold_batchnorm(self.network, probe, dtype)
        folded, norms = self._folded
        network = folded.copy()  # it may keep a tensor of its trace, which has no values
        before = _state(network)

        def run(x: Tensor) -> tuple[Tensor, ...]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                return network(x)

        joint = trace_with_gradient(run, x)
        changed = [name for name, value in _state(network).items() if before.get(name) is not value]
        changed += [
            str(node.args[0].target) for node in joint.graph.nodes if writes(node) and node.args[0].op == "get_attr"
        ]
        if changed:
            raise RuntimeError(f"a forward pass changes {changed[0]}")
        rewrites = {"fold_batchnorm": norms} | {rewrite.__name__: rewrite(joint) for rewrite in REWRITES}
        joint.graph.eliminate_dead_code()
        return joint, rewrites


def _state(network: CutNetwork) -> dict[str, Any]:
    """What a network may change from pass to pass and then go by: its buffers, and the numbers among its attributes."""
    found: dict[str, Any] = {}
    for prefix, module in network.net.named_modules():
        numbers = {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
        for name, value in (numbers | module._buffers).items():
            found[f"{prefix}.{name}".lstrip(".")] = value
    return found


def _same(eager: Run, graph: Run, x: Tensor, autocast: bool) -> bool:
    """Outputs and gradient equal within rounding (relative, Euclidean); eager sees the first and the last image alone.

    A GPU rounds the factors of float32 convolutions to 10 bits (TF32), as torch has it by default.
    """
    # Gradients: a ReLU or a maximum may fall the other way.
    tolerance, rough = (5e-2, 0.7) if autocast else (1e-2, 0.3) if x.device.type == "cuda" else (1e-4, 0.1)
    ends = sorted({0, len(x) - 1})
    (theirs, their_gradient), (ours, our_gradient) = output_and_gradient(eager, x[ends]), output_and_gradient(graph, x)
    if all(a.shape == (len(ends), *b.shape[1:]) for a, b in zip(theirs, ours, strict=True)):
        ours, our_gradient = [b[ends] for b in ours], our_gradient[ends]
    else:  # an output whose first axis is not that of the images
        theirs, their_gradient = output_and_gradient(eager, x)
    if any(not _near(a.float(), b.float(), tolerance) for a, b in zip(theirs, ours, strict=True)):
        return False
    return _near(their_gradient, our_gradient, rough)


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).norm() <= tolerance * a.norm())
