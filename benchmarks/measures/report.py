"""Where a measure's figures go: a JSON record with the machine and the versions, and a table in docs/results.md.

A table stands in docs/results.md between `<!-- NAME -->` and `<!-- /NAME -->`, with a line below it that says on which machine,
by which command and at which commit of featviz it was measured. `tests/docs` holds that every table is the one of its record.
"""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import featviz

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs" / "results.md"
GALLERY = ROOT / "gallery"
PACKAGES = ("torch", "torchvision", "kornia", "numpy", "scipy", "torch-lucent", "horama", "dreamlens", "faccent")

WRITING = {"--keep", "--out", "--sheets"}

Record = dict[str, Any]


def machine() -> Record:
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


def provenance() -> Record:
    """What a record says beside its figures: machine, version and commit of featviz, and the command."""
    return {
        "machine": machine(),
        "featviz": featviz.__version__,
        "commit": _commit(),
        "command": f"python {shlex.join([_script(), *portable(sys.argv[1:])])}",
    }


def portable(arguments: Sequence[str]) -> list[str]:
    """Arguments that mean the same elsewhere: files and folders by their last name, nothing about where results are written."""
    found: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument in WRITING or before in WRITING - {"--keep"}:
            continue
        path = Path(argument)
        found.append(argument if not path.is_absolute() else path.name if path.suffix else f"{path.name}/")
    return found


def write_record(path: Path, record: Record) -> None:
    """One JSON file, figures after the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(name: str, table: str, records: Sequence[Record]) -> str:
    """What stands between the marks of a table, the marks included."""
    return "\n".join([f"<!-- {name} -->", table, "", *sources(records), f"<!-- /{name} -->"])


def replace_section(name: str, text: str, docs: Path = DOCS) -> None:
    """Put a section in the place of the one of the same name.

    Raises:
        ValueError: the file has no such section.
    """
    before, first, rest = docs.read_text().partition(f"<!-- {name} -->\n")
    _, last, after = rest.partition(f"<!-- /{name} -->")
    if not first or not last:
        raise ValueError(f"{docs} has no section <!-- {name} --> ... <!-- /{name} -->: add it where the table belongs")
    docs.write_text(before + text + after)


def sources(records: Sequence[Record]) -> list[str]:
    """Where the figures come from, each source said once; a record of several runs has one of each as "sources"."""
    lines = []
    for run in [source for record in records for source in record.get("sources", [record])]:
        here = run["machine"]
        place = here["gpu"] or here["processor"]
        threads = f"{here['threads']} thread{'s' if here['threads'] > 1 else ''}"
        at = f"featviz {run['featviz']}, commit {run['commit']}"
        lines.append(
            f"*`{run['command']}`: {place}, {threads}, Python {here['python']}, torch {here['versions']['torch']}; {at}.*"
        )
    return list(dict.fromkeys(lines))


def _script() -> str:
    """The script that runs, from the top of the repository."""
    script = Path(sys.argv[0]).resolve()
    return script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else script.name


def _commit() -> str:
    """The commit of this checkout, with "+" where files differ from it; "unknown" outside a checkout."""
    inside = Path(featviz.__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=inside, check=True, capture_output=True, text=True
        )
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "."], cwd=inside, check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.returncode else "")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return f"{names[0]}, {len(names)} cores"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
