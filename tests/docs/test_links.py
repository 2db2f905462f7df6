"""Links of README and docs lead somewhere; files and public names that they mention exist."""

import re
from pathlib import Path

import pytest

import featviz

ROOT = Path(__file__).parent.parent.parent
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "studies").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:featviz|tests|benchmarks|docs|gallery|studies)/[\w./-]+)`")
NAME = re.compile(r"`featviz\.([a-z_]+)(?=[(`])")
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown page has on GitHub, from its headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in LINK.findall(page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=[i for i in IDS if "CHANGE" not in i]
)
def test_files_and_public_names_that_are_mentioned_exist(page):
    text = page.read_text()
    assert not [path for path in FILE.findall(text) if not (ROOT / path).exists()]
    modules = {path.stem for path in (ROOT / "featviz").iterdir()}
    assert not [name for name in NAME.findall(text) if name not in dir(featviz) and name not in modules]
