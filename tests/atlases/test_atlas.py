"""Atlases: complete, equal to the byte however they were made, refused where they are another's, never half written."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_atlas import CONFIG, LAYERS, files, images, make, pair

import featviz
from featviz.atlases.chunk import Chunk, read_chunk
from featviz.atlases.items import ItemRenderer, pictures_of
from featviz.atlases.page import block_of, page_of
from featviz.atlases.plan import Item
from featviz.errors import AtlasError, OutputError, RenderError, UnitError
from featviz.weights.checks import digest


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("atlas") / "ab"
    make(folder)
    return folder


def test_every_unit_that_was_asked_for_is_there_in_all_subjects(complete):
    store = featviz.AtlasStore.open(complete)
    assert [(row.name, row.rendered, row.units) for row in store.status()] == [("bn2", 8, 8), ("conv3", 6, 6)]
    assert tuple(store.identity.subjects) == ("A", "B'", "merged")
    for item in store.items():
        chunk = store.read(item)
        assert chunk.arrays["images"].shape == (3, len(item.units), 12, 12, 3)
        assert chunk.arrays["trace"].shape == (3, len(item.units), 4)


def test_an_item_holds_what_a_triplet_shows(complete):
    a, b = pair()
    store = featviz.AtlasStore.open(complete)
    item = next(item for item in store.items() if item.layer == "conv3")
    chunk = store.read(item)
    alignment = featviz.load_alignment(store.alignment_path)
    triplets = featviz.render_unit_triplet(a, b, "conv3", list(item.units), alignment=alignment, config=CONFIG)
    expected = np.stack([part.images.movedim(1, -1).numpy() for part in triplets.renderings.values()])
    assert np.abs(chunk.arrays["images"] / 255 - expected).max() <= 0.51 / 255
    for row, record in enumerate(chunk.records):
        assert record == triplets.unit_record(row)


def test_an_item_is_read_in_five_lines_without_featviz(complete):
    path = next(complete.glob("items/*/*.safetensors"))
    with safe_open(path, "np") as file:
        records = json.loads(file.metadata()["featviz.atlas"])["records"]
        pictures = file.get_tensor("images")  # (subject, unit, h, w, channels) uint8
    assert len(records) == pictures.shape[1]
    assert {"unit", "b", "activation"} <= records[0].keys()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 0, 2, 0)], ids=str)
def test_shards_in_any_order_and_twice_are_the_whole_atlas(order, complete, tmp_path):
    for number in order:
        make(tmp_path, shard=(number, 3))
    assert files(tmp_path) == files(complete)


def test_shards_are_disjoint(tmp_path):
    done: list[str] = []
    for number in range(3):
        make(tmp_path, shard=(number, 3), workers=noting(done))
    assert len(done) == len(set(done)) == len(featviz.AtlasStore.open(tmp_path).items())


def test_the_same_call_renders_nothing_again(complete):
    done: list[str] = []
    make(complete, workers=noting(done))
    assert done == []


def noting(done: list[str]):
    def workers(render: ItemRenderer, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
        for item in items:
            done.append(item.key)
            yield item, render(item).to_bytes()

    return workers


def test_layers_that_are_asked_for_later_are_added(tmp_path):
    make(tmp_path, layers="bn2")
    store = make(tmp_path, layers="conv3:0-2")
    assert [(row.name, row.rendered) for row in store.status()] == [("bn2", 8), ("conv3", 3)]


def _make_in_process(folder: Path) -> None:
    make(folder)


def test_a_process_killed_at_any_moment_leaves_whole_files_and_the_next_one_goes_on(complete, tmp_path):
    context = multiprocessing.get_context("fork")
    for delay in (0.05, 0.2, 0.4, 0.6):
        process = context.Process(target=_make_in_process, args=(tmp_path,))
        process.start()
        time.sleep(delay)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for path in tmp_path.glob("items/*/[!.]*.safetensors"):
            read_chunk(path)
    make(tmp_path)
    assert files(tmp_path) == files(complete)
    assert not list(tmp_path.glob("items/*/.*"))  # what was half written is removed


def test_two_processes_on_one_folder_at_once_make_the_same_files(complete, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_make_in_process, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert files(tmp_path) == files(complete)


def test_a_folder_of_other_networks_or_another_configuration_is_refused_and_stays_as_it_was(complete):
    before = files(complete)
    with pytest.raises(AtlasError, match=r"differs in steps \(5, there 4\)"):
        make(complete, config=featviz.RenderConfig(size=12, steps=5, precision="float32", backend="eager"))
    a, b = pair()
    with pytest.raises(featviz.FeatvizError):
        featviz.atlas(b, a, complete, LAYERS, config=CONFIG, units_per_item=3)
    assert files(complete) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": "png"}, "images is 'png': use one of raw, webp"),
        ({"units_per_item": 0}, "units_per_item is 0: it lies between 1 and 100000, a whole number"),
        ({"shard": (3, 3)}, r"there is no shard 3/3: write 0/3 to 2/3"),
        ({"method": "activations"}, "compare"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(settings, message, tmp_path):
    with pytest.raises(featviz.FeatvizError, match=message):
        make(tmp_path / "new", **settings)


def test_a_layer_or_unit_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnitError, match="bn9"):
        make(tmp_path / "new", layers="bn9")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UnitError, match="99"):
        make(tmp_path, layers="bn2:99")


def test_an_output_that_cannot_be_written_is_one_sentence_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        make(tmp_path / "file" / "atlas")


def test_a_disk_that_is_full_is_one_sentence_and_the_atlas_goes_on_afterwards(complete, tmp_path, monkeypatch):
    import errno

    write = Path.write_bytes
    left = [3]

    def full(self: Path, data: bytes) -> int:
        if "items" in self.parts:
            left[0] -= 1
            if left[0] < 0:
                write(self, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"no space left on device.*free some space"):
        make(tmp_path)
    assert len(files(tmp_path)) == 3
    monkeypatch.undo()
    make(tmp_path)
    assert files(tmp_path) == files(complete)


@pytest.mark.parametrize("change", ["truncate", "flip", "empty", "other"])
def test_a_damaged_file_is_found_and_named(change, complete, tmp_path):
    path = next(complete.glob("items/*/*.safetensors"))
    data = path.read_bytes()
    damaged = {
        "truncate": data[:-7],
        "flip": data[:-7] + bytes([data[-7] ^ 1]) + data[-6:],
        "empty": b"",
        "other": b"\x08\x00\x00\x00\x00\x00\x00\x00" + b'{"x":1} ',
    }[change]
    target = tmp_path / path.name
    target.write_bytes(damaged)
    with pytest.raises(AtlasError, match=path.name):
        read_chunk(target)


def test_evidence_is_measured_once_and_on_one_set_of_images(tmp_path):
    store = make(tmp_path, data=images(), exemplars=2)
    assert all(row.measured == row.units for row in store.status())
    item = store.items()[0]
    evidence = store.evidence(item)
    assert evidence is not None
    assert [record["unit"] for record in evidence.records] == list(item.units)
    assert {"verdict", "agreement", "fidelity"} <= evidence.records[0].keys()
    assert evidence.arrays["exemplars"].shape[:3] == (3, len(item.units), 2)
    with pytest.raises(AtlasError, match="evidence of other images"):
        make(tmp_path, data=[batch.flip(0) for batch in images()], exemplars=2)


def test_lossy_images_are_near_the_raw_ones_and_smaller(complete, tmp_path):
    config = featviz.RenderConfig(size=32, steps=8, precision="float32", backend="eager")
    raw, lossy = (make(tmp_path / kind, layers="bn2", config=config, images=kind) for kind in ("raw", "webp"))
    for one, other in zip(raw.items(), lossy.items(), strict=True):
        expected, found = pictures_of(raw.read(one)), pictures_of(lossy.read(other))
        assert np.abs(expected.astype(float) - found).mean() < 12
        assert lossy.read(other).arrays["images.webp"].nbytes < expected.nbytes / 2


def test_a_linear_alignment_shows_the_members_of_merged_units(tmp_path):
    store = make(tmp_path, layers="bn2", method="zipit", data=images(), exemplars=0)
    assert tuple(store.identity.subjects) == ("A", "B", "merged")
    record = store.read(store.items()[0]).records[0]
    assert record["members"]


def test_threads_may_make_two_atlases_at_once(complete, tmp_path):
    networks = pair()
    threads = [threading.Thread(target=make, args=(tmp_path / name, networks)) for name in ("x", "y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(tmp_path / "x") == files(tmp_path / "y") == files(complete)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_an_atlas_with_a_number_that_is_none_is_damaged(tmp_path, number):
    store = make(tmp_path, layers="bn2:0")
    path = tmp_path / "atlas.json"
    path.write_text(path.read_text().replace('"lr": null', f'"lr": {number}'))
    assert number in path.read_text()
    with pytest.raises(AtlasError, match=r"atlas\.json is no JSON"):
        featviz.AtlasStore.open(store.folder)


def test_a_chunk_is_the_same_after_writing_and_reading():
    chunk = Chunk([{"unit": 3, "name": "<script>"}], {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    data = chunk.to_bytes()
    assert data == chunk.to_bytes()
    again = Chunk.from_bytes(data, "x")
    assert again.records == chunk.records
    np.testing.assert_array_equal(again.arrays["x"], chunk.arrays["x"])


def test_a_page_shows_every_unit_once_also_where_layers_were_asked_for_in_parts(tmp_path):
    make(tmp_path, layers="bn2:0-4")
    store = make(tmp_path, layers="bn2")
    (layer,) = page_of(store).layers
    units = [record["unit"] for block in layer.blocks for record in block.records]
    assert sorted(units) == list(range(8))


def test_images_of_four_channels_are_gray_tiles_on_a_page():
    record = {"unit": 0, "own_units": {"A": 0}, "activation": {"A": 1.0}}
    images = np.full((1, 1, 6, 6, 4), 100, np.uint8)
    trace, steps = np.zeros((1, 1, 2), np.float32), np.ones((1, 1), np.int32)
    block = block_of(Chunk([record], {"images": images, "trace": trace, "steps": steps}), None)
    assert block.images.shape == (1, 1, 14, 14, 1)
    assert set(np.unique(block.images)) == {100, 255}  # four tiles, white between them


def test_an_atlas_shows_the_path_from_a_to_b(tmp_path):
    a, b = pair()
    alignment = featviz.align(a, b, torch.rand(1, 3, 12, 12))
    store = make(tmp_path, (a, b), layers="bn2:0-1", alignment=alignment, path=[0.25, 0.75])
    assert store.identity.subjects.keys() == {"A", "B'", "merged", "weight 0.25", "weight 0.75"}
    expected = digest(featviz.merge(a, b, alignment, 0.75, repair="none"))
    assert store.identity.subjects["weight 0.75"] == expected
    make(tmp_path, (a, b), layers="bn2:0-1", alignment=alignment, path=[0.25, 0.75])  # the same atlas
    with pytest.raises(AtlasError):
        make(tmp_path, (a, b), layers="bn2:0-1", alignment=alignment, path=[0.5])
    with pytest.raises(RenderError, match=r"two subjects 'weight 0\.5'"):
        make(tmp_path / "other", (a, b), layers="bn2:0-1", alignment=alignment, path=[0.5, 0.5])
