"""Commands that look at two networks: info, compare, align, merge, barrier, fate."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_arguments import ARCH, FAST, NET, PAIR, SIZE
from PIL import Image
from safetensors.torch import load_file, save_file

import featviz
from featviz.cli import main
from featviz.config import matching_methods
from featviz.config.matching_options import MethodOptions, option


def test_info_names_groups_layers_and_what_is_fixed(here, capsys):
    assert main(["info", "a.safetensors", *ARCH, *SIZE]) == 0
    shown = capsys.readouterr().out
    assert "2 groups of interchangeable units" in shown
    assert "0: 6 units, seen at 0, 1, 2" in " ".join(shown.split())
    assert "8=2(2 fixed)" in shown
    assert "8.weight axis 0" in shown
    assert "the network's output (never matched; align --free-outputs frees it)" in " ".join(shown.split())


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
    assert main(["fate", *pair, *SIZE, *alignment, "--data", "data", "--layers", "1"]) == 0
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
