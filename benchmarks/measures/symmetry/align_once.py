"""One alignment in a process of its own, by the featviz that this process imports, which may be an earlier version.

    PYTHONPATH=CHECKOUT python align_once.py '{"network": "resnet50", "method": "weights", ...}' OUT.npz

Writes the permutations, and as JSON under "figures" seconds and peak memory. It imports nothing of the other benchmarks, and of
featviz only what earlier versions have: `align` and `permutation_groups`.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import torch
import torchvision
from torch import Tensor, nn

BATCH = 16
SIDES = {"resnet20": 32}  # of zoo networks; 224 of torchvision's


def pair(network: str) -> tuple[nn.Module, nn.Module]:
    """Two networks of torchvision, or `resnet20-xWIDTH` of the zoo, with random weights that are the same at every call."""
    torch.manual_seed(0)
    if network.startswith("resnet20-x"):
        from featviz.zoo import CifarResNet

        return CifarResNet(20, int(network[10:])).eval(), CifarResNet(20, int(network[10:])).eval()
    a, b = (torchvision.models.get_model(network, weights=None).eval() for _ in "ab")
    return a, b


def example(network: str) -> Tensor:
    side = SIDES.get(network.partition("-")[0], 224)
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def main(network: str, method: str, images: int, starts: int, threads: int, parts: bool) -> tuple[dict, dict]:
    """Figures, and permutations by group.

    Args:
        method: of `align`, or "planted": weight matching of a network with a permuted copy.
        starts: of weight matching.
        parts: tell products, gathers and assignments apart; with one thread.
    """
    torch.set_num_threads(threads)
    seconds: dict[str, float] = defaultdict(float)
    if parts:  # before featviz is imported
        Tensor.addmm_ = _timed(seconds, "products", Tensor.addmm_)
        Tensor.__matmul__ = _timed(seconds, "products", Tensor.__matmul__)
        Tensor.index_select = _timed(seconds, "gathers", Tensor.index_select)
        scipy.optimize.linear_sum_assignment = _timed(seconds, "assignments", scipy.optimize.linear_sum_assignment)
    import featviz

    a, b = pair(network)
    x = example(network)
    figures: dict[str, Any] = {}
    groups, figures["groups_seconds"] = _seconds_of(lambda: featviz.permutation_groups(a, x))
    truth = {}
    if method == "planted":
        from featviz.symmetry.permute import permute_module, random_permutations

        there = random_permutations(groups, np.random.default_rng(0))
        b = permute_module(a, groups, there)
        truth = {name: np.argsort(perm) for name, perm in there.items()}
    data = None
    if method == "activations":
        noise = torch.Generator().manual_seed(0)
        data = [torch.randn(BATCH, *x.shape[1:], generator=noise) for _ in range(images // BATCH)]
        figures["forward_seconds"] = min(_seconds_of(lambda: _forward((a, b), data))[1] for _ in range(2))
    seconds.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    used = "weights" if method == "planted" else method
    found, whole = _seconds_of(lambda: featviz.align(a, b, x, used, data, restarts=starts, verify=False))
    figures["seconds"] = whole
    figures["peak_gib"] = _peak_resident() / 2**30
    figures["parts"] = dict(seconds)
    if truth:
        owned = [group.name for group in groups if group.axes]
        figures["recovered"] = sum(int((found.permutations[name] == truth[name]).sum()) for name in owned)
        figures["units"] = sum(len(truth[name]) for name in owned)
    return figures, dict(found.permutations)


def _timed(seconds: dict[str, float], part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - began

    return timed


def _seconds_of(function: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def _forward(networks: tuple[nn.Module, ...], data: list[Tensor]) -> None:
    with torch.inference_mode():
        for images in data:
            for network in networks:
                network(images)


def _peak_resident() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    measured, permutations = main(**json.loads(sys.argv[1]))
    np.savez(sys.argv[2], figures=json.dumps(measured), **{f"perm/{name}": perm for name, perm in permutations.items()})
