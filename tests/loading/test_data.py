"""Folders of images: every image once, the same every time, and a sentence for what cannot be read."""

import contextlib
import os
import struct
import subprocess
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from featviz.data import ImageFolderBatches, inputs_of, labelled_batches, read_image
from featviz.errors import AlignmentError, DataError, RenderError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def write(path, value=0, height=8, width=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def classes(tmp_path):
    for label, name in enumerate(("bird", "cat")):
        for number in range(10):
            write(tmp_path / "data" / name / f"{number}.png", 100 * label + number)
    return tmp_path / "data"


def pixels(x):
    """The gray value that each image was written with."""
    return ((x * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255)[:, :, 0, 0].round()


def test_class_folders_give_every_image_once_with_its_label(classes):
    batches = list(ImageFolderBatches(classes, 8, MEAN, STD, batch=7))
    assert [len(x) for x, _ in batches] == [7, 7, 6]
    values = torch.cat([pixels(x) for x, _ in batches])
    labels = torch.cat([label for _, label in batches])
    assert sorted(values[:, 0].tolist()) == [*range(10), *range(100, 110)]
    assert torch.equal(values[:, 0] >= 100, labels == 1)
    assert torch.equal(values[:, 0], values[:, 2])


def test_two_runs_are_alike_and_mix_the_classes(classes):
    data = ImageFolderBatches(classes, 8, MEAN, STD, batch=10, seed=3)
    first, second = ([label for _, label in data] for _ in "ab")
    assert all(map(torch.equal, first, second))
    assert 0 < first[0].sum() < 10
    assert ImageFolderBatches(classes, 8, MEAN, STD, seed=4).paths != data.paths


def test_a_limit_takes_evenly_from_every_class(classes):
    data = ImageFolderBatches(classes, 8, MEAN, STD, limit=6)
    assert data.labels is not None
    assert data.labels.bincount().tolist() == [3, 3]
    assert len(set(data.paths)) == 6


def test_a_flat_folder_gives_images_alone(tmp_path):
    write(tmp_path / "a.png", 7)
    (batch,) = ImageFolderBatches(tmp_path, 8, MEAN, STD)
    assert isinstance(batch, torch.Tensor)
    assert batch.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 16), (40, 7), (1, 1)])
def test_images_of_any_shape_are_cut_at_the_center(tmp_path, height, width):
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    (batch,) = ImageFolderBatches(tmp_path, (6, 4), (0.0,) * 3, (1.0,) * 3)
    assert batch.shape == (1, 3, 6, 4)
    assert batch[0, :, 2:4, 1:3].min() > 0.99


def test_one_mean_makes_gray_images(tmp_path):
    write(tmp_path / "a.png", 51)
    (batch,) = ImageFolderBatches(tmp_path, 8, (0.0,), (1.0,))
    assert batch.shape == (1, 1, 8, 8)
    assert torch.allclose(batch, torch.tensor(0.2))


@pytest.mark.parametrize("channels", [1, 3])
def test_without_a_mean_images_stay_between_0_and_1(tmp_path, channels):
    write(tmp_path / "a.png", 51)
    (batch,) = ImageFolderBatches(tmp_path, 8, channels=channels)
    assert batch.shape == (1, channels, 8, 8)
    assert torch.allclose(batch, torch.tensor(0.2))


@pytest.mark.parametrize("read", [inputs_of, labelled_batches])
def test_data_without_a_batch_is_one_sentence_whoever_reads_it(read):
    for kind in (DataError, AlignmentError, RenderError):
        with pytest.raises(kind, match="yielded no batch"):
            list(read([], torch.device("cpu")))


def test_labels_that_are_missing_are_asked_for():
    x, label = torch.zeros(2, 3, 4, 4), torch.zeros(2)
    assert len(list(labelled_batches([(x, label)], torch.device("cpu")))) == 1
    for batch in (x, (x,), [x]):
        with pytest.raises(DataError, match="needs labels"):
            list(labelled_batches([batch], torch.device("cpu")))


def test_bad_folders_are_named(tmp_path, classes):
    with pytest.raises(DataError, match=r"absent is no folder"):
        ImageFolderBatches(tmp_path / "absent", 8, MEAN, STD)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none has no images"):
        ImageFolderBatches(tmp_path / "none", 8, MEAN, STD)
    (classes / "dog").mkdir()
    with pytest.raises(DataError, match=r"class folder without images .*dog"):
        ImageFolderBatches(classes, 8, MEAN, STD)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_an_unreadable_image_is_named(tmp_path, content):
    write(tmp_path / "good.png", height=64)
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(DataError, match=r"bad\.png cannot be read"):
        list(ImageFolderBatches(tmp_path, 8, MEAN, STD))


def test_settings_that_leave_nothing_are_refused(classes):
    for settings in ({"limit": 0}, {"batch": 0}):
        with pytest.raises(DataError):
            ImageFolderBatches(classes, 8, MEAN, STD, **settings)
    with pytest.raises(DataError, match="2 means"):
        ImageFolderBatches(classes, 8, MEAN[:2], STD, batch=2)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_program_is_started_for_an_image(tmp_path, monkeypatch):
    """Pillow hands EPS, also under another name, to Ghostscript."""
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **more: pytest.fail(f"{given} was started"))
    (tmp_path / "x.png").write_bytes(EPS)
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(tmp_path / "x.png", (4, 4))


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_an_image_without_an_end_is_not_read(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        Image.new("RGB", (8, 8)).save(path, "WEBP")  # which Pillow reads as a whole
        os.truncate(path, 2**40)
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(path, (4, 4))


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    write(tmp_path / "x.png")
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[16:24] = struct.pack(">II", 10_000, 10_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match="more than 89478485 pixels"):
        read_image(tmp_path / "x.png", (4, 4))


def test_a_chunk_that_claims_gigabytes_is_not_allocated(tmp_path):
    write(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    at = content.index(b"IDAT")
    (tmp_path / "x.png").write_bytes(content[: at - 4] + struct.pack(">I", 2**31 - 1) + content[at:])
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            read_image(tmp_path / "x.png", (4, 4))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
