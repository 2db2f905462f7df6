"""Checkpoints: a file -> weights {name: tensor} -> a network, checked on the way; nothing is ever unpickled.

notes = load_into(model, "a.safetensors")        # CheckpointError says in one sentence what does not fit
"""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from featviz.errors import CheckpointError
from featviz.model_checks import count_non_finite, counted_names, first_names, missing_names

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # under which trainers keep the weights
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, or of a torch file through `torch.load(weights_only=True)`.

    Returns:
        {name: tensor}, on the CPU, in the file's own order and dtypes.

    Raises:
        CheckpointError: no such file, a folder, empty, cut off, no checkpoint, or more in it than weights.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the checkpoint file in it.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: give the path of a .safetensors or .pt file.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check its rights.") from error
    if not head:
        raise CheckpointError(f"{path} is empty: copy or save the checkpoint again.")
    if path.suffix == ".safetensors" or head[8:] == b"{":
        return _read_safetensors(path)
    if not head.startswith((b"PK", b"\x80")):
        raise CheckpointError(f"{path} is no checkpoint: give a .safetensors file or one of torch.save.")
    return _unwrap(_read_torch(path), path)


def load_into(model: nn.Module, path: str | Path) -> list[str]:
    """Load the file into `model`, in the dtypes of `model`; nothing is loaded unless all of it fits.

    Returns:
        What was changed on the way, one sentence each (a stripped `module.`).

    Raises:
        CheckpointError: as `load_weights`; other keys or shapes than the network's; NaN or Inf.
    """
    weights, notes = load_weights(path), []
    for prefix in PREFIXES:
        if weights and all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
            notes.append(f"{path}: stripped {prefix!r} from all {len(weights)} keys.")
    _check_fit(model, weights, path)
    model.load_state_dict(weights, strict=False)
    return notes


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is cut off or no safetensors file ({_first_line(error)}): copy or save it again."
        ) from error


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = named[1] if named else "or is damaged"
        raise CheckpointError(
            f"{path} holds more than weights ({what}), and featviz does not "
            "unpickle: load it where you trust it, and save its state_dict() with safetensors.torch."
        ) from error
    except Exception as error:  # a damaged archive raises whatever its remains lead to
        raise CheckpointError(
            f"{path} is cut off or no torch file ({_first_line(error)}): copy or save the checkpoint again."
        ) from error


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(key): value for key, value in content.items()}
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    what = (
        f"the keys {first_names(map(str, content))}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
    )
    raise CheckpointError(
        f"{path} holds {what} instead of weights: save model.state_dict(), bare or under 'state_dict'."
    )


def _check_fit(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    wanted = model.state_dict()
    missing, extra = missing_names(wanted, weights), missing_names(weights, wanted)
    if missing or extra:
        found = counted_names("missing keys", missing), counted_names("extra keys", extra)
        raise CheckpointError(
            f"{path} does not fit the network, with {' and '.join(filter(None, found))}: "
            "give the architecture that it was saved from."
        )
    for key, tensor in weights.items():
        if key in wanted and tensor.shape != wanted[key].shape:
            raise CheckpointError(
                f"{path} does not fit the network at {key}, {tuple(tensor.shape)} in the file and "
                f"{tuple(wanted[key].shape)} in the network: give the architecture that it was saved from."
            )
        bad = count_non_finite(tensor)
        if bad:
            raise CheckpointError(
                f"{path} has NaN or Inf in {key} ({bad} of {tensor.numel()} values): use another checkpoint."
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120].rstrip(". ")
