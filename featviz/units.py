"""Unit specs: the text `layer:channels` <-> a layer name and channel numbers.

>>> parse_units("layer3.1.conv2:17")
UnitSpec(layer='layer3.1.conv2', channels=(17,))
>>> parse_units("layer1.0.bn1:0-2,7")
UnitSpec(layer='layer1.0.bn1', channels=(0, 1, 2, 7))
>>> parse_units("fc")
UnitSpec(layer='fc', channels=None)
>>> format_unit("fc", 3)
'fc:3'
"""

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from featviz.errors import UnitError, shown

MOST_CHANNELS = 2**20  # in one spec: it names what is rendered, and no layer has so many


@dataclass(frozen=True)
class UnitSpec:
    """Channels of one module's output; `channels` None means all of them."""

    layer: str
    channels: tuple[int, ...] | None


def unit_numbers(units: Any) -> list[int]:
    """Numbers of units as plain integers: of one, or of a sequence, an array or a tensor of them.

    Raises:
        UnitError: something else than whole numbers, such as a mask of booleans.
    """
    one = not isinstance(units, Iterable) or getattr(units, "ndim", 1) == 0
    each: Iterable[Any] = [units] if one else units
    numbers = []
    for unit in each:
        try:
            if isinstance(unit, bool) or "bool" in str(getattr(unit, "dtype", "")):
                raise TypeError
            numbers.append(operator.index(unit))
        except TypeError:
            raise UnitError(f"{shown(unit)} is no unit: give whole numbers, such as 17 or [17, 40].") from None
    return numbers


def parse_units(text: str) -> UnitSpec:
    """Read `layer`, `layer:17`, `layer:0-15` or `layer:0-3,7,9`.

    Raises:
        UnitError: the part after the colon is not numbers and ranges, or they are more than `MOST_CHANNELS`.
    """
    layer, colon, channels = text.strip().rpartition(":")
    if not colon:
        return UnitSpec(channels, None)
    if not layer:
        raise UnitError(f"{shown(text)} names no layer: write layer:channel, for example layer3.1.conv2:17.")
    return UnitSpec(layer, parse_channels(channels))


def parse_channels(text: str) -> tuple[int, ...]:
    """Read `17`, `0-15` or `0-3,7,9` (both ends of a range included)."""
    channels: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,18})(?:\s*-\s*(\d{1,18}))?\s*", part)
        if not found:
            raise UnitError(f"{shown(text)} is not a list of channels: write 17, 0-15 or 0-3,7,9.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise UnitError(f"the range {part.strip()} runs backwards: write {last}-{first}.")
        if len(channels) + last - first >= MOST_CHANNELS:
            raise UnitError(
                f"{shown(text)} has more than {MOST_CHANNELS} channels: give fewer, or the layer alone for all."
            )
        channels.extend(range(first, last + 1))
    return tuple(channels)


def format_unit(layer: str, channel: int) -> str:
    """The spec of one unit."""
    return f"{layer}:{channel}"
