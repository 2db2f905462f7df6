"""Workers of Ray make the same files as one process, also where a worker or a node is lost."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from small_atlas import files, make

import featviz

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each, of which one can be removed."""
    from ray.cluster_utils import Cluster

    # Ray makes workers nice, and other tests on this machine then leave them no time.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's spelling)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("atlas") / "ab"
    make(folder)
    return folder


class Losing(featviz.RayWorkers):
    """Calls `lose` once, when the first item has come back."""

    def __init__(self, lose) -> None:
        super().__init__(workers=2, cpus=1)
        self.lose = lose

    def __call__(self, render, items):
        for number, found in enumerate(super().__call__(render, items)):
            if number == 0:
                self.lose()
            yield found


def test_workers_make_the_files_of_one_process_also_where_a_worker_and_a_node_are_lost(cluster, complete, tmp_path):
    make(tmp_path / "plain", workers=featviz.RayWorkers(workers=2, cpus=1))
    assert files(tmp_path / "plain") == files(complete)

    make(tmp_path / "worker", workers=Losing(kill_a_worker))
    assert files(tmp_path / "worker") == files(complete)

    make(tmp_path / "node", workers=Losing(lambda: cluster.remove_node(cluster.second, allow_graceful=False)))
    assert files(tmp_path / "node") == files(complete)


def kill_a_worker() -> None:
    """SIGKILL to one process that renders."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for process in Path("/proc").iterdir():
            try:
                title = (process / "cmdline").read_bytes() if process.name.isdecimal() else b""
            except OSError:
                continue
            if title.startswith(b"ray::_Worker.render"):
                os.kill(int(process.name), signal.SIGKILL)
                return
        time.sleep(0.01)
    raise AssertionError("no worker renders")
