"""Damaged and hostile input, made from valid examples.

example, a random generator -> the mutated example, of the same kind: text, a file, a folder, or keyword arguments.

    mutate(File("a.json", b'{"a": 1}'), Random("fates:7"))    # -> File("a.json", b'{"a": [[[[...'), or a folder in its place

A file is mutated by its format, which its suffix names (`FORMATS`), and by its bytes. Equal generators give equal results.
"""

import contextlib
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import numpy as np

CANARY = "the-fuzzer-ran-code"  # the file that hostile pickles and programs try to make, in the current folder
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


class Hostile:
    """Makes the canary where it is unpickled."""

    def __reduce__(self) -> tuple:
        return exec, (f"open({CANARY!r}, 'w').close()",)


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


def flip_bit(content: bytes, random: Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def change_bytes(content: bytes, random: Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(random.choice((1, 2, 4, 16))):
        changed[random.randrange(len(changed))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(changed)


def change_beginning(content: bytes, random: Random) -> bytes:
    """Headers stand first, so that their bytes are changed more often than others."""
    return change_bytes(content[:64], random) + content[64:]


def truncate(content: bytes, random: Random) -> bytes:
    return content[: random.choice((0, 1, 7, 8, 9, len(content) - 1, random.randrange(len(content) + 1)))]


def extend(content: bytes, random: Random) -> bytes:
    return content + random.choice((b"\0", b"{", b"PK\x05\x06", content, random.randbytes(100), b"\0" * 4096))


def swap_blocks(content: bytes, random: Random) -> bytes:
    first, second, third = sorted(random.randrange(len(content) + 1) for _ in range(3))
    return content[:first] + content[second:third] + content[first:second] + content[third:]


def overwrite_number(content: bytes, random: Random) -> bytes:
    """A length, an offset or a count of 2, 4 or 8 bytes becomes another, in either order of bytes."""
    size = random.choice((2, 4, 8))
    number = random.choice((0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)) % 2 ** (8 * size)
    at = random.randrange(max(1, len(content) - size))
    return content[:at] + number.to_bytes(size, random.choice(("little", "big"))) + content[at + size :]


def another_format(content: bytes, random: Random) -> bytes:
    """Bytes of another kind of file under this name; programs and hostile pickles among them."""
    return random.choice(
        (
            b"", b"{}", b"[]", b"null", b"\xff\xfe", b"\x80\x02N.", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", EPS,
            pickle.dumps(Hostile(), 2), hostile_torch_file(), hostile_npz(), b"#!/bin/sh\ntouch " + CANARY.encode(),
            b"[" * 100_000,
            struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 2**40) + b"{}", b"\0" * 100, b"<svg/>", b"{" + b'"a":{' * 50_000,
        )
    )  # fmt: skip


BYTES = (flip_bit, change_bytes, change_beginning, truncate, extend, swap_blocks, overwrite_number, another_format)


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


def mutate_json(content: bytes, random: Random) -> bytes:
    text = content.decode()
    kind = random.randrange(10)
    if kind == 0:  # a key that stands twice
        return text.replace("{", '{"format": null, ', 1).encode()
    if kind == 1:
        depth = random.choice((900, 5000, 100_000))
        return text.replace(random.choice(("1", '"', "[", "{")), "[" * depth, 1).encode()
    if kind == 2:
        return random.choice((b"\xef\xbb\xbf" + content, text.encode("utf-16"), text.encode("latin-1", "replace")))
    changed = mutate_value(json.loads(text), random)
    return json.dumps(changed, ensure_ascii=random.random() < 0.9).encode("utf-8", "surrogatepass")


def mutate_safetensors(content: bytes, random: Random) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + size], content[8 + size :]
    kind = random.randrange(10)
    if kind == 0:
        return (
            struct.pack("<Q", random.choice((0, 1, size - 1, size + 1, 2**31, 2**40, 2**63, 2**64 - 1))) + content[8:]
        )
    if kind == 1:
        return content[: 8 + size] + random.choice(BYTES[:6])(data, random)
    if kind == 2:  # another value of a whole number, as indices are
        at = random.randrange(max(1, len(data) // 8)) * 8
        number = random.choice((-1, 0, 1, 2, 3, 2**31, -(2**62)))
        return content[: 8 + size] + data[:at] + struct.pack("<q", number) + data[at + 8 :]
    if kind == 3:
        header = mutate_json(header, random)
    else:
        entries = json.loads(header)
        names = [name for name in entries if name != "__metadata__"]
        if kind < 6 and "__metadata__" in entries:
            entries["__metadata__"] = mutate_value(entries["__metadata__"], random)
        elif kind == 6 and names:
            entries[random.choice(names)]["dtype"] = random.choice(
                ("F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "U8", "BOOL", "C64", "X", "F4", "U64")
            )
        elif kind == 7 and names:
            shape = random.choice(([], [0], [-1], [2**63], [2**32, 2**32, 2**32], [1] * 80, [3, 0], [2**62, 4], [1, 1]))
            entries[random.choice(names)]["shape"] = shape
        elif kind == 8 and names:  # the same number of bytes in another shape and type
            entry = entries[random.choice(names)]
            length = entry["data_offsets"][1] - entry["data_offsets"][0]
            dtype, width = random.choice(
                (("U8", 1), ("I16", 2), ("F32", 4), ("F64", 8), ("I64", 8), ("BF16", 2), ("F8_E5M2", 1))
            )
            if length % width == 0:
                entry |= {
                    "dtype": dtype,
                    "shape": random.choice(([length // width], [1, length // width], [length // width, 1])),
                }
        elif names:
            entries[random.choice(ODD_TEXTS)] = entries.pop(random.choice(names))
        header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


def mutate_zip(content: bytes, random: Random) -> bytes:
    """An archive with another entry, another name, another size, or an entry that is mutated by its own format."""
    kind = random.randrange(12)
    if kind == 0:  # sizes in the directory at the end
        at = content.rfind(b"PK\x01\x02")
        sizes = struct.pack("<II", *(random.choice((0, 1, 2**31, 2**32 - 2, 2**32 - 1)) for _ in "ab"))
        return content[: at + 20] + sizes + content[at + 28 :]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(info.file_size for info in archive.infolist()) > 2**24:
            raise ValueError("a bomb stays one")
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    name = random.choice(list(entries))
    bomb = False
    if kind == 1:
        entries[random.choice(ODD_TEXTS)[:60_000].replace("\ud800", "") + name] = entries.pop(name)
    elif kind == 2:
        del entries[name]
    elif kind == 3:
        entries[random.choice(("x.npy", "data.pkl", "../../x.npy", "a/b/c", "archive/data.pkl"))] = pickle.dumps(
            Hostile(), 2
        )
    elif kind == 4 and random.random() < 0.2:
        entries, bomb = {name: b""}, True
    elif kind < 8:
        entries[name] = random.choice(BYTES)(entries[name], random)
    elif name.endswith(".npy"):
        entries[name] = mutate_npy(entries[name], random)
    elif any(other.endswith("data.pkl") for other in entries):
        pickled = next(other for other in entries if other.endswith("data.pkl"))
        entries[pickled] = mutate_pickle(entries[pickled], random)
    made = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(made, "w", method) as archive:
        for other, data in entries.items():
            archive.writestr(zipfile.ZipInfo(other), data, method)  # without the time of day: a case is the same again
    return bomb_of(name) if bomb else made.getvalue()


@cache
def bomb_of(name: str) -> bytes:
    """An archive of some 600 kB whose entry becomes 600 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # may be repeated
    data, size = part * 600 + zlib.compressobj(9, zlib.DEFLATED, -15).flush(), 600 * 2**20
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(name, data)
    content = bytearray(made.getvalue())
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        first = content.rfind(mark) + at
        content[first : first + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        content[first + 6 : first + 18] = struct.pack("<III", 0, len(data), size)
    return bytes(content)


def mutate_npy(content: bytes, random: Random) -> bytes:
    """Another header, or an array of objects whose pickle is hostile."""
    (size,) = struct.unpack("<H", content[8:10])
    header, data = content[10 : 10 + size].decode(), content[10 + size :]
    kind = random.randrange(5)
    if kind == 0:
        return content[:8] + struct.pack("<H", random.choice((0, 1, size + 1, 2**16 - 1))) + content[10:]
    if kind == 1:
        header, data = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps(Hostile(), 2)
    elif kind == 2:
        shapes = (
            "(-1,)",
            "(2**40,)",
            f"({2**40},)",
            f"({2**62}, {2**62})",
            "()",
            "(0,)",
            "(3.5,)",
            "'x'",
            "(1,)*99",
            "[4]",
            "(4, 1)",
        )
        header = header[: header.index("'shape'")] + f"'shape': {random.choice(shapes)}, }}"
    elif kind == 3:
        dtypes = (
            "'<U99999999'",
            "'|V999999999'",
            "'>i8'",
            "'<f8'",
            "'|b1'",
            "'<c16'",
            "'<M8[ns]'",
            "[('a', '<i8')]",
            "'|S0'",
            "1",
            "'x'",
        )
        header = f"{{'descr': {random.choice(dtypes)}" + header[header.index(", 'fortran_order'") :]
    else:
        header = random.choice(
            ("__import__('os')", "{" * 3000, "(" * 9000, "'" * 9, "{}", "", "\0", "[1]" * 100, "1" * 6000)
        )
    return content[:8] + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + data


def mutate_pickle(content: bytes, random: Random) -> bytes:
    """A pickle that is hostile, or that holds another number, name or class."""
    kind = random.randrange(8)
    if kind == 0:
        return pickle.dumps(Hostile(), 2)
    if kind == 1:  # a number of one byte becomes one of eight
        places = [at for at in range(len(content) - 1) if content[at : at + 1] == b"K"]
        at = random.choice(places)
        number = random.choice((2**31, 2**40, 2**62, -1, -(2**40)))
        return content[:at] + b"\x8a\x08" + struct.pack("<q", number) + content[at + 2 :]
    if kind == 2:
        classes = (
            (b"torch", b"_utils"),
            (b"FloatStorage", b"LongStorage"),
            (b"_rebuild_tensor_v2", b"_rebuild_parameter"),
        )
        before, after = random.choice(
            (*classes, (b"collections", b"os"), (b"OrderedDict", b"Counter"), (b"torch\n", b"os\n"))
        )
        return content.replace(before, after)
    if kind == 3:
        called = random.choice(
            (
                b"cos\nsystem\n",
                b"cbuiltins\nbytearray\n",
                b"ctorch\nSize\n",
                b"cbuiltins\neval\n",
                b"ccollections\nCounter\n",
            )
        )
        argument = random.choice((b"\x8a\x08" + struct.pack("<q", 2**40), b"X\x01\x00\x00\x00x", b"]", b"N"))
        return b"\x80\x02" + called + argument + b"\x85R."
    if kind == 4:
        return b"\x80\x02" + b"(" * random.choice((3, 5000)) + b"]" * random.choice((3, 5000)) + b"."
    if kind == 5:  # lists within lists by reference: as text they would be of 2^60 parts
        return b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (n, n - 1, n - 1) for n in range(1, 60)) + b"."
    return random.choice(BYTES[:7])(content, random)


def mutate_torch_file(content: bytes, random: Random) -> bytes:
    return mutate_zip(content, random) if content[:2] == b"PK" else mutate_pickle(content, random)


def mutate_image(content: bytes, random: Random) -> bytes:
    """Other sizes and kinds of pixels in the header, with its checksum."""
    number = random.choice((0, 1, 10_000, 20_000, 65_535, 2**31 - 1, 2**31, 2**32 - 1))
    if content[:4] == b"\x89PNG":
        header = bytearray(content[12:29])
        at = random.choice((4, 8, 12, 13, 14, 15, 16))
        if at < 12:
            header[at : at + 4] = struct.pack(">I", number)
            if random.random() < 0.5:
                header[4:12] = struct.pack(">II", number, number)
        else:
            header[at] = random.randrange(256)
        return content[:12] + bytes(header) + struct.pack(">I", zlib.crc32(header)) + content[33:]
    if content[:2] == b"BM":
        at = random.choice((10, 14, 18, 22, 26, 28, 30, 34, 46))
        return content[:at] + struct.pack("<I", number) + content[at + 4 :]
    if content[:2] == b"\xff\xd8":
        at = content.index(b"\xff\xc0")
        return content[: at + 5] + struct.pack(">HH", number % 2**16, 65_000) + content[at + 9 :]
    if content[:1] == b"P":
        words = content.split(b"\n", 2)
        words[1] = f"{number} {random.choice((8, number))}".encode()
        return b"\n".join(words)
    return overwrite_number(content[:200], random) + content[200:]


FORMATS: dict[str, Callable[[bytes, Random], bytes]] = {
    "json": mutate_json,
    "safetensors": mutate_safetensors,
    "npz": mutate_zip,
    "pt": mutate_torch_file,
    "pth": mutate_torch_file,
    "pkl": mutate_pickle,
    **dict.fromkeys(("png", "bmp", "jpg", "ppm", "tif", "webp"), mutate_image),
}


def mutate_arguments(arguments: Mapping[str, Any], random: Random) -> Mapping[str, Any]:
    """One argument becomes an odd value, of Python's and of NumPy's types."""
    name = random.choice(sorted(arguments))
    kind = random.randrange(4)
    if kind == 0:
        with contextlib.suppress(ValueError, OverflowError):  # a text that is no JSON, a number that is too large
            return {**arguments, name: mutate_value(arguments[name], random)}
    return {**arguments, name: random.choice(ODD_OBJECTS) if kind == 1 else odd_value(random)}


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

EPS = f"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
({CANARY}) (w) file closefile showpage
%%EOF
""".encode()  # Pillow would hand it to Ghostscript, a program


def hostile_torch_file() -> bytes:
    """As of `torch.save(Hostile())`."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Hostile(), 2))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return made.getvalue()


def hostile_npz() -> bytes:
    """As of `numpy.savez(x=numpy.array([Hostile()]))`."""
    array, made = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(array, np.array([Hostile()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("x.npy", array.getvalue())
    return made.getvalue()
