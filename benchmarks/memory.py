"""Memory of rendering: what `batch="auto"` makes of a budget, and the peak of the process, for ResNet-50 `layer3` at 224 px.

    uv run python benchmarks/memory.py --out benchmarks/results/memory.json --readme README.md

Each row is a process of its own that renders 64 units with `RenderConfig(memory=...)`. On a CPU the peak is that of resident
memory (Linux: VmHWM) over what the process held with the network loaded and one image rendered; on a GPU what torch allocated
at most. A batch is planned with 85 % of the budget, copies of the weights included.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import torch
import torchvision
from machine import report
from tqdm import tqdm

import featviz
from featviz.rendering.network.feature_extractor import Trunk
from featviz.rendering.objectives import channel
from featviz.rendering.optimize.batching import batch_size, image_bytes

HEAD = "| budget, GiB | images at once | planned per image, MiB | peak, GiB | of the budget |"


def resident(what: str) -> int:
    """Bytes of VmRSS or VmHWM."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure(network: str, layer: str, budget: float, units: int, steps: int, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    model = torchvision.models.get_model(network, weights=None).eval().to(device)
    config = featviz.RenderConfig(size=224, steps=steps, memory=budget, restarts=0)
    featviz.render(model, f"{layer}:0", config)
    objective = channel(layer, list(range(units)))
    with Trunk(model, (layer,), config) as trunk:
        images = batch_size(trunk, objective, config)
    with Trunk(model, (layer,), config) as trunk:
        counted = image_bytes(trunk, objective, config)
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
    else:
        torch.cuda.reset_peak_memory_stats()
        before = 0
    featviz.render(model, f"{layer}:0-{units - 1}", config)
    peak = resident("VmHWM") - before if device == "cpu" else torch.cuda.max_memory_allocated()
    return {"budget": budget, "images": images, "image_bytes": counted, "peak_bytes": peak}


def table(rows: list[dict[str, float]]) -> str:
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for row in rows:
        peak = row["peak_bytes"] / 2**30
        cells = [f"{row['budget']:g}", f"{row['images']}", f"{row['image_bytes'] / 2**20:.0f}", f"{peak:.2f}"]
        lines.append("| " + " | ".join([*cells, f"{100 * peak / row['budget']:.0f} %"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--layer", default="layer3")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 1, 2, 4], help="GiB")
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", type=float, help="measure this budget alone and print it as JSON")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--readme", type=Path, help="the file whose table is replaced")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.network, args.layer, args.one, args.units, args.steps, args.device)))
        return
    rows = []
    for budget in tqdm(args.budgets):
        command = [sys.executable, *sys.argv, "--one", str(budget)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    report(args, table(rows), network=args.network, rows=rows)


if __name__ == "__main__":
    main()
