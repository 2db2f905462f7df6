"""Every mistake is one sentence, exit code 2, and no trace on disk."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from cli_arguments import ARCH, FAST, PAIR, SIZE, files
from safetensors.torch import load_file

from featviz.cli import main

ALIGN = ["align", *PAIR, *SIZE, "--out", "new.safetensors"]
TRIPLET = ["triplet", *PAIR, *FAST, "--alignment", "ab.safetensors", "--merged", "m.safetensors", "--out", "new"]
MERGE = ["merge", *PAIR, *SIZE, "--alignment", "ab.safetensors", "--out", "new.safetensors"]
PANEL = [*ARCH, *FAST, "--units", "4:0", "--out", "new"]
BARRIER = ["barrier", *PAIR, *SIZE, "--alignment", "ab.safetensors", "--out", "new.json"]


def swap(command: list[str], **words: str) -> list[str]:
    """The command with some of its words replaced; underscores in a name stand for dots."""
    return [words.get(word.replace(".", "_").lstrip("-"), word) for word in command]


MISTAKES = {
    "no command": ([], ["COMMAND", "featviz --help"]),
    "unknown command": (["aling"], ["aling", "align"]),
    "no output": (ALIGN[:-2], ["--out", "featviz align --help"]),
    "no number": ([*ALIGN, "--size", "big"], ["--size", "'big'", "64"]),
    "unknown layer": ([*TRIPLET, "--units", "5.conv:1"], ["5.conv"]),
    "no spec": ([*TRIPLET, "--units", "4:x"], ["'x'", "0-15"]),
    "unit out of range": ([*TRIPLET, "--units", "4:0,6"], ["4", "unit 6", "0 to 5"]),
    "range in a second layer": ([*TRIPLET, "--units", "4:0", "--units", "8:2"], ["8", "unit 2", "0 to 1"]),
    "image too small": ([*swap(TRIPLET, **{"16": "3"}), "--units", "4:0"], ["3 x 3", "size=6"]),
    "steps out of range": ([*TRIPLET, "--units", "4:0", "--steps", "-1"], ["steps is -1", "0"]),
    "unknown precision": ([*TRIPLET, "--units", "4:0", "--precision", "half"], ["'half'", "bfloat16"]),
    "data without size": ([*TRIPLET, "--units", "4:0", "--data", "data"], ["--data-size"]),
    "missing file": (swap(ALIGN, b_safetensors="absent.pt"), ["absent.pt", "does not exist"]),
    "other keys": (swap(ALIGN, b_safetensors="keys.pt"), ["keys.pt", "1 missing key (0.bias)", "2 extra keys"]),
    "other width": (swap(ALIGN, b_safetensors="wide.pt"), ["wide.pt", "0.weight", "(8, 3, 3, 3)", "(6, 3, 3, 3)"]),
    "pickle": (swap(ALIGN, b_safetensors="pickle.pt"), ["pickle.pt", "Path", "does not unpickle"]),
    "cut off": (swap(ALIGN, b_safetensors="cut.safetensors"), ["cut.safetensors", "cut off"]),
    "NaN": (swap(ALIGN, b_safetensors="nan.pt"), ["nan.pt", "NaN", "3.weight"]),
    "unknown architecture": ([*ALIGN, "--arch", "resnet19"], ["resnet19", "resnet18"]),
    "unknown zoo width": ([*ALIGN, "--arch", "resnet21-x2"], ["resnet21"]),
    "unknown module": ([*ALIGN, "--arch", "nonet:make"], ["'nonet'", "package.module:callable"]),
    "unknown callable": ([*ALIGN, "--arch", "tinynet:mace"], ["'mace'", "make"]),
    "no network": ([*ALIGN, "--arch", "tinynet:answer"], ["int", "torch.nn.Module"]),
    "wrong argument": ([*ALIGN, "--arch-arg", "depth=3"], ["depth=3", "TypeError"]),
    "no argument": ([*ALIGN, "--arch-arg", "depth"], ["'depth'", "key=value"]),
    "input too small": ([*ALIGN, "--size", "3"], ["(1, 3, 3, 3)"]),
    "wrong channels": ([*ALIGN, "--channels", "1"], ["(1, 1, 12, 12)"]),
    "no such device": ([*ALIGN, "--device", "cuda:99"], ["cuda:99", "is not there"]),
    "no device": ([*ALIGN, "--device", "gpu"], ["'gpu'", "cuda"]),
    "inner without data": ([*ALIGN, "--method", "inner"], ["--method inner", "--data"]),
    "activations without data": ([*ALIGN, "--method", "activations"], ["--data"]),
    "no data": ([*ALIGN, "--method", "activations", "--data", "absent"], ["absent", "is no folder"]),
    "alignment of others": ([*swap(MERGE, b_safetensors="a.safetensors"), "--repair", "none"], ["digest", "model B"]),
    "alignment of others in a triplet": (
        [*swap(TRIPLET, b_safetensors="a.safetensors"), "--units", "4:0"], ["digest", "model B"],
    ),
    "no alignment": ([*swap(MERGE, ab_safetensors="a.safetensors"), "--repair", "none"], ["no alignment"]),
    "alignment missing": ([*swap(MERGE, ab_safetensors="x.safetensors"), "--repair", "none"], ["x.safetensors"]),
    "repair without data": (MERGE, ["--data", "--repair none"]),
    "weight": ([*MERGE, "--weight", "15", "--repair", "none"], ["15", "-10", "10"]),
    "one point": ([*BARRIER, "--data", "data", "--points", "1"], ["1"]),
    "barrier repaired without data": ([*BARRIER, "--data", "data", "--repair", "repair"], ["--repair-data", "repair"]),
    "no labels": ([*BARRIER, "--data", "data/a"], ["data/a", "labels"]),
    "no permutations": (
        [*ALIGN[:-1], "x.json", "--method", "zipit", "--data", "data"], ["zipit", "x.json", "safetensors"],
    ),
    "output in a file": ([*ALIGN[:-1], "tinynet.py/x.safetensors"], ["tinynet.py", "cannot be written"]),
    "output is a folder": ([*ALIGN[:-1], "data"], ["data is a folder"]),
    "file without architecture": (["info", "a.safetensors", *SIZE], ["a.safetensors is a checkpoint file", "--arch"]),
    "no network at all": (["info", *SIZE], ["there is no network", "--arch"]),
    "unknown weights": (["info", "torchvision:resnet18/IMAGENET1K", *SIZE], ["'IMAGENET1K'", "IMAGENET1K_V1"]),
    "weights with an architecture": ([*TRIPLET, "--units", "4:0", "--key", "ema"], ["'ema'"]),
    "mean of 0 to 255": ([*TRIPLET, "--units", "4:0", "--mean", "127,127,127", "--std", "128,128,128"], ["0.498", "?"]),
    "unknown band": ([*TRIPLET, "--units", "4:0", "--bands", "0,1,3"], ["no band 3", "0 to 2"]),
    "two bands": ([*TRIPLET, "--units", "4:0", "--bands", "0,1"], ["2 bands", "three"]),
    "bands in words": ([*TRIPLET, "--units", "4:0", "--bands", "r,g,b"], ["'r,g,b'", "3,2,1"]),
    "unknown column": ([*TRIPLET, "--units", "4:0", "--also", "naive"], ["'naive'", "unaligned", "name=checkpoint"]),
    "column twice": ([*TRIPLET, "--units", "4:0", "--also", "merged=a.safetensors"], ["'merged'", "another name"]),
    "missing column": ([*TRIPLET, "--units", "4:0", "--also", "c=absent.pt"], ["absent.pt", "does not exist"]),
    "subject twice": (["panel", "a.safetensors", "a.safetensors", *PANEL], ["'a'", "x=FILE"]),
    "subject without name": (["panel", "=a.safetensors", *PANEL], ["'=a.safetensors'", "name=checkpoint"]),
    "unit of a panel": (["panel", "a.safetensors", *PANEL, "--units", "8:2"], ["8 has no unit 2 in a", "0 to 1"]),
    "gallery in a file": ([*TRIPLET, "--units", "4:0", "--out", "tinynet.py"], ["tinynet.py", "cannot be written"]),
}  # fmt: skip


@pytest.fixture
def mistaken(here) -> Path:
    """The folder with files that are wrong in one way each."""
    good = load_file("b.safetensors")
    keys = {("head.bias" if key == "0.bias" else key): value for key, value in good.items()}
    torch.save(keys | {"head.weight": good["8.bias"]}, "keys.pt")
    torch.save(
        {key: torch.cat([value] * 2)[:8] if value.ndim == 4 else value for key, value in good.items()}, "wide.pt"
    )
    torch.save(good | {"path": Path("x")}, "pickle.pt")
    torch.save(good | {"3.weight": good["3.weight"] * float("nan")}, "nan.pt")
    Path("cut.safetensors").write_bytes(Path("b.safetensors").read_bytes()[:-20])
    return here


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(mistaken, capsys, name):
    arguments, parts = MISTAKES[name]
    before = files(mistaken)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if not line.startswith("featviz: no --")]
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("featviz: ")
    assert lines[0].endswith((".", "?"))
    assert all(part in lines[0] for part in parts), lines[0]
    assert files(mistaken) == before


def test_a_mistake_has_no_traceback_and_exit_code_2_in_a_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "featviz", "info", "absent.pt", "--arch", "resnet20-x1"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "featviz: absent.pt does not exist: give a .safetensors or .pt file.\n"


def test_ctrl_c_stops_with_130_and_leaves_nothing(here, monkeypatch, capsys):
    from featviz.matching import align

    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(align, "align", interrupted)
    before = files(here)
    assert main(ALIGN) == 130
    assert capsys.readouterr().err == "featviz: stopped\n"
    assert files(here) == before


def test_a_warning_is_a_line_and_not_a_stack(here, monkeypatch, tmp_path, capsys):
    from featviz.matching import align

    original = align.align

    def warned(*args, **settings):
        warnings.warn("unit 3 is dead", stacklevel=2)
        return original(*args, **settings)

    monkeypatch.setattr(align, "align", warned)
    assert main([*ALIGN[:-1], str(tmp_path / "ab.safetensors")]) == 0
    assert "featviz: note: unit 3 is dead\n" in capsys.readouterr().err
