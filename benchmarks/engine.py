"""The rendering engine: backends against each other, two threads, and which networks a trace can follow.

python benchmarks/engine.py backends   # time of a step, eager over auto, forward and input gradient, in turns
python benchmarks/engine.py threads    # two networks rendered by two threads, over one after the other
python benchmarks/engine.py graphs     # detach, hooks, in-place, ...: equal to eager? in the traced graph?
python benchmarks/engine.py cases      # CPU seconds of the four throughput cases; another checkout by PYTHONPATH
"""

import argparse
import logging
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import featviz

NETWORKS = {  # name -> layer, side that is fed
    "resnet18": ("layer3", 224),
    "resnet50": ("layer3", 224),
    "efficientnet_b0": ("features.5", 224),
    "mobilenet_v3_small": ("features.8", 224),
    "vit_b_16": ("encoder.layers.encoder_layer_5", 224),
    "swin_t": ("features.5", 224),
    "bundled": ("layer3.1.bn2", 64),
}
CASES = {
    ("resnet18", "layer2"): (128, 224),
    ("resnet18", "layer4"): (128, 224),
    ("resnet50", "layer3"): (128, 224),
    ("bundled", "layer3.1.bn2"): (64, 64),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "bundled":
        return featviz.bundled_pair().a
    return torchvision.models.get_model(name, weights=None).eval()


def seconds(run: Callable[[], object], cpu: bool = True) -> float:
    clock = time.process_time if cpu else time.perf_counter
    began = clock()
    run()
    return clock() - began


def step_of(extractor: Any, layer: str, x: torch.Tensor) -> Callable[[], object]:
    """Forward to the layer and gradient with respect to x."""
    return lambda: torch.autograd.grad(extractor(x)[layer].square().sum(), x)


def backends(batch: int, rounds: int) -> None:
    from featviz.rendering import FeatureExtractor

    print("| network, layer | auto, ms CPU per image and step | eager | eager / auto | set-up, s CPU | rewrites |")
    print("|---|---|---|---|---|---|")
    for name, (layer, side) in NETWORKS.items():
        model, config = network(name), featviz.RenderConfig(size=side)
        x = torch.rand(batch, 3, side, side).requires_grad_()
        fast, eager = (
            FeatureExtractor(model, (layer,), replace(config, backend=backend)) for backend in ("auto", "eager")
        )
        runs = [step_of(extractor, layer, x) for extractor in (fast, eager)]
        setup, _ = (seconds(run) for run in runs)
        times = [[1000 * seconds(run) / batch for run in runs] for _ in range(rounds)]
        auto, plain = (statistics.median(found) for found in zip(*times, strict=True))
        print(
            f"| {name} {layer} | {auto:.1f} | {plain:.1f} | {plain / auto:.2f} | {setup:.1f} | {fast.report} |",
            flush=True,
        )


def threads(steps: int) -> None:
    torch.set_num_threads(1)
    models, config = [network("resnet18"), network("bundled")], featviz.RenderConfig(size=64, steps=steps, batch=8)
    layers = ("layer2:0-7", "layer3.1.bn2:0-7")
    work = [lambda m=m, layer=layer: featviz.render(m, layer, config) for m, layer in zip(models, layers, strict=True)]
    alone = [seconds(run, cpu=False) for run in work]
    made = [threading.Thread(target=run) for run in work]

    def together() -> None:
        for thread in made:
            thread.start()
        for thread in made:
            thread.join()

    both = seconds(together, cpu=False)
    print(
        f"alone {alone[0]:.2f} s and {alone[1]:.2f} s, two threads {both:.2f} s: {both / max(alone):.2f} of the longer one, "
        f"{both / sum(alone):.2f} of one after the other"
    )


def graphs() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from networks import Decides, seeded
    from odd_networks import PARTS, Counts, Part, Tied

    from featviz.rendering import FeatureExtractor

    def part(name: str) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), Part(name))

    makers = {name: lambda name=name: part(name) for name in (*PARTS, "module hook")}
    makers |= {"branch on values": Decides, "tied weights": Tied, "buffers written in forward": Counts}
    print("| network | difference of output | of gradient | run by |\n|---|---|---|---|")
    for name, make in makers.items():
        model, found = seeded(make), []
        for backend in ("auto", "eager"):
            config = featviz.RenderConfig(
                size=16, precision="float32", backend=backend, mean=(0.5,) * 3, std=(0.25,) * 3
            )
            extractor = FeatureExtractor(model, ("labels",), config)
            x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
            out = extractor(x)["labels"]
            found.append((out.detach(), torch.autograd.grad(out.square().sum(), x)[0], str(extractor.report)))
        (a, g, report), (b, h, _) = found
        print(f"| {name} | {(a - b).norm() / b.norm():.0e} | {(g - h).norm() / h.norm():.0e} | {report} |")


def cases(batch: int, steps: int) -> None:
    for (name, layer), (side, fed) in CASES.items():
        model = network(name)
        config = featviz.RenderConfig(size=side, input_size=fed, steps=steps, batch=batch, lr=0.05)
        taken = seconds(lambda m=model, c=config, at=layer: featviz.render(m, f"{at}:0-{batch - 1}", c))
        print(f"{name} {layer} {1000 * taken / batch / steps:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("backends", "threads", "graphs", "cases"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    logging.getLogger("featviz").setLevel(logging.ERROR)
    if args.what == "backends":
        backends(args.batch, args.rounds)
    elif args.what == "threads":
        threads(args.steps)
    elif args.what == "graphs":
        graphs()
    else:
        cases(args.batch, args.steps)


if __name__ == "__main__":
    main()
