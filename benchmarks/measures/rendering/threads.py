"""Two networks rendered by two threads at once, beside one after the other.

    uv run python benchmarks/rendering.py threads --keep

Seconds of wall-clock time of eight units each of ResNet-18 (random weights) and of the bundled network, with one thread of
torch for each, so that two cores can do both at once.
"""

import argparse
import threading
import time
from collections.abc import Callable

import torch

import featviz
from measures.rendering.cases import network
from measures.report import Record, markdown

NAME = "threads"
WORK = {"resnet18": "layer2:0-7", "bundled": "layer3.1.bn2:0-7"}
HEAD = ("resnet18 alone, s", "bundled alone, s", "two threads, s", "over the longer one", "over one after the other")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=48)


def measure(args: argparse.Namespace) -> Record:
    torch.set_num_threads(1)
    config = featviz.RenderConfig(size=64, steps=args.steps, batch=8)
    networks = {name: network(name) for name in WORK}
    work = [lambda n=name, u=units: featviz.render(networks[n], u, config) for name, units in WORK.items()]
    alone = [_seconds(run) for run in work]
    made = [threading.Thread(target=run) for run in work]

    def together() -> None:
        for thread in made:
            thread.start()
        for thread in made:
            thread.join()

    return {"alone": alone, "together": _seconds(together)}


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def table(records: list[Record]) -> str:
    alone, both = records[0]["alone"], records[0]["together"]
    seconds = [f"{value:.2f}" for value in (*alone, both)]
    return markdown(HEAD, [[*seconds, f"{both / max(alone):.2f}", f"{both / sum(alone):.2f}"]])
