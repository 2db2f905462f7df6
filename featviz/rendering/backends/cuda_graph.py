"""The CUDA graph: hundreds of kernels of a step are launched at once, by the device, instead of one by one from Python.

A network of 100 layers launches some 600 kernels a step; where images are small, the launches take longer than the work. A
CUDA graph replays the same kernels on the same memory that it was recorded with, so a step has to read what changes (its
number, its warp, its learning rate) from the device, and must leave nothing to Python: `optimize/loop.py` keeps to that, and a
test on the CPU replays its operators in this manner.
"""

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator

import torch

from featviz.errors import summary
from featviz.failures import out_of_memory
from featviz.rendering.backends.backend import StepRunner, log
from featviz.rendering.backends.traced_graph import TracedGraph

WARM = 3  # calls before the recording: libraries choose their kernels, what is made once is made


class CudaGraph(TracedGraph):
    """The traced graph, and steps recorded as CUDA graphs."""

    name = "CUDA graph"

    def step_runner(self) -> StepRunner:
        return RecordedStep(self.device)


class RecordedStep:
    """Runs a step, from its fourth call on as a replayed graph; where it cannot be recorded it is run, with a log line.

    The step is given at every call and never kept: an ascent whose runner held its step would be freed, with its graph's
    memory, only when Python looks for circles.

    Args:
        device: a CUDA device; everything of the step runs there.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _side_stream(device)
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed = False

    def __call__(self, step: Callable[[], None]) -> None:
        if self._graph is None and not self._failed and self._warm == WARM:
            self._graph = self._record(step)
            self._failed = self._graph is None
        if self._graph is not None:
            self._graph.replay()
            return
        if self._failed:
            step()
            return
        here = torch.cuda.current_stream(self._device)  # a recording asks for warm calls on a stream of its own
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            step()
        here.wait_stream(self._stream)
        self._warm += 1

    def _record(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                _no_garbage_collection(),
                torch.cuda.device(self._device),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                step()
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            reason = summary(error, 120)
            log.warning("a step cannot be recorded as a CUDA graph (%s): its kernels are launched one by one.", reason)
            return None
        return graph


_side_streams = threading.local()


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for each thread and device: cuBLAS keeps 64 MiB for every stream that it has seen, until the process ends."""
    name = str(device)
    if not hasattr(_side_streams, name):
        setattr(_side_streams, name, torch.cuda.Stream(device))
    return getattr(_side_streams, name)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A graph that is freed while another is recorded ends the recording."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
