"""Every example of README.md and docs/ runs, in the order of its page.

Blocks of Python share one namespace per page. Lines of `featviz` in bash blocks are given to the command line's own `main`;
lines of `python benchmarks/...` are only parsed. A block inside an HTML comment is not shown to readers: it makes stand-ins for
what only readers have. To be quick, pictures are small and made in two steps.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featviz
from featviz.cli import main
from featviz.config import PARAMETERIZATIONS, RenderConfig, matching_methods

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS, SIDE = 2, 24  # at most
RENDERING = ["--steps", "2", "--size", "16", "--backend", "eager"]
APPENDED = {
    "triplet": RENDERING,
    "panel": RENDERING,
    "atlas": RENDERING,
    "bench": [*RENDERING, "--images", "2"],
    "barrier": ["--points", "3"],
}
NOT_RUN = (
    "pip ",
    "uv run pytest",
    "bash ",
    "uv run featviz demo",
)  # the demo is run by tests/panels/test_bundled_pair.py


def quick(**values: object) -> RenderConfig:
    """A RenderConfig of few steps and small images, without the tracing that pays for many steps only."""
    config = RenderConfig(**{"backend": "eager", **values})
    return replace(config, steps=min(STEPS, config.most_steps), size=tuple(min(SIDE, side) for side in config.image_hw))


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Language, text and first line of every fenced block."""
    text = page.read_text()
    return [(found[1], found[2], text[: found.start()].count("\n") + 2) for found in BLOCK.finditer(text)]


def commands(text: str) -> list[str]:
    """The commands of a bash block, continued lines joined, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in (line.partition(" #")[0].strip() for line in lines) if line and not line.startswith("#")]


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder with the bundled pair as a.safetensors and b.safetensors, and images in cifar/train and cifar/test.

    What a page registers is forgotten after it, so that tests of all that is registered do not see it.
    """
    weights = Path(featviz.__file__).parent / "zoo" / "weights"
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).symlink_to(weights / name)
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in range(10):
            folder = tmp_path / "cifar" / part / str(label)
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(featviz, "RenderConfig", quick)
    monkeypatch.setattr(matching_methods, "_REGISTRY", dict(matching_methods._REGISTRY))
    known = list(PARAMETERIZATIONS)
    yield tmp_path
    PARAMETERIZATIONS[:] = known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run(page, workspace):
    namespace: dict[str, object] = {"__name__": "example"}
    for language, text, line in blocks(page):
        if language == "python":
            padded = "\n" * (line - 1) + text  # so that a traceback names the line of the page
            exec(compile(padded, str(page), "exec"), namespace)
        elif language == "bash":
            for command in commands(text):
                run(command, f"{page.name}:{line}")


def run(command: str, where: str) -> None:
    """A line of a bash block, by the functions that it would call."""
    if command.startswith(NOT_RUN):
        return
    words = shlex.split(command.removeprefix("uv run "))
    if words[0] == "featviz":
        extra = APPENDED.get(words[1], []) if len(words) > 1 else []
        assert main([*words[1:], *extra]) == 0, f"{where}: {command}"
    elif words[0] == "python" and words[1].startswith("benchmarks/"):
        benchmark(Path(words[1]).stem, words[2:])
    else:
        pytest.fail(f"{where}: the test does not know how to run {command!r}")


def benchmark(name: str, arguments: list[str]) -> None:
    """The arguments of a benchmark command are accepted."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        command = __import__(f"measures.{name}", fromlist=["MEASURES"])
        from measures.command import parser

        parser(command.__doc__, command.MEASURES).parse_args(arguments)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
