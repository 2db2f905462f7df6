"""Permutation files and values that are damaged or hostile: one sentence, before memory is taken."""

import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from networks import TinyResNet, seeded
from torch import nn

import featviz
from featviz.errors import AlignmentError

EXAMPLE = torch.rand(1, 3, 8, 8)


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return seeded(TinyResNet, 0), seeded(TinyResNet, 1)


IDENTITY = {"conv1.weight": [0, 1, 2, 3]}


@pytest.mark.parametrize(
    ("source", "more"),
    [
        (5, {}),
        ([1, 2], {}),
        ({"P": [0, 1]}, {"spec": {5: ("P",)}}),
        ({"P": [0, 1]}, {"spec": {"conv1.weight": [["P"]]}}),
        ({"P": [0, 1]}, {"spec": {"conv1.weight": [3]}}),
        ({"x" * 10**6: [0, 1]}, {}),
        ({10**5000: [0, 1]}, {}),
        (IDENTITY, {"convention": np.array(["a", "b"])}),
        (IDENTITY, {"convention": 10**5000}),
        ({"a": {"b": IDENTITY}}, {"fixed": ["a"], "permutee": "b"}),
        ({"a": {"b": IDENTITY}}, {"fixed": 10**5000, "permutee": "b"}),
    ],
)
def test_odd_values_are_refused_in_one_sentence(pair, source, more):
    with pytest.raises(AlignmentError) as caught:
        featviz.read_permutations(source, *pair, EXAMPLE, **more)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"digest_a": 5}, "states|incomplete"),
        ({"method": None}, "states|incomplete"),
        ({"seed": float("inf")}, "the number Infinity in it is not finite"),
    ],
)
def test_a_header_of_another_type_is_refused(changed, told, pair, tmp_path):
    featviz.write_permutations(featviz.align(*pair, EXAMPLE), pair[1], tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps(content | changed))
    with pytest.raises(AlignmentError, match=told):
        featviz.read_permutations(tmp_path / "p.json", *pair, EXAMPLE)


def npz(path, header, data=b"", method=zipfile.ZIP_STORED):
    """An archive with one array of this header."""
    text = header.encode() + b"\n"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("P.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)


ARRAYS = {
    "a shape of a terabyte": "{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,), }",
    "a type of a gigabyte": "{'descr': '|V999999999', 'fortran_order': False, 'shape': (1,), }",
    "an open bracket": "(" * 900,
    "a negative shape": "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_the_header_of_an_array_is_checked_before_anything_is_allocated(kind, pair, tmp_path):
    npz(tmp_path / "p.npz", ARRAYS[kind], bytes(8))
    with pytest.raises(AlignmentError, match="damaged or holds more than plain arrays"):
        featviz.read_permutations(tmp_path / "p.npz", *pair, EXAMPLE)


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(pair, tmp_path):
    npz(
        tmp_path / "p.npz",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (4194304,), }",
        bytes(2**25),
        zipfile.ZIP_DEFLATED,
    )
    with pytest.raises(AlignmentError, match="more than 16 times as many"):
        featviz.read_permutations(tmp_path / "p.npz", *pair, EXAMPLE)


@pytest.mark.parametrize("name", ["p.json", "p.npz", "p.safetensors"])
@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, ""])
def test_text_that_cannot_be_read_is_refused(name, text, pair, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(AlignmentError, match="damaged or holds more"):
        featviz.read_permutations(tmp_path / name, *pair, EXAMPLE)
