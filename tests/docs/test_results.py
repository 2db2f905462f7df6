"""The tables of docs/results.md are those of the records in benchmarks/results, and say where the figures come from."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from measures import atlas, evidence, merging, page, rendering, robustness, symmetry  # noqa: E402
from measures.command import section  # noqa: E402
from measures.report import DOCS, RESULTS, portable  # noqa: E402

MEASURES = [
    m
    for topic in (rendering, merging, symmetry, evidence, atlas, page, robustness)
    for m in topic.MEASURES
    if hasattr(m, "table")
]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.NAME)
def test_a_table_is_that_of_its_record(measure):
    """A measure without a record says "Not measured yet."; figures are never written by hand."""
    names = getattr(measure, "RECORDS", (measure.NAME,))
    kept = all((RESULTS / f"{name}.json").exists() for name in names)
    expected = section(measure) if kept else f"<!-- {measure.NAME} -->\nNot measured yet.\n<!-- /{measure.NAME} -->"
    assert expected in DOCS.read_text()


def test_every_record_says_machine_version_commit_and_command():
    import json

    for path in RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert {"machine", "featviz", "commit", "command"} <= set(record), path.name
        assert " /" not in record["command"], path.name  # a folder of one machine


def test_a_command_names_no_folder_of_this_machine():
    given = ["pass", "--data", "/somewhere/cifar", "--keep", "--out", "/tmp/x.json", "--tested", "10"]
    assert portable(given) == ["pass", "--data", "cifar/", "--tested", "10"]
