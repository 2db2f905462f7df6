"""Odd values of Python and JSON: a value, a random generator -> one that is not expected in its place."""

import json
from random import Random
from typing import Any

import numpy as np

ODD_TEXTS = (
    "", " ", "../../x", "/etc/passwd", "<script>alert(1)</script>", "a\0b", "a\nb", "\x1b[31mred", "\u202etxt", "\ud800",
    "é" * 300, "x" * 100_000, "a." * 20_000, "__class__", "{0.__class__}", "%s%n", "$(touch x)", "CON", "NaN", "-0", "1e999",
    "0x10", "٣", "²", "9" * 5000, "-1", "None", "true", "'", '"', "\\",
)  # fmt: skip

ODD_NUMBERS = (
    0,
    -1,
    1,
    2,
    2**31,
    2**31 - 1,
    -(2**31),
    2**32,
    2**62,
    2**63,
    -(2**63) - 1,
    2**64,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
)

ODD_FLOATS = (float("nan"), float("inf"), float("-inf"))


def odd_value(random: Random, depth: int = 1) -> Any:
    """A value that JSON can say."""
    kind = random.randrange(9)
    if kind < 2:
        return random.choice(ODD_TEXTS)
    if kind < 4:
        return random.choice(ODD_NUMBERS)
    if kind == 4:
        return random.choice(ODD_FLOATS)
    if kind == 5:
        return random.choice((None, True, False, [], {}, [None], [[]], {"": None}))
    if kind == 6:
        return nested(random.choice((3, 70, 400)), random.choice((True, False)))
    if kind == 7 and depth:
        return [odd_value(random, depth - 1) for _ in range(random.randrange(4))]
    return {random.choice(ODD_TEXTS): odd_value(random, 0)}


def nested(depth: int, lists: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if lists else {"a": value}
    return value


def mutate_value(value: Any, random: Random) -> Any:
    """A JSON value of which one part, at a random depth, is changed."""
    if isinstance(value, str) and value.startswith(('{"', "[")) and random.random() < 0.9:
        return json.dumps(mutate_value(json.loads(value), random))  # JSON in a string
    if isinstance(value, (dict, list)) and value and random.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = random.choice(keys)
        changed: Any = value.copy()
        kind = random.randrange(12)
        if kind == 0:
            del changed[key]
        elif kind == 1 and isinstance(value, dict):
            changed[random.choice(ODD_TEXTS)] = changed.pop(key)
        elif kind == 1:
            changed.insert(key, changed[key])
        elif kind == 2:
            other = random.choice(keys)
            changed[key], changed[other] = changed[other], changed[key]
        else:
            changed[key] = mutate_value(value[key], random)
        return changed
    if isinstance(value, (int, float)) and not isinstance(value, bool) and random.random() < 0.5:
        return random.choice((value + 1, value - 1, -value, value * 1000, value / 3, random.choice(ODD_NUMBERS)))
    return odd_value(random)


class NoText:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


ODD_OBJECTS = (
    np.array([1, 2]), np.array(["a", "b"]), np.array(None), np.zeros((3, 3)), np.float32("nan"), np.int64(7), np.bool_(True),
    b"x", 1j,
    (), ((),), {1, 2}, range(10**15), object(), NoText(), int, lambda: 1, 10**5000, -(10**5000), nested(100_000, True),
    Ellipsis,
    float("nan"), np.datetime64("NaT"), slice(1), memoryview(b"ab"), frozenset(), {"a": 1}.keys(), Exception("x\ny"),
    "a" * 10**6,
    np.array([[1.0, float("nan")]]), [[1, 2, 3]] * 3, ["a", None], (10**5000,), [10**400] * 3,
)  # fmt: skip
