"""Which architectures featviz traces exactly: relative error, free and pinned units, seconds and peak memory of each.

    uv run python benchmarks/symmetry.py architectures --keep

Every network runs in a process of its own, at its native input size, with random weights and random norm statistics. It is
traced as `featviz.permutation_groups(model, x)` does it (verification included), and then judged apart from that: one random
permutation of all groups together, another random input, float64; the error is the largest change of any output over the
largest output. *Pinned* are output units of convolutions and linear layers (other than the logits) that may not move. Peak
memory is the process's resident set, of which importing torch and torchvision takes about 0.4 GiB.

The peers' results (PLeaS, sinkhorn-rebasin, rebasin: a random permutation of each group that they derive, float64, random
norm statistics, native input) were measured earlier, on the families named in `PEERS`, and stand here as they were found.
"""

import argparse
import time

import numpy as np
import torch
from tqdm import tqdm

import featviz
from featviz.symmetry.discovery import private_copy
from featviz.symmetry.groups import PermutationGroups
from featviz.symmetry.permute import random_permutations
from featviz.symmetry.verification import randomise_constants, relative_error
from measures import process
from measures.rendering.cases import network
from measures.report import Record, markdown

NAME = "architectures"
NETWORKS = {  # of torchvision -> side of its input in pixels
    "alexnet": 224, "vgg11": 224, "vgg16_bn": 224, "resnet18": 224, "resnet50": 224, "wide_resnet50_2": 224,
    "resnext50_32x4d": 224, "densenet121": 224, "googlenet": 224, "inception_v3": 299, "squeezenet1_0": 224,
    "mobilenet_v2": 224, "mobilenet_v3_small": 224, "mobilenet_v3_large": 224, "mnasnet0_5": 224,
    "shufflenet_v2_x1_0": 224, "efficientnet_b0": 224, "efficientnet_v2_s": 384, "regnet_x_400mf": 224,
    "regnet_y_400mf": 224, "convnext_tiny": 224, "vit_b_16": 224, "swin_t": 224, "swin_v2_t": 256, "maxvit_t": 224,
}  # fmt: skip
PEERS = {  # peer -> result -> starts of the names of the families with that result; a network of none was not measured
    "PLeaS": {
        "exact": ("resnet", "efficientnet_b0", "convnext"),
        "wrong": ("densenet", "googlenet", "squeezenet", "vit"),
        "no answer": ("alexnet", "vgg", "resnext", "mobilenet", "shufflenet", "regnet", "swin"),
    },
    "sinkhorn-rebasin": {
        "exact": ("resnet",),
        "not exact": (
            *("alexnet", "vgg", "resnext", "densenet", "googlenet", "squeezenet", "mobilenet", "shufflenet"),
            *("efficientnet_b0", "regnet", "convnext", "vit", "swin"),
        ),
    },
    "rebasin": {
        "wrong": ("resnet", "alexnet", "resnext", "mobilenet", "efficientnet_b0", "shufflenet", "regnet"),
    },
}
HEAD = ("network", "result", "error", "free units", "in blocks", "pinned", "seconds", "peak MiB", *PEERS)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))


def measure(args: argparse.Namespace) -> Record:
    return {"networks": {name: process.in_own_process(_case, name) for name in tqdm(args.networks)}}


def _case(name: str) -> dict[str, object]:
    """One network, in this process."""
    model = network(name)
    side = NETWORKS[name]
    x = torch.rand(1, 3, side, side)
    began = time.perf_counter()
    featviz.permutation_groups(model, x, verify=False)
    traced = time.perf_counter() - began
    began = time.perf_counter()
    groups = featviz.permutation_groups(model, x)
    seconds = time.perf_counter() - began
    peak = process.peak_resident()
    trial, inputs = private_copy(model, torch.rand(1, 3, side, side), torch.float64)
    randomise_constants(trial, torch.Generator().manual_seed(1))
    error = relative_error(trial, inputs, groups, random_permutations(groups, np.random.default_rng(1)))
    refused = [pin.parameter for pin in groups.pinned if "verification" in pin.reason]
    return {
        "input": side, "relative_error": error, "groups": len(groups), "free": groups.free_units,
        "in_blocks": sum(group.size for group in groups if group.axes and group.blocks > 1),
        "pinned": pinned_units(model, groups), "refused": refused, "unknown": dict(groups.unknown),
        "seconds": seconds, "seconds_tracing": traced, "peak_mib": peak / 2**20,
        "result": "exact" if error < 1e-10 and not refused else "refused in part" if error < 1e-10 else "WRONG",
    }  # fmt: skip


def pinned_units(model: torch.nn.Module, groups: PermutationGroups) -> int:
    """Output units of modules with a weight matrix or kernel that may not move, without those of the network's output."""
    outputs = {pin.parameter for pin in groups.pinned if pin.axis == 0 and pin.reason == "the network's output"}
    modules = dict(model.named_modules())
    count = 0
    for name, units in groups.layers.items():
        weight = getattr(modules[name], "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() > 1 and f"{name}.weight" not in outputs:
            count += int((units.group < 0).sum())
    return count


def table(records: list[Record]) -> str:
    rows = []
    for name, row in records[0]["networks"].items():
        figures = [row["result"], f"{row['relative_error']:.0e}", f"{row['free']:,}", f"{row['in_blocks']:,}"]
        figures += [f"{row['pinned']:,}", f"{row['seconds']:.1f}", f"{row['peak_mib']:,.0f}"]
        rows.append([name, *figures, *(_peer(results, name) for results in PEERS.values())])
    return markdown(HEAD, rows)


def _peer(results: dict[str, tuple[str, ...]], name: str) -> str:
    return next((result for result, families in results.items() if name.startswith(families)), "–")
