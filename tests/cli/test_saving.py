"""A layer is written while the next is rendered, and what was rendered is not lost."""

import threading
from pathlib import Path

import pytest

from featviz.cli import rendering
from featviz.errors import OutputError


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
