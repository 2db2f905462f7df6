"""Writers: a file is complete or not there, and what stops a writer is one sentence with a remedy that helps."""

import errno
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from networks import TinyCNN, TinyResNet, seeded
from torch import nn

import featviz
from featviz.errors import OutputError
from featviz.files import check_writable, write_atomically
from featviz.weights.checkpoints import load_weights, save_weights

SPACE = 4096


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_stopped_write_leaves_the_old_file_and_nothing_else(tmp_path, stop):
    target = tmp_path / "deep" / "x.json"
    write_atomically(target, lambda path: path.write_text("old"))

    def half(path):
        path.write_text("ne")
        raise stop

    with pytest.raises(stop):
        write_atomically(target, half)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for check in (check_writable, lambda path: write_atomically(path, lambda part: part.write_text(""))):
        for path in (tmp_path / "file" / "x.png", tmp_path / "file" / "deep" / "x.png"):
            with pytest.raises(
                OutputError, match=r"the folder .*file.* cannot be written, since .*/file is a file: give another"
            ):
                check(path)
        with pytest.raises(OutputError, match="is a folder: give the name of a file in it"):
            check(tmp_path)
        with pytest.raises(OutputError, match=r"file name too long\): choose a shorter name"):
            check(tmp_path / f"{'x' * 300}" / "x.png")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [("ENOSPC", "free some space"), ("EROFS", "in which you may write"), ("EIO", "another folder or disk")],
)
def test_the_remedy_fits_the_cause(tmp_path, number, remedy):
    def fails(part):
        raise OSError(getattr(errno, number), "reason")

    with pytest.raises(OutputError, match=f"cannot be written .reason.: .*{remedy}"):
        write_atomically(tmp_path / "x", fails)
    assert not list(tmp_path.iterdir())


@contextmanager
def little_space() -> Iterator[None]:
    """No file can grow beyond 4 KiB, which stops a writer half-way as a full disk does.

    Not a fixture: pytest writes its own report before a fixture ends, and its output may be a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SPACE, hard))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # half a .pyc would break every import that follows
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = writes


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """One result of every kind that is written, each larger than that."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(4, 1500), nn.ReLU(), nn.Linear(1500, 2))
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    config = featviz.RenderConfig(size=64, steps=1)
    points = tuple(n / 999 for n in range(1000))
    return {
        "network": wide,
        "alignment": featviz.align(wide, wide, torch.rand(1, 4), "identity"),
        "triplets": featviz.render_unit_triplet(a, b, "conv1", [0, 1], config=config),
        "barrier": featviz.LossBarrier(points, points, points, 0.0, 0.0),
    }


WRITERS = {
    "alignment": lambda r, folder: r["alignment"].save(folder / "ab.safetensors"),
    "permutations as JSON": lambda r, folder: featviz.write_permutations(
        r["alignment"], r["network"], folder / "p.json"
    ),
    "permutations": lambda r, folder: featviz.write_permutations(
        r["alignment"], r["network"], folder / "p.safetensors"
    ),
    "network": lambda r, folder: featviz.save_weights(r["network"], folder / "b.safetensors"),
    "triplets": lambda r, folder: r["triplets"].save(folder / "conv1.png"),
    "plot": lambda r, folder: featviz.plot_barriers({"b": r["barrier"]}, folder / "b.png"),
    "vector plot": lambda r, folder: featviz.plot_barriers({"b": r["barrier"]}, folder / "b.svg"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(results, tmp_path, writer):
    message = r"written \((no space left|file too large).*\): (free some space|raise the)"
    with pytest.raises(OutputError, match=message), little_space():
        WRITERS[writer](results, tmp_path)
    assert not list(tmp_path.iterdir())


def test_saved_weights_come_back(tmp_path):
    model = seeded(TinyCNN)
    model.fc2 = model.fc  # a tensor under two names
    model.conv1.to(memory_format=torch.channels_last)
    assert save_weights(model, tmp_path / "deep" / "w.safetensors") == tmp_path / "deep" / "w.safetensors"
    found = load_weights(tmp_path / "deep" / "w.safetensors")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())
    with pytest.raises(OutputError, match=r"w\.pt does not end in \.safetensors"):
        save_weights(model, tmp_path / "w.pt")


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_file_that_is_there_is_kept_where_it_is_not_to_be_replaced(tmp_path, monkeypatch, links):
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for text in ("first", "second"):
        write_atomically(tmp_path / "x", lambda path, text=text: path.write_text(text), replace=False)
    assert (tmp_path / "x").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
