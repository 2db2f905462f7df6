"""Mutations of bytes, whatever they mean: bytes, a random generator -> bytes."""

import pickle
import struct
from random import Random

from measures.robustness.hostile import CANARY, EPS, Hostile, hostile_npz, hostile_torch_file


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
