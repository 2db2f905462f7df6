"""`featviz atlas` and `featviz page`: made, gone on with, read; one sentence where that cannot be."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import featviz
from featviz.cli import main

ZOO = Path(featviz.__file__).parent / "zoo" / "weights"
PAIR = [str(ZOO / "a.safetensors"), str(ZOO / "b.safetensors"), "--arch", "resnet20-x2"]
SMALL = ["--alignment", str(ZOO / "alignment.safetensors"), "--size", "16", "--steps", "2", "--units-per-item", "2"]


def test_an_atlas_is_made_told_of_and_shown(tmp_path, capsys):
    out = ["--out", str(tmp_path / "ab")]
    assert (
        main(["atlas", *PAIR, *SMALL, "--layers", "layer1.0.bn1:0-3", "--also", "unaligned", "--path", "0.25", *out])
        == 0
    )
    assert main(["atlas", "--status", *out]) == 0
    assert "layer1.0.bn1         4         0      4" in capsys.readouterr().out
    assert main(["page", str(tmp_path / "ab")]) == 0
    index = Path(capsys.readouterr().out.strip())
    assert index == tmp_path / "ab" / "page" / "index.html"
    assert index.read_text().startswith("<!")
    store = featviz.AtlasStore.open(tmp_path / "ab")
    assert tuple(store.identity.subjects) == ("A", "B'", "merged", "unaligned", "weight 0.25")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["atlas", "--out", "x"], "give A and B"),
        (["atlas", "--status", "--out", "nowhere"], "nowhere holds no atlas"),
        (["page", "nowhere"], "nowhere holds no atlas"),
        (["atlas", *PAIR, "--out", "x", "--shard", "3/3"], "'3/3' is no shard, write 0/3"),
        (["atlas", *PAIR, "--out", "x", "--workers", "2"], "add --ray"),
        (["atlas", *PAIR, "--out", "x", "--also", "unrepaired"], "give --alignment"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_termination_says_how_to_go_on_and_the_same_command_does(number, tmp_path):
    command = [
        sys.executable,
        "-m",
        "featviz",
        "atlas",
        *PAIR,
        *SMALL,
        "--layers",
        "bn1",
        "--out",
        str(tmp_path / "ab"),
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("ab/items/*/[!.]*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in error
    done = {path.name for path in tmp_path.glob("ab/items/*/[!.]*")}
    assert done
    assert main(command[3:]) == 0
    assert done < {path.name for path in tmp_path.glob("ab/items/*/[!.]*")}
