"""Workers of a Ray cluster that render the items of an atlas; Ray is the extra `ray`.

The driver hands out one item at a time to each worker, gets back the bytes of its file and writes them, so that workers need no
common disk. A worker or node that is lost costs the item that it had, which another one gets. A driver that is lost is started
again by the same call: what is written stays.
"""

import copy
import logging
import math
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch

from featviz.atlases.items import ItemRenderer
from featviz.atlases.plan import Item
from featviz.errors import AtlasError, summary

log = logging.getLogger("featviz.atlas")

CPUS_PER_WORKER = 2
RETRIES = 3  # of an item whose worker is lost
PATIENCE = 60.0  # seconds without a worker, after which a line is logged


class RayWorkers:
    """What `atlas(..., workers=RayWorkers())` renders with: a worker for each GPU, or for every two cores where there is none.

    Args:
        address: of a running cluster, "auto" or "host:port"; None: the one that this process is connected to, else one on this
            machine, which ends with the call.
        workers: how many; None: as many as the cluster has GPUs, or cores for.
        cpus: of each worker, where there is no GPU: its threads.

    Raises:
        AtlasError: a number below 1.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, cpus: int = CPUS_PER_WORKER) -> None:
        for name, value in (("workers", workers), ("cpus", cpus)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise AtlasError(f"{name} is {value!r}: give a whole number of 1 or more.")
        self.address, self.workers, self.cpus = address, workers, cpus

    def __call__(self, render: ItemRenderer, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
        """Render the items, in any order.

        Raises:
            AtlasError: Ray is not installed or cannot be reached, or an item ended its worker several times.
        """
        ray = _ray()
        connected = ray.is_initialized()
        if not connected:
            try:
                ray.init(self.address, logging_level=logging.WARNING, include_dashboard=False, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = summary(error, 120)
                raise AtlasError(
                    f"Ray cannot be reached at {self.address or 'this machine'} ({reason}): start it by `ray start --head`, or "
                    "leave the address out."
                ) from error
        try:
            yield from self._rendered(ray, render, items)
        finally:
            if not connected:
                ray.shutdown()

    def _rendered(self, ray: Any, render: ItemRenderer, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        share = {"num_gpus": 1} if gpus else {"num_cpus": min(self.cpus, cpus)}
        count = self.workers or gpus or max(1, cpus // self.cpus)
        subjects = {
            name: replace(subject, model=copy.deepcopy(subject.model).cpu())
            for name, subject in render.subjects.items()
        }
        sent = ray.put(replace(render, subjects=subjects, device="cuda" if gpus else "cpu"))
        log.info("%d workers of Ray, %s each.", count, ", ".join(f"{n} {name[4:]}" for name, n in share.items()))

        def start() -> tuple[Any, Any]:
            threads = 0 if gpus else math.ceil(share["num_cpus"])
            worker = ray.remote(_Worker).options(**share).remote(sys.path, threads)
            return worker.load.remote(sent), worker

        starting = dict(start() for _ in range(count))
        running: dict[Any, tuple[Any, Item]] = {}
        idle: list[Any] = []
        again: deque[Item] = deque()
        lost: Counter[Item | None] = Counter()
        source = iter(items)

        def hand_out(worker: Any) -> None:
            item = again.popleft() if again else next(source, None)
            if item is None:
                idle.append(worker)
            else:
                running[worker.render.remote(item)] = worker, item

        while not idle or running or again:
            ready, _ = ray.wait([*running, *starting], num_returns=1, timeout=PATIENCE)
            if not ready:
                if not running:
                    log.warning("no worker of Ray is there yet: the cluster has no free %s.", " or ".join(share))
                continue
            (reference,) = ready
            worker, item = (starting.pop(reference), None) if reference in starting else running.pop(reference)
            try:
                data = ray.get(reference)
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                lost[item] += 1
                _check_loss(item, lost[item], error)
                starting.update([start()])
                if item is not None:
                    again.append(item)
                    if idle:  # the new worker may find no free place
                        hand_out(idle.pop())
                continue
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            if item is not None:
                yield item, data
            hand_out(worker)


def _check_loss(item: Item | None, times: int, error: Exception) -> None:
    """Log that a worker was lost, at an item or before it had one.

    Raises:
        AtlasError: it was lost more than `RETRIES` times.
    """
    what = "" if item is None else f" at {item.layer}, units {item.units[0]} to {item.units[-1]}"
    if times > RETRIES:
        reason = " ".join(str(error).split())[-200:]
        raise AtlasError(
            f"{times} workers of Ray were lost{what} ({reason}): look for memory, and for what the workers cannot import."
        ) from error
    log.warning("a worker of Ray is lost%s (%s): another one is started.", what, type(error).__name__)


class _Worker:
    """Renders items with networks that it is sent once.

    Args:
        path: where the driver imports from, which a network's own class may need.
        threads: of torch; 0: as it likes.
    """

    def __init__(self, path: list[str], threads: int) -> None:
        if threads:
            torch.set_num_threads(threads)
        sys.path += [folder for folder in path if folder not in sys.path]
        self._render: ItemRenderer | None = None

    def load(self, render: ItemRenderer) -> None:
        """Take the networks; they come after the path that they are imported from is known."""
        self._render = render

    def render(self, item: Item) -> bytes:
        """The bytes of an item's file."""
        assert self._render is not None
        return self._render(item).to_bytes()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise AtlasError("Ray is not installed: pip install 'featviz[ray]', or use shard.") from error
    return ray
