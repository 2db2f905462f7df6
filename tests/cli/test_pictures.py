"""Commands that render: triplet and panel."""

import json
from pathlib import Path

import pytest
import torch
from cli_arguments import ARCH, FAST, NET, PAIR, SIZE
from safetensors.torch import load_file

from featviz.cli import COMMANDS, main
from featviz.cli.arguments import Parser


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


def test_a_merge_without_its_alignment_is_warned_of(here, tmp_path, capsys):
    assert main(["triplet", *PAIR, *FAST, "--merged", "m.safetensors", "--units", "4:0", "--out", str(tmp_path)]) == 0
    assert "B is matched anew" in capsys.readouterr().err


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
    ignored = (Path(__file__).parent.parent.parent / ".gitignore").read_text().split()
    for words in (["demo"], ["triplet", *PAIR, "--units", "3"], ["panel", "a.safetensors", *ARCH, "--units", "3"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "exists", lambda path: True)
            out = parser.parse_args(words).out
        assert f"/{out.parts[0]}/" in ignored


def test_module_prefixes_are_stripped_and_said(here, tmp_path, capsys):
    torch.save({f"module.{key}": value for key, value in load_file("a.safetensors").items()}, tmp_path / "a.pt")
    assert main(["info", str(tmp_path / "a.pt"), *ARCH, *SIZE]) == 0
    assert "stripped 'module.'" in capsys.readouterr().err


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
