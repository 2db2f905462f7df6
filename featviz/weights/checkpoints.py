"""Checkpoint files: a file -> weights {name: tensor} -> a network, checked on the way; nothing is ever unpickled.

notes = load_into(model, "a.pth")                       # CheckpointError says in one sentence what does not fit
notes = load_into(model, "a.pth", key="model_ema")      # where the file holds several sets of weights

Which entry of a file is loaded, and what is stripped from its names, is decided in `state_dicts.py`.
"""

import argparse
import io
import logging
import mmap
import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from featviz.errors import CheckpointError, OutputError, summary
from featviz.files import write_atomically
from featviz.reading import check_file, open_archive
from featviz.weights.checks import count_invalid, first_names
from featviz.weights.state_dicts import Entry, find_entries, match_network, only_entry

log = logging.getLogger("featviz")
# Plain values that trainers save beside the weights, and that torch.load does not allow by itself: arguments, NumPy numbers.
PLAIN_TYPES = [
    argparse.Namespace,
    np.float64(0).__reduce__()[0],
    np.dtype,
    *{type(np.dtype(c)) for c in "?bBhHiIlLefd"},
]

INTEGERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4")  # pickle's opcodes
MEMO = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")


def load_weights(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, or of a torch file through `torch.load(weights_only=True)`.

    Args:
        path: of the file.
        key: which of several sets of weights in the file, such as "model_ema".

    Returns:
        {name: tensor}, on the CPU, in the file's own order, names and dtypes.

    Raises:
        CheckpointError: no such file, a folder, empty, cut off, no checkpoint, without weights, several sets of weights and
            no key, or objects in it that would have to be unpickled.
    """
    entries = _read(Path(path))
    try:
        return only_entry(entries, key).weights
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None


def load_into(model: nn.Module, path: str | Path, key: str | None = None) -> list[str]:
    """Load the file into `model`, in the dtypes of `model`; nothing is loaded unless all of it fits.

    Args:
        model: changed in place.
        path: of a .safetensors file or one of torch.save.
        key: which of several sets of weights: the name of an entry ("model_ema"), or a prefix of its names ("teacher").

    Returns:
        What was chosen, stripped, ignored or converted on the way, one sentence each; also logged.

    Raises:
        CheckpointError: as `load_weights`; names or shapes other than the network's; NaN, or infinite weights.
    """
    entries = _read(Path(path))
    try:
        weights, notes = match_network(model, entries, key)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    wanted = model.state_dict()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{path} has {name} sparse, quantized or without values: save it as a plain tensor.")
        if bad := count_invalid(name, tensor, name in parameters):
            raise CheckpointError(
                f"{path} has NaN or Inf in {name} ({bad} of {tensor.numel()} values): use another checkpoint."
            )
    for name, tensor in weights.items():
        if tensor.dtype != wanted[name].dtype and tensor.is_floating_point():
            there, here = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, wanted[name].dtype))
            notes.append(f"converted {there} to {here}")
            break
    model.load_state_dict(weights, strict=False)
    notes = [f"{path}: {note}." for note in notes]
    for note in notes:
        log.info(note)
    return notes


def save_weights(model: nn.Module, path: str | Path) -> Path:
    """Write parameters and buffers as safetensors, as they are in `model.state_dict()`.

    Args:
        model: any network; a tensor that modules share is written under each of its names.
        path: of a file that ends in .safetensors.

    Raises:
        OutputError: another ending, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise OutputError(f"{path} does not end in .safetensors: give such a name.")
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    copies = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
    return write_atomically(path, lambda part: part.write_bytes(save(copies)))


def _read(path: Path) -> list[Entry]:
    """All sets of weights of a file, one or more."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the checkpoint file in it.")
    try:
        check_file(path)
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: give the path of a .safetensors or .pt file.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check the path and its rights.") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): give the path of a .safetensors or .pt file."
        ) from None
    if not head:
        raise CheckpointError(f"{path} is empty: copy or save the checkpoint again.")
    if path.suffix == ".safetensors" or head[8:] == b"{":
        return [Entry("", _read_safetensors(path))]
    if not head.startswith((b"PK", b"\x80")):
        raise CheckpointError(f"{path} is no checkpoint: give a .safetensors file or one of torch.save.")
    content = _read_torch(path)
    entries = find_entries(content)
    if not entries:
        keys = f"the keys {first_names(map(str, content))}" if isinstance(content, Mapping) and content else None
        raise CheckpointError(
            f"{path} holds {keys or f'a {type(content).__name__}'} instead of weights: save model.state_dict(), bare or under "
            "'state_dict'."
        )
    return entries


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is cut off or no safetensors file ({summary(error, 120)}): copy or save it again."
        ) from error


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN_TYPES):
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            warnings.filterwarnings("ignore", ".*looks like a TorchScript archive")
            _check_sizes(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = named[1] if named else "or is damaged"
        raise CheckpointError(
            f"{path} holds more than weights ({what}), and featviz does not "
            "unpickle: load it where you trust it, and save its state_dict() with safetensors.torch."
        ) from error
    except Exception as error:  # a damaged archive raises whatever its remains lead to
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript program: load it with torch.jit.load, and save its state_dict() with "
                "safetensors.torch."
            ) from error
        raise CheckpointError(
            f"{path} is cut off or no torch file ({summary(error, 120)}): copy or save the checkpoint again."
        ) from error


def _check_sizes(path: Path) -> None:
    """Make sure, before torch allocates them, that the sizes which a torch file states are in proportion to it.

    The file is an archive with a pickle, or, of a torch before 1.6, five pickles and then the values.

    Raises:
        ValueError: a size is out of proportion, or the file is damaged.
    """
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            with open_archive(path) as archive:
                for name in archive.namelist():
                    if name.endswith("/data.pkl"):
                        _check_tensors(io.BytesIO(archive.read(name)), path.stat().st_size)
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for _ in range(5):
                if content.tell() < len(content):
                    _check_tensors(content, len(content))


def _check_tensors(pickled: Any, most: int) -> None:
    """Make sure that no tensor of a pickle has a storage, or reaches within it, of more than `most` values.

    A storage is a tuple with its number of values, called by BINPERSID. Then follow the tensor's offset, shape and strides, up
    to the call (REDUCE) that makes the tensor; torch would make the storage larger where these reach past its end. Any other
    call with a number alone, as `bytearray(2**40)`, may ask for so many bytes.

    Raises:
        ValueError: a tensor is larger, or this is no pickle.
    """
    numbers: list[int] = []
    within_tensor = False
    before: list[str] = []  # the two opcodes before
    for opcode, value, _ in pickletools.genops(pickled):
        if opcode.name == "BINPERSID":
            if max(numbers, default=0) > most:
                raise ValueError(f"it states a tensor of {max(numbers)} values and has {most} bytes")
            numbers, within_tensor = [], True
        elif opcode.name == "REDUCE" and within_tensor:
            axes = len(numbers) // 2
            if len(numbers) % 2:
                shape, strides = numbers[1 : axes + 1], numbers[axes + 1 :]
                end = numbers[0] + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
                if end >= most or min(numbers) < 0:
                    raise ValueError(f"it states a tensor of shape {tuple(shape)} and has {most} bytes")
            within_tensor = False
        elif opcode.name == "REDUCE" and before in (["number", "TUPLE1"], ["number", "TUPLE"]) and numbers:
            if numbers[-1] > most:
                raise ValueError(f"it asks for {numbers[-1]} bytes and has {most}")
        elif opcode.name == "MARK" and not within_tensor:
            numbers = []
        elif isinstance(value, int) and opcode.name in INTEGERS:
            numbers.append(value)
        if opcode.name not in MEMO:
            before = [*before[-1:], "number" if opcode.name in INTEGERS else opcode.name]
