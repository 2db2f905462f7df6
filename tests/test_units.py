"""Unit specs: text and numbers, there and back."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featviz.units
from featviz.errors import UnitError
from featviz.units import UnitSpec, format_unit, parse_channels, parse_units


def test_the_examples_in_the_docstring_hold():
    assert doctest.testmod(featviz.units).failed == 0


@given(
    st.from_regex(r"[a-zA-Z_][\w]*(\.[\w]+)*", fullmatch=True),
    st.integers(min_value=0, max_value=10**6),
)
def test_a_printed_unit_reads_back(layer, channel):
    assert parse_units(format_unit(layer, channel)) == UnitSpec(layer, (channel,))


@pytest.mark.parametrize(
    ("text", "channels"),
    [("3", (3,)), ("0-2", (0, 1, 2)), ("5-5", (5,)), ("9,0-1,9", (9, 0, 1, 9)), (" 1 , 2 - 3 ", (1, 2, 3))],
)
def test_channels_are_numbers_and_ranges_in_the_order_written(text, channels):
    assert parse_channels(text) == channels


def test_a_layer_alone_means_all_of_its_units():
    assert parse_units(" layer1.0.bn1 ") == UnitSpec("layer1.0.bn1", None)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (":3", "names no layer"),
        ("fc:", "is not a list of channels"),
        ("fc:x", "'x' is not a list of channels"),
        ("fc:1,,2", "is not a list of channels"),
        ("fc:-1", "is not a list of channels"),
        ("fc:1.5", "is not a list of channels"),
        ("fc:7-3", "write 3-7"),
    ],
)
def test_what_is_no_spec_is_said_with_a_remedy(text, part):
    with pytest.raises(UnitError, match=part) as caught:
        parse_units(text)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "text", ["0-99999999999", "1,0-999999999999999999999", "9" * 5000, "0-" + "9" * 5000, "x" * 10**5]
)
def test_a_spec_is_refused_before_it_fills_the_memory(text):
    with pytest.raises(UnitError, match=r"more than 1048576 channels|not a list of channels") as caught:
        parse_units(f"fc:{text}")
    assert len(str(caught.value)) < 500
