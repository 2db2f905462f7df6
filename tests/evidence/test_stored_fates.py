"""Files of fates: what is damaged is refused in one sentence when it is read, and not when it is shown."""

import json
import os

import pytest

import featviz
from featviz.errors import CheckpointError

COLUMNS = {"verdict": ["kept", "lost"], "likeliest": ["kept", "lost"], "agreement": [0.5, None], "fidelity": [0.5, 1]}
ROW = {"layer": "l", "unit": 0, "verdict": "kept", "likeliest": "kept", "agreement": 0.5, "fidelity": 0.5}


def packed(layers) -> str:
    return json.dumps({"format": "featviz.fates", "layers": layers})


def long(units) -> str:
    return json.dumps({"resamples": 200, "units": units})


def test_a_sound_file_is_read(tmp_path):
    for text in (packed({"l": COLUMNS}), long([ROW])):
        (tmp_path / "f.json").write_text(text)
        assert featviz.read_fates(tmp_path / "f.json").caption("l", 0) == ["kept", "c 0.50, f 0.50"]


DAMAGED = {
    "no layers": '{"format": "featviz.fates"}',
    "layers of another type": packed([1]),
    "columns of another type": packed({"l": 3}),
    "a column of another type": packed({"l": COLUMNS | {"verdict": 3}}),
    "a column too few": packed({"l": {key: COLUMNS[key] for key in ("verdict", "likeliest", "agreement")}}),
    "a short column": packed({"l": COLUMNS | {"likeliest": ["kept"]}}),
    "a number as text": packed({"l": COLUMNS | {"agreement": ["x", "y"]}}),
    "NaN": packed({"l": COLUMNS | {"agreement": [float("nan"), 0]}}),
    "a number that no float holds": packed({"l": COLUMNS | {"agreement": [10**400, 0]}}),
    "units of another type": long(5),
    "a unit of another type": long([5]),
    "a unit without a layer": long([{"verdict": "kept"}]),
    "deep": "[" * 100_000,
    "a huge number": "9" * 5000,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused(kind, tmp_path):
    (tmp_path / "f.json").write_text(DAMAGED[kind])
    with pytest.raises(CheckpointError, match="featviz fate --out"):
        featviz.read_fates(tmp_path / "f.json")


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_what_has_no_end_is_not_read(kind, tmp_path):
    path = tmp_path / "f.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 2**40)
    with pytest.raises(CheckpointError, match=r"it is a pipe or a device|bytes, and at most"):
        featviz.read_fates(path)
