"""What an error says is one line that can be shown, whatever it quotes."""

import pytest

from featviz.errors import FeatvizError, UnitError, near_names, shown


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "a\0b", "\u202etxt", "\ud800"])
def test_an_error_has_one_printable_line(name):
    said = str(UnitError(f"there is no layer {name}: give another."))
    assert said.isprintable()
    assert said.encode("utf-8")
    assert said.startswith("there is no layer ")


def test_of_a_long_error_the_remedy_is_left():
    said = str(FeatvizError(f"there is no layer {'x' * 10**6}: give another."))
    assert len(said) < 2000
    assert said.endswith(": give another.")


def test_near_names_of_a_long_name_are_found_at_once():
    assert near_names("a." * 10**6, [f"layer{number}." * 20 for number in range(300)]).endswith((".", "?"))


class NoText:
    def __repr__(self) -> str:
        raise RuntimeError


def test_every_value_is_shown_in_a_few_hundred_characters():
    nested, doubled = 1, [1]
    for _ in range(100_000):
        nested = [nested]
    for _ in range(60):
        doubled = [doubled, doubled]
    for value in (
        10**5000,
        -(10**5000),
        "x" * 10**6,
        list(range(10**5)),
        NoText(),
        nested,
        doubled,
        float("nan"),
        {1: NoText()},
    ):
        assert 0 < len(shown(value)) < 1000
    assert shown("a") == "'a'"
    assert shown((1, 2.5)) == "(1, 2.5)"
