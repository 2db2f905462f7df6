"""Mutations of files by their format, which know its headers: bytes, a random generator -> bytes."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

from measures.robustness.byte_mutations import BYTES, overwrite_number
from measures.robustness.hostile import Hostile
from measures.robustness.values import ODD_TEXTS, mutate_value


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
