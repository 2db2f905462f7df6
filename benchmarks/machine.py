"""What every benchmark writes beside its figures: the machine, the versions, the configuration."""

import json
import platform
from argparse import Namespace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "kornia", "numpy", "scipy", "torch-lucent", "horama")


def machine() -> dict[str, object]:
    """Processor or GPU, threads, and versions of the packages that are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def report(args: Namespace, table: str, **record: object) -> None:
    """What a benchmark leaves: its table on stdout, its record with the machine in `args.out`, the table in `args.readme`."""
    print(table)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), **record}, indent=1) + "\n")
    if args.readme:
        replace_table(args.readme, table.partition("\n")[0], table)


def replace_table(readme: Path, head: str, table: str) -> None:
    """Put a Markdown table in the place of the one in `readme` whose first line is `head`."""
    lines = readme.read_text().splitlines()
    first = lines.index(head)
    last = next(i for i in range(first, len(lines)) if not lines[i].startswith("|"))
    readme.write_text("\n".join([*lines[:first], table, *lines[last:], ""]))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return f"{names[0]}, {len(names)} cores"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
