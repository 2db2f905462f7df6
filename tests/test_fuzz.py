"""A share of the fuzzer's cases (benchmarks/robustness.py has them all), and that the fuzzer finds what it looks for."""

import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import pytest

from featviz.errors import FeatvizError

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from measures.robustness import cases
from measures.robustness.hostile import CANARY, Hostile
from measures.robustness.mutations import File, mutate
from measures.robustness.readers import READERS

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits memory and starts processes as Linux does")
pytestmark = [linux, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_reader_returns_or_refuses_in_one_sentence(reader):
    outcome = cases.run(reader, range(-200, 0))  # others than those of the benchmark
    assert outcome.cases == 200
    assert not outcome.failures, outcome.kinds()


def read_with(what):
    """A reader that does something wrong with every text but the valid one."""

    def read(text: str) -> None:
        if text != "valid":
            what()

    return cases.Reader("a bad one", lambda: ["valid"], read)


def refuse_in_two_lines() -> None:
    raise TwoLines


class TwoLines(FeatvizError):
    def __str__(self) -> str:
        return "one\ntwo."


def write_elsewhere() -> None:
    elsewhere = Path(tempfile.gettempdir(), f"featviz-fuzz-{os.getpid()}")
    elsewhere.write_text("")
    elsewhere.unlink()


FAULTS = {
    "other error": lambda: {}["missing"],
    "memory": lambda: bytearray(2**29),
    "code": lambda: pickle.loads(pickle.dumps(Hostile())),
    "crash": lambda: sys.modules["os"]._exit(3),
    "file": write_elsewhere,
    "no sentence": refuse_in_two_lines,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_fuzzer_finds(kind):
    outcome = cases.run(read_with(FAULTS[kind]), range(3))
    assert outcome.cases == 3
    assert {failure.kind for failure in outcome.failures} == {kind}
    assert not Path(CANARY).exists()


def test_the_fuzzer_finds_a_program_that_is_started():
    outcome = cases.run(read_with(lambda: subprocess.run(["true"], check=False)), range(1))
    assert outcome.failures[0].kind == "code"


def test_the_fuzzer_ends_a_reader_that_hangs(monkeypatch):
    monkeypatch.setattr(cases, "SECONDS", 0.5)
    outcome = cases.run(read_with(lambda: time.sleep(60)), range(1))
    assert [failure.kind for failure in outcome.failures] == ["hang"]


def test_an_example_that_is_refused_is_none():
    reader = cases.Reader("bytes", lambda: [File("x.bin", b"0")], lambda path: 1 // (path.read_bytes()[0] - 48))
    with pytest.raises(ValueError, match="not valid"):
        cases.run(reader, [0])


def test_a_case_is_the_same_again():
    for reader in READERS[:3]:
        examples = reader.examples()
        assert all(mutate(examples[0], Random(seed)) == mutate(examples[0], Random(seed)) for seed in range(50))
