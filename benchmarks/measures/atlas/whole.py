"""An atlas of all units of the norms of the bundled pair, with evidence: units per minute, bytes per unit, memory over time.

    python benchmarks/atlas.py whole_network --data cifar/ --quality draft --keep

The atlas is made in a process of its own, whose resident memory is read every five seconds (Linux), and kept
in `--out-folder`; `featviz page` makes a page of it. *webp*: the same pictures as WebP of quality 90, over their raw bytes.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import featviz
from featviz.atlases.items import pictures_of, webp_arrays
from measures.report import Record, markdown

NAME = "whole_network"
PLOT = "atlas-memory.png"
HEAD = (
    "units", "networks", "quality", "measured on", "evidence, s", "rendering, s",
    "units per minute", "bytes per unit", "of them evidence", "webp", "page, bytes per unit", "memory, MiB",
)  # fmt: skip
EVERY = 5.0  # seconds between two looks at the memory
WEIGHTS = Path(featviz.__file__).parent / "zoo" / "weights"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="CIFAR-10")
    parser.add_argument("--images", type=int, default=2000, help="of the test set, for the evidence")
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--layers", nargs="+", default=[])
    parser.add_argument("--out-folder", type=Path, default=Path("out/atlas"), metavar="FOLDER")


def measure(args: argparse.Namespace) -> Record:
    folder = args.out_folder
    shutil.rmtree(folder, ignore_errors=True)
    names = ("a", "b", "alignment")
    a, b, alignment = (str(WEIGHTS / f"{name}.safetensors") for name in names)
    command = [
        sys.executable, "-m", "featviz", "atlas", a, b, "--arch", "resnet20-x2", "--alignment", alignment, "--size", "64",
        "--quality", args.quality, "--data", str(args.data / "test"), "--data-size", "32", "--limit", str(args.images),
        "--out", str(folder), *(part for layer in args.layers for part in ("--layers", layer)),
    ]  # fmt: skip
    began = time.perf_counter()
    samples: list[tuple[float, float, int]] = []  # seconds, MiB, items
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            items = len(list(folder.glob("items/*/*.safetensors")))
            samples.append((time.perf_counter() - began, _resident(process.pid), items))
            time.sleep(EVERY)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"featviz atlas ended with {process.returncode}.")
    store = featviz.AtlasStore.open(folder)
    units = sum(row.units for row in store.status())
    first = next((when for when, _, items in samples if items), seconds)
    pictures, evidence = (_size(folder / name) for name in ("items", "evidence"))
    raw = lossy = 0
    for item in store.items()[:: max(1, len(store.items()) // 8)]:
        images = pictures_of(store.read(item))
        raw += images.nbytes
        lossy += sum(array.nbytes for array in webp_arrays(images).values())
    page = featviz.page(folder).parent
    return {
        "units": units,
        "networks": len(store.identity.subjects),
        "quality": args.quality,
        "images": args.images,
        "seconds": seconds,
        "evidence_seconds": first,
        "per_minute": 60 * units / (seconds - first),
        "bytes_per_unit": (pictures + evidence) / units,
        "evidence_bytes": evidence / units,
        "webp": lossy / raw,
        "page_bytes": _size(page) / units,
        "samples": [[round(when, 1), round(memory, 1), items] for when, memory, items in samples],
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("**/*") if path.is_file())


def _resident(process: int) -> float:
    """MiB; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def table(records: list[Record]) -> str:
    (row,) = records
    memory = np.array([value for _, value, items in row["samples"] if items])
    spread = f"{memory.min():.0f} to {memory.max():.0f}" if len(memory) else ""
    cells = [row["units"], row["networks"], row["quality"], f"{row['images']} images", f"{row['evidence_seconds']:.0f}"]
    cells += [f"{row['seconds'] - row['evidence_seconds']:.0f}", f"{row['per_minute']:.0f}"]
    cells += [f"{row['bytes_per_unit']:,.0f}", f"{row['evidence_bytes']:,.0f}", f"{row['webp']:.2f}"]
    return markdown(HEAD, [[*cells, f"{row['page_bytes']:,.0f}", spread]])


def plot(records: list[Record], path: Path) -> None:
    """Resident memory, and items that are there, over time."""
    from matplotlib.figure import Figure

    (row,) = records
    when, memory, items = (np.array(values) for values in zip(*row["samples"], strict=True))
    figure = Figure(figsize=(6, 3), layout="constrained")
    left = figure.subplots()
    left.plot(when / 60, memory, color="#2c3e50")
    left.set_ylim(0, 1.15 * memory.max())
    left.set_xlabel("minutes")
    left.set_ylabel("resident memory, MiB")
    right = left.twinx()
    right.plot(when / 60, items, color="#c0392b", linestyle="--")
    right.set_ylabel("items written (dashed)")
    right.set_ylim(0)
    for axes in (left, right):
        axes.spines["top"].set_visible(False)
    figure.savefig(path, dpi=140)
