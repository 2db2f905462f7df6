"""The CUDA graph: hundreds of kernels of a step are launched at once, by the device, instead of one by one from Python.

A network of 100 layers launches some 600 kernels a step; where images are small, the launches take longer than the work. A
CUDA graph replays the same kernels on the same memory that it was recorded with, so a step has to read what changes (its
number, its warp, its learning rate) from the device, and must leave nothing to Python: `optimize/loop.py` keeps to that, and a
test on the CPU replays its operators in this manner.
"""

from collections.abc import Callable

import torch

from featviz.rendering.backends.backend import log
from featviz.rendering.backends.traced_graph import TracedGraph
from featviz.rendering.network.failures import out_of_memory

WARM = 3  # calls before the recording: libraries choose their kernels, what is made once is made


class CudaGraph(TracedGraph):
    """The traced graph, and steps recorded as CUDA graphs."""

    name = "CUDA graph"

    def repeated(self, step: Callable[[], None]) -> Callable[[], None]:
        return Recorded(step, self.device)


class Recorded:
    """`work`, called, from its fourth call on replayed; where it cannot be recorded it goes on as it is, with a log line.

    Args:
        work: reads and writes the same tensors in every call; everything runs on `device`.
        device: a CUDA device.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self._work, self._device = work, device
        self._stream = torch.cuda.Stream(device)
        self._warm = 0
        self._settled: Callable[[], None] | None = None  # the graph, or the work itself

    def __call__(self) -> None:
        if self._settled is None and self._warm == WARM:
            self._settled = self._record()
        if self._settled is not None:
            self._settled()
            return
        here = torch.cuda.current_stream(self._device)  # a recording asks for warm calls on a stream of its own
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            self._work()
        here.wait_stream(self._stream)
        self._warm += 1

    def _record(self) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self._device), torch.cuda.graph(graph, stream=self._stream):
                self._work()
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:120]
            log.warning("a step cannot be recorded as a CUDA graph (%s): its kernels are launched one by one.", reason)
            return self._work
        return graph.replay
