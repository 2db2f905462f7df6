"""Plain numbers from what a caller gives: checked for kind and range, with one sentence where they are out of it.

value from Python, NumPy or torch -> int, float or tuple of floats.
"""

import operator
from collections.abc import Callable, Collection
from itertools import islice
from typing import Any

from featviz.errors import FeatvizError, shown

MOST = 100_000  # values in a tuple


def number(value: Any, kind: type) -> Any:
    """A plain int or float, also from NumPy or torch; None for anything else: text, True, 2.5 where an int is asked."""
    if isinstance(value, (bool, str, bytes)):
        return None
    try:
        return operator.index(value) if kind is int else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def numbers(values: Any) -> tuple[float, ...] | None:
    """Finite numbers, one or more, from a tuple, list or array; None for anything else."""
    found = each(values, lambda value: number(value, float))
    return found if found is not None and all(abs(v) < 1e300 for v in found) else None


def each(values: Any, read: Callable[[Any], Any]) -> tuple[Any, ...] | None:
    """What `read` makes of every value; None where there are none or more than `MOST`, or one of which `read` makes None."""
    try:
        found = tuple(read(value) for value in islice(values, MOST + 1))
    except TypeError:
        return None
    return None if not 0 < len(found) <= MOST or None in found else found


def in_range(name: str, value: Any, low: float, high: float, error: type[FeatvizError]) -> Any:
    """The value as a plain number between `low` and `high`: an int where `low` is one, else a float.

    Raises:
        error: the value is no such number; the sentence has its name, the value and the range.
    """
    found = number(value, type(low))
    if found is None or not low <= found <= high:
        whole = ", a whole number" if isinstance(low, int) else ""
        raise error(f"{name} is {shown(value)}: it lies between {low} and {high}{whole}.")
    return found


def one_of(value: Any, allowed: Collection[str]) -> bool:
    """Whether the value is one of these names. An array is none: it would be compared with each name by element."""
    return isinstance(value, str) and value in allowed
