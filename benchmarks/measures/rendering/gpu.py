"""Every figure of one GPU: throughput, CUDA graph beside single steps, bfloat16 beside float32, memory, whole jobs.

    bash benchmarks/gpu.sh --wheels wheels/ --out runs/gpu        # the GPU tests too, in one command; see there
    python benchmarks/rendering.py gpu --out runs/gpu/figures.json

Offline, under ten minutes, with nothing but featviz's own dependencies. A part that fails leaves its error in the record and
does not stop the others. `--quick` takes the smallest sizes, to try the command itself; on a CPU (`--device cpu`) its figures
mean nothing.
"""

import argparse
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

import torch
from torch import Tensor
from tqdm import tqdm

import featviz
from featviz.config import RenderConfig
from featviz.rendering.backends.backend import Backend
from featviz.rendering.backends.cuda_graph import CudaGraph
from featviz.rendering.throughput import throughput
from measures import process
from measures.rendering import memory
from measures.rendering.cases import SIZE, activation, bundled_subjects, network
from measures.report import Record, markdown, provenance, write_record

NAME = "gpu"
HEAD = ("what", "figure")
# label -> network, layer, side of the image in pixels
CASES = {
    "resnet50 layer3, 224 px": ("resnet50", "layer3", 224),
    "bundled layer3.1.bn2, 64 px": ("bundled", "layer3.1.bn2", 64),
}
IMAGES = 1024  # rendered per throughput case
CONTROL = 1.001  # factor of the start's standard deviation


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, to try the command")
    parser.add_argument(
        "--tests", type=Path, metavar="FILE", help="JUnit file of the GPU tests, whose counts go into the record"
    )


def measure(args: argparse.Namespace) -> Record:
    """All parts; what is finished is in `args.out` at any time."""
    device = torch.device(args.device)
    record: Record = {
        "device": device_facts(device),
        "quick": args.quick,
        "finished": False,
        "tests": None,
        "parts": {},
    }
    if args.tests is not None:
        record["tests"] = test_counts(args.tests)
    for name, part in tqdm(PARTS.items()):
        began = time.perf_counter()
        try:
            found = {"figures": part(device, args.quick)}
        except Exception as error:  # one part that fails must not cost the others their figures
            found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        record["parts"][name] = found | {"seconds": time.perf_counter() - began}
        if args.out:
            write_record(args.out, provenance() | record)
    return record | {"finished": True}


def test_counts(file: Path) -> Record:
    """How many tests ran and failed, with the names of those that failed, of pytest's `--junitxml`."""
    cases = list(ElementTree.parse(file).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return {"ran": len(cases), "failed": [f"{case.get('classname')}::{case.get('name')}" for case in failed]}


def device_facts(device: torch.device) -> Record:
    """Name, memory and versions of the device."""
    if device.type != "cuda":
        return {"name": str(device)}
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": facts.name,
        "memory_gib": facts.total_memory / 2**30,
        "multiprocessors": facts.multi_processor_count,
        "capability": list(torch.cuda.get_device_capability(device)),
        "cuda": torch.version.cuda,
    }


def rates(device: torch.device, quick: bool) -> Record:
    """Renderings per second, time over the bare trunk's, teraflops and peak memory, by precision."""
    found = {}
    for label, (name, layer, side) in CASES.items():
        model = network("resnet18" if quick and name == "resnet50" else name, str(device))
        for precision in ("bfloat16", "float32") if device.type == "cuda" else ("float32",):
            config = RenderConfig(size=min(side, 64) if quick else side, precision=precision)
            config = replace(config, steps=2, batch=2) if quick else config
            one = throughput(model, layer, config, 2 if quick else IMAGES, device)
            found[f"{label}, {precision}"] = asdict(one) | {"per_second": one.per_second, "of_trunk": one.of_trunk}
    return found


def graph_beside_steps(device: torch.device, quick: bool) -> Record:
    """Seconds of a whole render: steps replayed as a CUDA graph, launched one by one, and plain torch ("eager").

    largest_difference: of the images to those of the graph.
    """
    found = {}
    for label, (name, layer, side) in CASES.items():
        model = network("resnet18" if quick and name == "resnet50" else name, str(device))
        batch = 2 if quick else 16
        specs = f"{layer}:0-{batch - 1}"
        config = RenderConfig(size=min(side, 64) if quick else side, steps=8 if quick else 128, batch=batch)
        seconds, images = _timed_render(model, specs, config, device)
        found[label] = {"graph": {"seconds": seconds}}
        with mock.patch.object(CudaGraph, "step_runner", Backend.step_runner):
            found[label]["steps"] = _beside(images, *_timed_render(model, specs, config, device))
        eager = replace(config, backend="eager")
        found[label]["eager"] = _beside(images, *_timed_render(model, specs, eager, device))
    return found


def _beside(expected: Tensor, seconds: float, images: Tensor) -> Record:
    return {"seconds": seconds, "largest_difference": float((images - expected).abs().max())}


def bfloat16_beside_float32(device: torch.device, quick: bool) -> Record:
    """Activation of bfloat16's images over float32's, unit by unit; control: float32 from a start larger by a thousandth."""
    model = bundled_subjects()["A"].to(device)
    units = list(range(2 if quick else 64))
    layer = "layer3.1.bn1"
    base = RenderConfig(size=SIZE, precision="float32", **({"steps": 2} if quick else {}))
    configs = {
        "float32": base,
        "bfloat16": replace(base, precision="bfloat16"),
        "control": replace(base, sd=CONTROL * base.sd),
    }
    scores = {}
    for name, config in configs.items():
        images = featviz.render(model, [f"{layer}:{unit}" for unit in units], config).images
        scores[name] = activation(model, layer, units, images).cpu()
    ratios = {name: scores[name] / scores["float32"] for name in ("bfloat16", "control")}
    return {name: {"mean": float(ratio.mean()), "sd": float(ratio.std())} for name, ratio in ratios.items()}


def memory_of_budgets(device: torch.device, quick: bool) -> Record:
    """Peak of what torch allocated, for budgets given to `batch="auto"`; each in a process of its own."""
    if quick:
        settings = {"network": "resnet18", "layer": "layer1", "units": 2, "steps": 2, "size": 64}
        budgets = [0.5]
    else:
        settings = {"network": "resnet50", "layer": "layer3", "units": 512, "steps": 3, "size": 224}
        budgets = [2, 8, 16]
    args = argparse.Namespace(**settings, device=str(device))
    return {f"{budget:g} GiB": process.in_own_process(memory.case, args, budget) for budget in budgets}


def jobs(device: torch.device, quick: bool) -> Record:
    """Seconds of whole jobs: align, merge with repair and render triplets of all units of a layer of the bundled pair."""
    pair = featviz.bundled_pair()
    a, b = pair.a.to(device), pair.b.to(device)
    generator = torch.Generator().manual_seed(0)
    data = [torch.rand(100, 3, 32, 32, generator=generator) for _ in range(1 if quick else 50)]
    example = data[0][:1].to(device)
    found: Record = {"images": 100 * len(data)}
    alignment, found["align_weights_seconds"] = _timed(lambda: featviz.align(a, b, example), device)
    alignment, found["align_activations_seconds"] = _timed(
        lambda: featviz.align(a, b, example, "activations", data), device
    )
    merged, found["merge_seconds"] = _timed(
        lambda: featviz.merge(a, b, alignment, repair="batchnorm", data=data), device
    )
    config = RenderConfig(size=SIZE, **({"steps": 2} if quick else {}))
    units = list(range(2)) if quick else None
    triplets, found["triplet_seconds"] = _timed(
        lambda: featviz.render_unit_triplet(
            a, b, "layer3.1.bn1", units, merged=merged, alignment=alignment, config=config
        ),
        device,
    )
    found["triplets"] = len(triplets)
    return found


def _timed_render(model, specs: str, config: RenderConfig, device: torch.device):
    """Seconds of a render after a warm-up of as many steps, and its images on the CPU."""
    featviz.render(model, specs, replace(config, steps=min(8, config.most_steps)), device=device)
    rendered, seconds = _timed(lambda: featviz.render(model, specs, config, device=device), device)
    return seconds, rendered.images.cpu()


def _timed(work: Callable, device: torch.device):
    """The result of a call and its seconds, the device's work included."""
    began = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - began


def table(records: list[Record]) -> str:
    record = records[0]
    rows = [["device", ", ".join(f"{value}" for value in record["device"].values())]]
    if record["quick"]:
        rows.append(["quick", "smallest sizes and networks: these figures mean nothing"])
    if record["tests"] is not None:
        failed = record["tests"]["failed"]
        rows.append(["tests", f"{record['tests']['ran']} ran, {len(failed)} failed {', '.join(failed)}".rstrip()])
    for name, part in record["parts"].items():
        if "error" in part:
            rows.append([name, f"failed: {part['error']}"])
            continue
        rows += [[f"{name}: {label}", text] for label, text in ROWS[name](part["figures"])]
    return markdown(HEAD, rows)


def _rate_rows(figures: Record):
    for label, row in figures.items():
        peak = f", peak {row['peak'] / 2**30:.2f} GiB" if row["peak"] else ""
        work = f"{row['images']} images, {row['steps']} steps, {row['batch']} at once"
        speed = f"{row['milliseconds']:.3g} ms per image and step, {row['of_trunk']:.2f} of the bare trunk"
        arithmetic = f"{row['teraflops']:.3g} of {row['rate']:.3g} TFLOP/s{peak}"
        yield label, f"{row['per_second']:.3g} renderings per second ({work}); {speed}; {arithmetic}"


def _graph_rows(figures: Record):
    for label, row in figures.items():
        others = [
            f"{row[name]['seconds']:.2f} s {text} (images differ by at most {row[name]['largest_difference']:.1g})"
            for name, text in (("steps", "step by step"), ("eager", "eager"))
        ]
        yield label, f"{row['graph']['seconds']:.2f} s as a graph, {others[0]}, {others[1]}"


def _precision_rows(figures: Record):
    for label, row in figures.items():
        yield f"{label} over float32", f"activation {row['mean']:.3f} ± {row['sd']:.3f}"


def _memory_rows(figures: Record):
    for label, row in figures.items():
        peak = row["peak_bytes"] / 2**30
        yield label, f"{row['images']} images at once, peak {peak:.2f} GiB ({100 * peak / row['budget']:.0f} %)"


def _job_rows(figures: Record):
    for job in ("align_weights", "align_activations", "merge", "triplet"):
        yield job.replace("_", ", "), f"{figures[f'{job}_seconds']:.2f} s"


PARTS: dict[str, Callable[[torch.device, bool], Record]] = {
    "throughput": rates,
    "cuda graph": graph_beside_steps,
    "precision": bfloat16_beside_float32,
    "memory": memory_of_budgets,
    "jobs": jobs,
}
ROWS = {
    "throughput": _rate_rows,
    "cuda graph": _graph_rows,
    "precision": _precision_rows,
    "memory": _memory_rows,
    "jobs": _job_rows,
}
