"""Damaged and hostile input, made from valid examples.

example, a random generator -> the mutated example, of the same kind: text, a file, a folder, or keyword arguments.

    mutate(File("a.json", b'{"a": 1}'), Random("fates:7"))    # -> File("a.json", b'{"a": [[[[...'), or a folder in its place

A file is mutated by its format, which its suffix names (`FORMATS`), and by its bytes. Equal generators give equal results.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from measures.robustness.byte_mutations import (
    BYTES,
)
from measures.robustness.formats import (
    FORMATS,
)
from measures.robustness.values import (
    ODD_OBJECTS,
    ODD_TEXTS,
    mutate_value,
    odd_value,
)


@dataclass(frozen=True)
class File:
    """A file: its name, its bytes, and what stands in its place ("" for the file itself, or one of `PLACES`)."""

    name: str
    content: bytes
    place: str = ""


@dataclass(frozen=True)
class Folder:
    """A folder of files, by their paths in it."""

    files: Mapping[str, File]


Example = str | File | Folder | Mapping[str, Any]

PLACES = ("folder", "missing", "loop", "pipe", "zeros", "sparse", "no rights")  # see `cases.write`


def folder(files: Mapping[str, bytes]) -> Folder:
    """A folder of these contents by path."""
    return Folder({path: File(path.rpartition("/")[2], content) for path, content in files.items()})


def mutate(example: Example, random: Random) -> Example:
    """One to three mutations of an example."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if isinstance(example, str):
            example = mutate_text(example, random)
        elif isinstance(example, File):
            example = mutate_file(example, random)
        elif isinstance(example, Folder):
            path = random.choice(sorted(example.files))
            changed = dict(example.files)
            if random.random() < 0.05:
                changed[f"{path}~"] = changed.pop(path)
            else:
                changed[path] = mutate_file(changed[path], random)
            example = Folder(changed)
        else:
            example = mutate_arguments(example, random)
    return example


def mutate_file(file: File, random: Random) -> File:
    """Mutated by its format in most cases, else by its bytes, or another thing in its place."""
    chance = random.random()
    if chance < 0.03:
        return replace(file, place=random.choice(PLACES))
    of_format = FORMATS.get(file.name.rpartition(".")[2])
    content = file.content
    if chance < 0.6 and of_format is not None:
        try:
            return replace(file, content=of_format(content, random))
        except Exception:  # an earlier mutation left nothing of the format
            pass
    return replace(file, content=random.choice(BYTES)(content, random))


def mutate_text(text: str, random: Random) -> str:
    pieces = (":", ",", "-", ".", "..", "0", "17", "99999999999", "-1", "0-9999999999", "layer", " ", *ODD_TEXTS)
    at, end = sorted(random.randrange(len(text) + 1) for _ in range(2))
    kind = random.randrange(6)
    if kind == 0:
        return text[:at] + random.choice(pieces) + text[at:]
    if kind == 1:
        return text[:at] + random.choice(pieces) + text[end:]
    if kind == 2:
        return text[:at] + text[end:]
    if kind == 3:
        return text[:at] + text[at:end] * random.choice((2, 3, 50)) + text[end:]
    if kind == 4:
        return text[:at] + chr(random.choice((random.randrange(128), random.randrange(0x3000)))) + text[at + 1 :]
    return random.choice(pieces)


def mutate_arguments(arguments: Mapping[str, Any], random: Random) -> Mapping[str, Any]:
    """One argument becomes an odd value, of Python's and of NumPy's types."""
    name = random.choice(sorted(arguments))
    kind = random.randrange(4)
    if kind == 0:
        with contextlib.suppress(ValueError, OverflowError):  # a text that is no JSON, a number that is too large
            return {**arguments, name: mutate_value(arguments[name], random)}
    return {**arguments, name: random.choice(ODD_OBJECTS) if kind == 1 else odd_value(random)}
