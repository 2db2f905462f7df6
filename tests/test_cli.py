"""The command line: commands do the whole job, and every mistake is one sentence, exit code 2, and no trace on disk."""

import json
import re
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import featviz
from featviz.cli import COMMANDS, EXAMPLES, main, rendering, triplet
from featviz.cli.arguments import Parser
from featviz.config import RenderConfig, matching_methods
from featviz.config.matching_options import MethodOptions, option
from featviz.errors import OutputError

NET = """
from torch import nn

def make(width=6, channels=3, classes=2):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
    )

def answer():
    return 42
"""
ARCH = ["--arch", "tinynet:make"]
SIZE = ["--size", "12"]
PAIR = ["a.safetensors", "b.safetensors", *ARCH]
FAST = ["--size", "16", "--steps", "2", "--restarts", "0", "--precision", "float32"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a tiny architecture, two checkpoints, their alignment and merge, and images of two classes."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "tinynet.py").write_text(NET)
    random = np.random.default_rng(0)
    for number in range(24):
        path = folder / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
    space: dict = {}
    exec(NET, space)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, name in enumerate("ab"):
            torch.manual_seed(seed)
            save_file(space["make"]().state_dict(), f"{name}.safetensors")
        assert main(["align", *PAIR, *SIZE, "--out", "ab.safetensors"]) == 0
        assert (
            main(["merge", *PAIR, *SIZE, "--alignment", "ab.safetensors", "--data", "data", "--out", "m.safetensors"])
            == 0
        )
    return folder


@pytest.fixture
def here(made, monkeypatch) -> Path:
    monkeypatch.chdir(made)
    return made


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


class Written:
    """In place of triplets: writes once it is allowed to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.allowed, self.error = threading.Event(), error

    def save(self, path: Path, bands: object) -> Path:
        assert self.allowed.wait(60)
        if self.error:
            raise self.error
        path.write_text("whole")
        return path


def test_a_layer_is_written_while_the_next_is_rendered(tmp_path, capsys):
    first, place = Written(), tmp_path / "a.png"
    with rendering.saving() as save:
        save(first, place)
        assert not place.exists()
        first.allowed.set()
    assert place.read_text() == "whole"
    assert capsys.readouterr().out == f"{place}\n"


@pytest.mark.parametrize("at_the_next", [True, False])
def test_a_layer_that_cannot_be_written_is_an_error(tmp_path, at_the_next):
    broken = Written(OutputError("full"))
    broken.allowed.set()

    def rendered() -> None:
        with rendering.saving() as save:
            save(broken, tmp_path / "a.png")
            if at_the_next:
                save(broken, tmp_path / "b.png")
                pytest.fail("the first could not be written")

    with pytest.raises(OutputError, match="full"):
        rendered()


def test_what_was_rendered_is_written_although_the_next_was_interrupted(tmp_path):
    first, place = Written(), tmp_path / "a.png"

    def interrupted() -> None:
        with rendering.saving() as save:
            save(first, place)
            first.allowed.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert place.read_text() == "whole"


def test_help_imports_neither_torch_nor_numpy():
    script = """
import sys
from featviz.__main__ import main
for command in ([], ["demo"], ["align"], ["merge"], ["barrier"], ["triplet"], ["panel"], ["info"]):
    try:
        main([*command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
assert not {"torch", "numpy", "PIL"} & set(sys.modules), sorted(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.count("usage: featviz") == 8
    assert shown.count("examples:") == 7


def test_every_example_in_the_help_parses(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: True)
    parser = Parser(prog="featviz")
    known = parser.add_subparsers()
    for command in COMMANDS:
        command.add(known)
    for text in (EXAMPLES, *(command.EXAMPLES for command in COMMANDS)):
        lines = re.findall(r"^  featviz (.+)$", re.sub(r"\s*\\\n\s*", " ", text), flags=re.MULTILINE)
        assert len(lines) >= 2
        for line in lines:
            parser.parse_args(re.split(r"\s{3,}", line)[0].split())


def test_defaults_are_those_of_the_configuration(here):
    parser = Parser(prog="featviz")
    triplet.add(parser.add_subparsers())
    args = parser.parse_args(["triplet", *PAIR, "--units", "3"])
    assert rendering.render_config(args) == RenderConfig()


def test_every_field_of_the_render_configuration_with_a_help_text_is_an_option(here):
    parser = Parser(prog="featviz")
    triplet.add(parser.add_subparsers())
    given = {
        "size": "48x64", "steps": "7", "seed": "3", "lr": "0.1", "beta1": "0.9",
        "schedule": "cosine", "parameterization": "pixel", "sd": "0.5", "decay": "2", "jitter": "0.1", "scale": "0.2",
        "rotation": "5", "border": "zeros", "input_size": "32", "restarts": "1", "batch": "9", "memory": "2",
        "precision": "float64", "backend": "eager",
    }  # fmt: skip
    assert {one.name for one in fields(RenderConfig) if "help" in one.metadata} == {*given}
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    args = parser.parse_args(["triplet", *PAIR, "--units", "3", *words])
    assert rendering.render_config(args) == RenderConfig(
        size=(48, 64), steps=7, seed=3, lr=0.1, beta1=0.9, schedule="cosine", parameterization="pixel",
        sd=0.5, decay=2.0, jitter=0.1, scale=0.2, rotation=5.0, border="zeros", input_size=32, restarts=1, batch=9,
        memory=2.0, precision="float64", backend="eager",
    )  # fmt: skip


def test_info_names_groups_layers_and_what_is_fixed(here, capsys):
    assert main(["info", "a.safetensors", *ARCH, *SIZE]) == 0
    shown = capsys.readouterr().out
    assert "2 groups of interchangeable units" in shown
    assert "0: 6 units, seen at 0, 1, 2" in " ".join(shown.split())
    assert "8=2(2 fixed)" in shown
    assert "8.weight axis 0" in shown
    assert "the network's output (never matched; align's free_outputs frees it)" in " ".join(shown.split())


def test_info_tells_which_normalization_fits(here, capsys):
    assert main(["info", "a.safetensors", *ARCH, *SIZE, "--data", "data"]) == 0
    shown = capsys.readouterr().out
    assert "normalization of the input, on 24 images" in shown
    assert "ImageNet's, since the network does not tell its own" in " ".join(shown.split())
    rows = [line.split()[0] for line in shown.split("on 24 images")[1].splitlines()[2:5]]
    assert rows == ["in", "0.5,", "none"]


def test_compare_prints_one_screen_and_writes_json(here, tmp_path, capsys):
    out = tmp_path / "ab.json"
    assert main(["compare", *PAIR, *SIZE, "--data", "data", "--data-batch", "6", "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["advice"][0] in " ".join(shown.split())
    assert list(record["outcomes"]) == ["A", "B", "identity", "weights", "activations"]


@pytest.mark.parametrize(
    "method",
    [
        ["weights"],
        ["activations", "--data", "data"],
        ["inner", "--data", "data"],
        ["sinkhorn"],
        ["identity"],
        ["random"],
    ],
)
def test_align_writes_an_alignment_of_the_two(here, tmp_path, capsys, method):
    assert main(["align", *PAIR, *SIZE, "--method", *method, "--out", str(tmp_path / "ab.safetensors")]) == 0
    assert "2 groups" in capsys.readouterr().out
    arguments = [*PAIR, *SIZE, "--alignment", str(tmp_path / "ab.safetensors"), "--weight", "1", "--repair", "none"]
    assert main(["merge", *arguments, "--out", str(tmp_path / "b.safetensors")]) == 0
    permuted, original = load_file(tmp_path / "b.safetensors")["0.bias"], load_file("b.safetensors")["0.bias"]
    assert torch.equal(permuted.sort()[0], original.sort()[0])


def test_a_method_from_outside_has_its_option_on_the_command_line(here, tmp_path):
    given = []

    @dataclass(frozen=True)
    class ShiftOptions(MethodOptions):
        shift: int = option(1, "places by which all units move", 0, 5)

    @featviz.matching_method("shifted", "moves every unit", options=ShiftOptions)
    def match_shifted(problem, options):
        given.append(options)
        return {group.name: np.roll(np.arange(group.size), options.shift) for group in problem.groups}

    try:
        assert main(["align", *PAIR, *SIZE, "--out", str(tmp_path / "weights.safetensors")]) == 0
        out = str(tmp_path / "shifted.safetensors")
        assert main(["align", *PAIR, *SIZE, "--method", "shifted", "--shift", "2", "--out", out]) == 0
    finally:
        matching_methods._REGISTRY.pop("shifted")
    assert given == [ShiftOptions(shift=2)]


def test_permutations_for_other_tools_are_written_and_taken(here, tmp_path):
    exchanged, out = str(tmp_path / "ab.json"), str(tmp_path / "m.safetensors")
    assert main(["align", *PAIR, *SIZE, "--out", exchanged]) == 0
    assert json.loads(Path(exchanged).read_text())["axes_to_perm"]["0.bias"] == ["0"]
    merged = []
    for alignment in ("ab.safetensors", exchanged):
        arguments = [*PAIR, *SIZE, "--alignment", alignment, "--repair", "none", "--out", out]
        assert main(["merge", *arguments]) == 0
        merged.append(load_file(out))
    assert all(torch.equal(merged[0][key], merged[1][key]) for key in merged[0])
    assert main(["barrier", *PAIR, *SIZE, "--alignment", exchanged, "--data", "data", "--points", "2"]) == 0
    assert main(["triplet", *PAIR, *FAST, "--alignment", exchanged, "--units", "0:0", "--out", str(tmp_path)]) == 0


def test_merge_repairs_statistics_on_data(here):
    merged, a = load_file("m.safetensors"), load_file("a.safetensors")
    assert merged.keys() == a.keys()
    assert not torch.equal(merged["1.running_var"], a["1.running_var"])


def test_networks_of_other_heads_are_aligned_merged_and_rendered(here, tmp_path, capsys):
    space: dict = {}
    exec(NET, space)
    torch.manual_seed(3)
    save_file(space["make"](classes=5).state_dict(), tmp_path / "c.safetensors")
    pair = ["a.safetensors", str(tmp_path / "c.safetensors"), *ARCH, "--arch-arg-b", "classes=5"]
    alignment = ["--alignment", str(tmp_path / "ac.safetensors")]
    assert main(["align", *pair, *SIZE, "--out", alignment[1]]) == 0
    assert "private to B: 8.weight, 8.bias" in capsys.readouterr().out
    out = tmp_path / "merged.safetensors"
    merge = ["merge", *pair, *SIZE, *alignment, "--data", "data", "--out", str(out)]
    assert main(merge) == 2
    assert "choose head='a', 'b' or 'both' (--head)" in capsys.readouterr().err
    for head, classes in (("a", [2]), ("b", [5]), ("both", [2, 5])):
        assert main([*merge, "--head", head]) == 0
        paths = [out] if head != "both" else [tmp_path / "merged-a.safetensors", tmp_path / "merged-b.safetensors"]
        assert [len(load_file(path)["8.bias"]) for path in paths] == classes
    barrier = ["barrier", *pair, *SIZE, *alignment, "--data", "data", "--points", "2"]
    assert main([*barrier, "--head", "a"]) == 0
    assert main(["triplet", *pair, *FAST, *alignment, "--units", "0:0", "--out", str(tmp_path / "gallery")]) == 0
    assert (tmp_path / "gallery" / "0.png").is_file()
    assert main(["triplet", *pair, *FAST, *alignment, "--units", "8:0", "--out", str(tmp_path / "gallery")]) == 2
    assert "8" in capsys.readouterr().err


def test_barrier_prints_a_table_and_writes_json(here, tmp_path, capsys):
    out = tmp_path / "deep" / "barrier.json"
    arguments = ["--alignment", "ab.safetensors", "--data", "data", "--points", "3", "--out", str(out)]
    assert main(["barrier", *PAIR, *SIZE, *arguments]) == 0
    numbers = json.loads(out.read_text())
    assert numbers["weights"] == [0.0, 0.5, 1.0]
    assert numbers["images"] == 24
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_barrier_draws_and_prints_the_ensemble(here, tmp_path, capsys):
    picture = tmp_path / "barrier.svg"
    arguments = [
        "--alignment",
        "ab.safetensors",
        "--data",
        "data",
        "--points",
        "2",
        "--ensemble",
        "--plot",
        str(picture),
    ]
    assert main(["barrier", *PAIR, *SIZE, *arguments]) == 0
    assert picture.read_text().startswith("<?xml")
    shown = capsys.readouterr().out
    assert [line.split()[-1] for line in shown.splitlines() if line.split()[0] == "ensemble"] == [
        "logits)",
        "probabilities)",
    ]
    assert "of the accuracy" in shown


def test_barrier_repairs_between_the_ends(here, tmp_path):
    arguments = ["--alignment", "ab.safetensors", "--data", "data", "--points", "3"]
    repair = ["--repair", "batchnorm", "--repair-data", "data"]
    found = {}
    for name, more in {"repaired": repair, "plain": []}.items():
        out = tmp_path / f"{name}.json"
        assert main(["barrier", *PAIR, *SIZE, *arguments, *more, "--out", str(out)]) == 0
        found[name] = json.loads(out.read_text())
    assert (found["repaired"]["repair"], found["repaired"]["repair_data"]) == ("batchnorm", "data")
    assert found["plain"]["losses"][1] != found["repaired"]["losses"][1]
    assert found["plain"]["losses"][::2] == pytest.approx(found["repaired"]["losses"][::2])


def test_a_plot_that_cannot_be_drawn_is_told_before_anything_is_measured(here, tmp_path, capsys):
    arguments = ["--alignment", "ab.safetensors", "--data", "data", "--plot", str(tmp_path / "barrier.bmp")]
    assert main(["barrier", *PAIR, *SIZE, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "end its name in" in printed.err


def test_triplet_writes_a_grid_and_a_record_per_layer(here, tmp_path, capsys):
    given = ["--alignment", "ab.safetensors", "--merged", "m.safetensors", "--out", str(tmp_path / "g")]
    assert main(["triplet", *PAIR, *FAST, *given, "--units", "4:0,3", "--units", "4:1", "--units", "8"]) == 0
    assert sorted(path.name for path in (tmp_path / "g").iterdir()) == ["4.json", "4.png", "8.json", "8.png"]
    assert [unit["a"] for unit in json.loads((tmp_path / "g" / "4.json").read_text())["units"]] == [0, 3, 1]
    assert capsys.readouterr().out.split() == [str(tmp_path / "g" / "4.png"), str(tmp_path / "g" / "8.png")]


def test_triplet_computes_what_is_not_given_and_says_so(here, tmp_path, capsys):
    data = ["--data", "data", "--data-size", "12"]
    assert main(["triplet", *PAIR, *FAST, *data, "--units", "4:0", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert "matching activations" in said
    assert "averaging A and B', repair auto" in said


def test_triplet_shows_controls_and_further_networks_as_columns(here, tmp_path):
    given = ["--alignment", "ab.safetensors", "--merged", "m.safetensors", "--out", str(tmp_path)]
    also = ["--also", "unaligned", "--also", "unrepaired", "--also", "same=a.safetensors"]
    assert main(["triplet", *PAIR, *FAST, *given, *also, "--units", "4:0,3"]) == 0
    record = json.loads((tmp_path / "4.json").read_text())
    assert record["subjects"] == ["A", "B'", "merged", "unaligned", "unrepaired", "same"]
    assert record["digests"]["same"] == record["digests"]["A"]
    assert len(set(record["digests"].values())) == 5
    scores = record["units"][0]["activation"]
    assert scores["same"] == scores["A"]


def test_panel_renders_networks_under_their_names(here, tmp_path, capsys):
    subjects = ["first=a.safetensors", "b.safetensors", "m=m.safetensors"]
    arguments = [*subjects, *ARCH, *FAST, "--units", "4:0,3", "--units", "8", "--out", str(tmp_path)]
    assert main(["panel", *arguments]) == 0
    record = json.loads((tmp_path / "4.json").read_text())
    assert record["subjects"] == ["first", "b", "m"]
    assert [unit["unit"] for unit in record["units"]] == [0, 3]
    assert capsys.readouterr().out.split() == [str(tmp_path / "4.png"), str(tmp_path / "8.png")]


@pytest.mark.parametrize(("channels", "bands"), [(1, []), (2, []), (4, ["--bands", "2,1,0"]), (7, [])])
def test_images_of_any_number_of_channels_are_saved(here, tmp_path, channels, bands):
    space: dict = {}
    exec(NET, space)
    torch.save(space["make"](channels=channels).state_dict(), tmp_path / "x.pt")
    arch = [*ARCH, "--arch-arg", f"channels={channels}", "--channels", str(channels)]
    pair = [str(tmp_path / "x.pt")] * 2
    assert main(["triplet", *pair, *arch, *FAST, "--units", "4:0", "--out", str(tmp_path), *bands]) == 0
    assert (tmp_path / "4.png").is_file()


def test_each_network_of_a_pair_has_its_own_normalization(here, tmp_path):
    own = ["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--mean-b", "0.1,0.1,0.1"]
    given = ["--alignment", "ab.safetensors", "--merged", "m.safetensors", "--out", str(tmp_path)]
    assert main(["triplet", *PAIR, *FAST, *given, *own, "--units", "4:0"]) == 0
    record = json.loads((tmp_path / "4.json").read_text())["normalization"]
    assert [record[name]["mean"][0] for name in ("A", "B'", "merged")] == [0.5, 0.1, 0.5]
    assert [record[name]["std"][0] for name in ("A", "B'", "merged")] == [0.2, 0.2, 0.2]
    assert record["A"]["source"] == "given on the command line"


def test_an_assumed_normalization_is_a_note(here, tmp_path, capsys):
    (here / "untold.py").write_text(
        NET.replace("nn.Sequential", "Untold") + "\nclass Untold(nn.Sequential):\n    pass\n"
    )
    arguments = ["a.safetensors", "--arch", "untold:make", *FAST, "--units", "4:0", "--out", str(tmp_path)]
    assert main(["panel", *arguments]) == 0
    assert capsys.readouterr().err.count("featviz: note: Untold does not tell how its input is normalized") == 1


def test_pictures_go_where_a_checkout_ignores_them():
    parser = Parser(prog="featviz")
    commands = parser.add_subparsers()
    for command in COMMANDS:
        command.add(commands)
    ignored = (Path(__file__).parent.parent / ".gitignore").read_text().split()
    for words in (["demo"], ["triplet", *PAIR, "--units", "3"], ["panel", "a.safetensors", *ARCH, "--units", "3"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "exists", lambda path: True)
            out = parser.parse_args(words).out
        assert f"/{out.parts[0]}/" in ignored


def test_module_prefixes_are_stripped_and_said(here, tmp_path, capsys):
    torch.save({f"module.{key}": value for key, value in load_file("a.safetensors").items()}, tmp_path / "a.pt")
    assert main(["info", str(tmp_path / "a.pt"), *ARCH, *SIZE]) == 0
    assert "stripped 'module.'" in capsys.readouterr().err


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


def test_parts_that_are_ignored_are_named_as_private(here, tmp_path, capsys):
    out = ["--out", str(tmp_path / "ab.safetensors")]
    assert main(["align", *PAIR, *SIZE, "--ignore", "8.*", *out]) == 0
    said = capsys.readouterr().out
    assert "private to A: 8.weight, 8.bias" in said
    assert "private to B: 8.weight, 8.bias" in said
    assert "units of B that move: " in said
    assert main(["align", *PAIR, *SIZE, "--ignore", "9.*", *out]) == 2
    assert "ignore has '9.*', which is no parameter of A or B" in capsys.readouterr().err
    assert main(["align", *PAIR, *SIZE, "--rename", "0=3", *out]) == 2
    assert "rename makes 3.weight of both 0.weight and 3.weight of B" in capsys.readouterr().err
    assert main(["align", *PAIR, *SIZE, "--rename", "0", *out]) == 2
    assert "write NAME_IN_B=NAME_IN_A" in capsys.readouterr().err


def test_units_are_combined_merged_and_shown(here, tmp_path, capsys):
    zipped = str(tmp_path / "zip.safetensors")
    merged = str(tmp_path / "m.safetensors")
    options = ["--method", "zipit", "--alpha", "0.5", "--beta", "0.5", "--data", "data"]
    assert main(["align", *PAIR, *SIZE, *options, "--out", zipped]) == 0
    assert "parts agree" in capsys.readouterr().out
    assert main(["merge", *PAIR, *SIZE, "--alignment", zipped, "--data", "data", "--out", merged]) == 0
    given = ["--alignment", zipped, "--merged", merged, "--units", "0:0-1", "--out", str(tmp_path)]
    assert main(["triplet", *PAIR, *FAST, *given]) == 0
    assert json.loads((tmp_path / "0.json").read_text())["subjects"] == ["A", "B", "merged"]
    assert main(["align", *PAIR, *SIZE, "--method", "cca", "--out", zipped]) == 2
    assert "--method cca compares" in capsys.readouterr().err
    assert main(["align", *PAIR, *SIZE, *options, "--gamma", "-1", "--out", zipped]) == 2
    assert "gamma is -1.0" in capsys.readouterr().err


def test_fate_prints_a_table_and_writes_every_unit_and_plots(here, tmp_path, capsys):
    out = tmp_path / "fates.json"
    given = ["--alignment", "ab.safetensors", "--merged", "m.safetensors", "--data", "data", "--data-batch", "7"]
    words = ["--layers", "1", "--layers", "4", "--exemplars", "2", "--out", str(out), "--plots", str(tmp_path)]
    assert main(["fate", *PAIR, *SIZE, *given, *words]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == ["layer", "1", "4"]
    record = json.loads(out.read_text())
    assert [unit["layer"] for unit in record["units"]] == ["1"] * 6 + ["4"] * 6
    assert record["layers"][0]["unaligned A"] is not None
    first = record["exemplars"]["4"]["merged"]["3"][0]
    assert Path(first["path"]).parent.name in "ab"
    for kind in ("verdicts", "units", "predicted"):
        assert np.asarray(Image.open(tmp_path / f"{kind}.png")).std() > 0
    assert main(["fate", *PAIR, *SIZE, *given, "--layers", "9"]) == 2
    assert main(["fate", *PAIR, *SIZE, *given, "--out", "fates.txt"]) == 2
    assert ".json or .csv" in capsys.readouterr().err


def test_triplet_shows_exemplars_and_fates(here, tmp_path, capsys):
    given = ["--alignment", "ab.safetensors", "--merged", "m.safetensors", "--out", str(tmp_path)]
    words = ["--units", "4:0,3", "--exemplars", "2"]
    assert main(["triplet", *PAIR, *FAST, *given, *words]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["triplet", *PAIR, *FAST, *given, *words, "--data", "data", "--data-size", "12"]) == 0
    record = json.loads((tmp_path / "4.json").read_text())
    for unit in record["units"]:
        assert {"verdict", "agreement", "fidelity"} <= set(unit["fate"])
        assert len(unit["exemplars"]["merged"]) == 2
