"""The grid: nothing overlaps, nothing is clipped, and the same input makes the same bytes."""

import numpy as np
import pytest
from PIL import Image

from featviz.errors import OutputError
from featviz.gallery.captions import Lettering, printable
from featviz.gallery.grid import Cell, Row, grid, save_png

LONG = "features.denseblock3.denselayer24.conv2:1023 and averyveryverylongwordwithoutanybreakwhatsoeverinitsbody"


def image(height: int = 32, width: int = 32, channels: int = 3, value: float = 0.0) -> np.ndarray:
    return np.full((height, width, channels), value)


def rows(count: int = 3, caption: tuple[str, ...] = ("A:17", "match 0.46")) -> list[Row]:
    return [Row(str(unit), [Cell(image(), caption)] * 2) for unit in range(count)]


def dark(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).max(axis=2) < 250


@pytest.mark.parametrize("width", [1, 9, 40, 160])
@pytest.mark.parametrize("text", [LONG, "word", "", "a " * 200, "layer3.1.conv2:17", "x" * 500])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_wrapped_lines_fit_and_lose_nothing_but_behind_an_ellipsis(text, width, most):
    letters = Lettering(14)
    lines = letters.wrap(text, width, most)
    assert len(lines) <= most
    assert all(letters.width(line) <= width or len(line) == 1 or line == "..." for line in lines)
    joined = "".join(lines).replace(" ", "")
    assert joined == text.replace(" ", "") or lines[-1].endswith("...")


def test_layer_names_break_after_dots_and_numbers_stay_whole():
    assert Lettering(14).wrap("layer3.1.conv2:17", 60, 4) == ["layer3.1.", "conv2:17"]
    assert Lettering(14).wrap("activation 3.0 (own 4.20)", 150, 2) == ["activation 3.0 (own", "4.20)"]


def test_letters_that_the_font_lacks_are_replaced():
    assert printable("B′ → é ≈ 0.5 · 中") == "B' -> e ~ 0.5 · ?"


@pytest.mark.parametrize("side", [1, 20, 32, 100, 160, 224])
def test_every_cell_is_at_least_160_pixels_and_none_is_shrunk(side):
    picture = grid(["A"], [Row("", [Cell(image(side, side))])], "")
    seen = np.argwhere(dark(picture)[60:])
    assert min(np.ptp(seen, axis=0)) + 1 >= max(160, side)


def test_long_words_never_leave_their_column():
    black = image(160, 160)
    plain = grid(["", ""], [Row("", [Cell(black), Cell(black)])], "")
    wordy = grid([LONG, ""], [Row("", [Cell(black, [LONG, LONG]), Cell(black)])], "")
    assert wordy.width == plain.width
    under = dark(wordy)[-80:]  # the caption of the first column and the margin
    gap = wordy.width // 2
    assert under[:, 24:gap].any()
    assert not under[:, :22].any()
    assert not under[:, gap:].any()


def test_captions_stay_between_their_image_and_the_next():
    white, black = image(160, 160, value=1.0), image(160, 160)
    one = Row("", [Cell(white, [LONG] * 3)])
    picture = dark(grid(["A"], [one, Row("", [Cell(black)])], "title"))
    first = np.flatnonzero((picture[:, 24:184]).all(axis=1))[0]  # the black image of the second row begins
    assert not picture[first - 8 : first].any()


def test_rows_side_by_side_are_all_drawn():
    tall, wide = grid(["A", "B"], rows(5), "t"), grid(["A", "B"], rows(5), "t", per_line=3)
    assert wide.width > 2.5 * tall.width
    assert wide.height < tall.height / 2
    full = np.asarray(tall).max(axis=2) == 0, np.asarray(wide).max(axis=2) == 0
    assert [np.round(f.sum() / 160**2) for f in full] == [10, 10]


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3), (1, 1, 3), (3, 400, 3)])
def test_images_of_any_side_and_one_or_three_channels_are_drawn(shape):
    picture = np.asarray(grid(["A"], [Row("r", [Cell(np.zeros(shape))])], "t"))
    assert (picture.max(axis=2) == 0).sum() >= 1200  # the black image, no smaller than it was, and 160 px at least


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(OutputError, match=r"\(2, 5, 5\)"):
        grid(["A"], [Row("r", [Cell(np.ones((2, 5, 5)))])], "t")
    with pytest.raises(OutputError, match="row '0' has 2 cells for 3 columns"):
        grid(["A", "B", "C"], rows(1), "t")
    with pytest.raises(OutputError, match="at least one"):
        grid(["A"], [], "t")


def test_the_same_grid_is_the_same_bytes_and_carries_its_text(tmp_path):
    for name in ("a.png", "b.png"):
        save_png(grid(["A", "B"], rows(), "t", "foot"), tmp_path / name, {"seed": "0", "layer": "é"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["seed"] == "0"
        assert picture.info["layer"] == "é"


def test_only_png_names_are_taken(tmp_path):
    with pytest.raises(OutputError, match=r"x\.jpg is not the name of a PNG"):
        save_png(grid(["A"], [Row("", [Cell(image())])], ""), tmp_path / "x.jpg", {})
    assert list(tmp_path.iterdir()) == []
