"""Functions run in a process of their own, so that peak memory is that of one case (Linux)."""

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def in_own_process(function: Callable[..., Any], *arguments: Any, limit: float | None = None) -> Any:
    """The result of a module's function, computed in a fresh Python process.

    Raises:
        TimeoutError: it took more than `limit` seconds, and was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(function, *arguments)
        try:
            return future.result(limit)
        except TimeoutError:
            for child in pool._processes.values():
                child.kill()
            raise


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return _status("VmRSS")


def peak_resident() -> int:
    """The most bytes that this process held since it began, or since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Count the peak from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"/proc/self/status has no {name}"
    return int(found[1]) * 1024
