"""The page's files: data that stays data, names of numbers only, complete or not there."""

import base64
import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_up_pages import SUBJECTS, block, ordinary_page, page, record
from PIL import Image

from featviz.errors import OutputError
from featviz.gallery.page import write
from featviz.gallery.page.contents import Page, PageLayer
from featviz.gallery.page.scripts import photograph_url, plain, rendering_url, script
from featviz.gallery.page.write import write_page

HOSTILE = "</script><script>alert(1)</script>\"'`${x}&amp;\u2028../../x\\"


def stored(folder: Path, name: str):
    """The value in a data file."""
    (path,) = folder.glob(f"data/*/{name}.js")
    text = path.read_text(encoding="ascii")
    found = re.fullmatch(r'featviz\.receive\("([^"]*)", (.*)\);\n', text)
    assert found is not None
    assert found[1] == name
    return json.loads(found[2])


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_page_is_an_index_beside_numbered_files(tmp_path):
    assert write_page(ordinary_page(), tmp_path / "new" / "page") == tmp_path / "new" / "page" / "index.html"
    found = files(tmp_path / "new" / "page")
    assert {"index.html", "page.css", "page.js", "data/1/summary.js"} <= found
    pattern = r"data/1/(units/\d+|(images|details|exemplars)/\d+/\d+)\.js"
    assert all(re.fullmatch(pattern, name) for name in found if name.count("/") > 2)
    summary = stored(tmp_path / "new" / "page", "summary")
    assert [(layer["name"], layer["width"], layer["units"]) for layer in summary["layers"]] == [
        ("layer1", 20, 20),
        ("layer2.bn", 16, 10),
    ]
    assert summary["layers"][0]["verdicts"]["kept"] == 3
    assert [known["name"] for known in summary["verdicts"]][:2] == ["kept", "blended"]


def test_text_cannot_leave_a_data_file():
    text = script("units/0", {HOSTILE: [HOSTILE, "\ud800", "é"]})
    assert text.isascii()
    assert not set("<>&") & set(text)
    value = json.loads(text.removeprefix('featviz.receive("units/0", ').removesuffix(");\n"))
    assert value == {HOSTILE: [HOSTILE, "\ud800", "é"]}


def test_what_json_does_not_have_becomes_null_and_floats_are_short():
    value = {"a": np.float32(0.123456789), "b": float("nan"), "c": np.array([1.0, np.inf]), "d": np.int64(3), "e": True}
    assert plain(value) == {"a": 0.12346, "b": None, "c": [1.0, None], "d": 3, "e": True}


def test_hostile_names_are_text_and_write_nothing_outside(tmp_path):
    folder = tmp_path / "page"
    subjects = (HOSTILE, "../../x", "<img src=x onerror=alert(1)>")
    records = [record(0, subjects, fate={"verdict": HOSTILE, "likeliest": HOSTILE, "agreement": 0.1, "fidelity": 0.2})]
    layers = [PageLayer(name, 1, [block(records, subjects, k=1)]) for name in (HOSTILE, "../../../outside", "CON", "")]
    write_page(page(*layers, title=HOSTILE, subjects=subjects, facts={HOSTILE: HOSTILE}), folder)
    assert {path.name for path in tmp_path.iterdir()} == {"page"}
    assert not any(part in name for name in files(folder) for part in ("..", "outside", "alert", "CON"))
    assert stored(folder, "summary")["layers"][0]["name"] == HOSTILE

    tags, texts = [], []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))

        def handle_data(self, data):
            texts.append(data)

    Reader().feed((folder / "index.html").read_text(encoding="utf-8"))
    assert [attributes for tag, attributes in tags if tag == "script"] == [{"src": "page.js"}]
    assert not [tag for tag, attributes in tags if any(name.startswith("on") for name in attributes)]
    assert texts.count(HOSTILE) == 5  # title, link, heading, label and text of a fact


def test_the_page_allows_no_inline_script_and_no_network(tmp_path):
    text = write_page(ordinary_page(), tmp_path).read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    scripts = (tmp_path / "page.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|fetch\(|XMLHttp", scripts
    )


def test_images_come_back_as_they_were_and_photographs_may_be_lossy():
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        image = rng.integers(0, 256, (64, 48, channels), np.uint8)
        kind, data = rendering_url(image).split(";base64,")
        assert kind == "data:image/png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).reshape(image.shape), image)
        assert photograph_url(image).startswith("data:image/jpeg;")
    assert photograph_url(np.zeros((32, 32, 3), np.uint8)).startswith("data:image/png;")


def test_units_are_split_over_files_of_bounded_size_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "CHUNK_BYTES", 4 * 3 * 16 * 16 * 3)
    write_page(ordinary_page(), tmp_path)
    assert stored(tmp_path, "units/0")["starts"] == [0, 4, 8, 12, 16]  # blocks of 12 and 8 units
    assert stored(tmp_path, "units/1")["starts"] == [0, 4, 8]
    assert [found["unit"] for found in stored(tmp_path, "details/0/3")["records"]] == [12, 13, 14, 15]
    assert len(stored(tmp_path, "images/1/2")) == 2


def test_blocks_are_asked_for_one_at_a_time_and_once(tmp_path):
    alive, asked = [], []

    def blocks():
        for number in range(3):
            made = block([record(number)])
            alive.append(made)
            asked.append((number, sum(path.stat().st_size for path in tmp_path.rglob("*.js"))))
            yield made

    write_page(page(PageLayer("layer1", 3, blocks())), tmp_path)
    assert [number for number, _ in asked] == [0, 1, 2]
    assert asked[0][1] < asked[1][1] < asked[2][1], "a block was not written before the next was asked for"


def test_a_long_trace_is_thinned_to_points_that_keep_both_ends(tmp_path):
    made = block([record(0)])
    trace = np.arange(3 * 1000, dtype=np.float32).reshape(3, 1, 1000)
    write_page(page(PageLayer("a", 1, [write.PageBlock(made.records, made.images, trace, made.steps)])), tmp_path)
    details = stored(tmp_path, "details/0/0")
    assert (details["trace_steps"][0], details["trace_steps"][-1]) == (1, 1000)
    assert len(details["trace"][0][0]) == len(details["trace_steps"]) == write.MOST_TRACE_POINTS
    assert details["trace"][0][1][-1] == 1999


@pytest.mark.parametrize(
    "bare",
    [
        {"unit": 4},
        {"unit": 4, "fate": None, "own_units": {}, "activation": {"A": None}, "cross": [], "score": None},
        {"unit": 4, "fate": {"verdict": None, "agreement": float("nan")}, "activation": {"A": float("inf")}},
        {"unit": 4, "b": None, "members": [{"model": "A", "unit": 1}], "dead": ["nobody"]},
    ],
)
def test_a_record_needs_no_more_than_its_unit(tmp_path, bare):
    write_page(page(PageLayer("layer1", 9, [block([bare])])), tmp_path)
    (layer,) = stored(tmp_path, "summary")["layers"]
    assert (layer["units"], layer["verdicts"], layer["agreement"]) == (1, {"": 1}, None)
    columns = stored(tmp_path, "units/0")
    assert columns["unit"] == [4]
    assert not {"score", "agreement", "activation", "verdict", "dead"} & set(columns)


def test_a_page_without_layers_and_a_layer_without_blocks_are_pages(tmp_path):
    write_page(page(), tmp_path / "empty")
    assert stored(tmp_path / "empty", "summary")["layers"] == []
    write_page(page(PageLayer("a", 4, []), PageLayer("b", 4, [block([])])), tmp_path / "none")
    assert [layer["units"] for layer in stored(tmp_path / "none", "summary")["layers"]] == [0, 0]


def test_arrays_that_do_not_fit_their_records_are_named(tmp_path):
    made = block([record(0), record(1)])
    wrong = write.PageBlock(made.records[:1], made.images, made.trace, made.steps)
    with pytest.raises(
        OutputError, match=r"images of a block of 'layer1' .* the first for 3 subjects, the second for 1 units"
    ):
        write_page(page(PageLayer("layer1", 2, [wrong])), tmp_path)
    wrong = write.PageBlock(made.records, made.images, made.trace, made.steps, made.images[:, :, None], ("A",))
    with pytest.raises(
        OutputError, match=r"exemplars of a block of 'layer1' .* the first for 1 subjects, the second for 2 units"
    ):
        write_page(page(PageLayer("layer1", 2, [wrong])), tmp_path)
    assert files(tmp_path) == set()


def test_index_is_written_last_and_a_failure_leaves_the_earlier_page(tmp_path, monkeypatch):
    written = []
    real = write.write_atomically
    monkeypatch.setattr(write, "write_atomically", lambda path, make: written.append(path.name) or real(path, make))
    write_page(ordinary_page(), tmp_path)
    assert written[-1] == "index.html"
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}

    def broken():
        yield block([record(0)])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_page(page(PageLayer("layer1", 2, broken())), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_old_data_is_removed_and_nothing_that_is_not_the_pages_own(tmp_path):
    write_page(ordinary_page(), tmp_path)
    others = [
        "data/1/images/0/notes.txt", "data/1/mine.js", "data/mine/0.js", "data/0.js", "images/0.png", "notes.txt",
        "data/1/images/0/0.json",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "data" / "1" / "units" / ".0-0123abcd.js").write_text("left by a killed process")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "summary.js").write_text("mine")
    (tmp_path / "data" / "7").symlink_to(tmp_path / "elsewhere")
    write_page(page(PageLayer("layer1", 1, [block([record(0)])])), tmp_path)
    found = files(tmp_path)
    assert {*others, "elsewhere/summary.js"} <= found
    assert {name for name in found if name.startswith("data/1/")} == {name for name in others if "data/1/" in name}
    assert "data/2/summary.js" in found
    assert 'data-folder="data/2"' in (tmp_path / "index.html").read_text()


def test_the_same_page_is_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        write_page(ordinary_page(), tmp_path / name)
    one, other = (
        {name: (tmp_path / part / name).read_bytes() for name in files(tmp_path / part)} for part in ("one", "other")
    )
    assert one == other


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        write_page(ordinary_page(), tmp_path / "file" / "page")


def test_a_page_of_one_subject_and_gray_images_is_written(tmp_path):
    made = block([record(0, ("net",))], ("net",))
    gray = write.PageBlock(made.records, made.images[..., :1], made.trace[..., :0], made.steps)
    write_page(Page("One", ("net",), [PageLayer("conv", 1, [gray])]), tmp_path)
    assert stored(tmp_path, "details/0/0")["trace"] is None
    assert len(SUBJECTS) == 3
