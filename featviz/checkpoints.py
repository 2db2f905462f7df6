"""Checkpoints: a file -> weights {name: tensor} -> a network, checked on the way; nothing is ever unpickled.

notes = load_into(model, "a.safetensors")        # CheckpointError says in one sentence what does not fit
digest(model)                                    # which weights these are, on any device, in any file
"""

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from featviz.errors import CheckpointError, ModelError

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # under which trainers keep the weights
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
COUNTER = "num_batches_tracked"  # of BatchNorm: no network's function depends on it


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


def check_finite(model: nn.Module, name: str) -> None:
    """Raise ModelError, naming the first tensor, where the model called `name` has NaN or Inf."""
    for key, tensor in model.state_dict().items():
        bad = _non_finite(tensor)
        if bad:
            raise ModelError(
                f"{name} has NaN or Inf in {key} ({bad} of {tensor.numel()} values): use another checkpoint."
            )


def check_same_architecture(model_a: nn.Module, model_b: nn.Module) -> None:
    """Raise ModelError where the networks' tensors differ in name (counts) or shape (the first one)."""
    shapes_a, shapes_b = ({key: tuple(t.shape) for key, t in m.state_dict().items()} for m in (model_a, model_b))
    remedy = "give two networks of one architecture"
    for key in shapes_a:
        if key in shapes_b and shapes_a[key] != shapes_b[key]:
            raise ModelError(f"the models differ at {key}, {shapes_a[key]} in A and {shapes_b[key]} in B: {remedy}.")
    only_a, only_b = (_absent(x, y) for x, y in ((shapes_a, shapes_b), (shapes_b, shapes_a)))
    if only_a or only_b:
        found = _count("tensors only in A", only_a), _count("tensors only in B", only_b)
        raise ModelError(f"the models differ, with {' and '.join(filter(None, found))}: {remedy}.")


def digest(model: nn.Module) -> str:
    """SHA-256 (hex) of names, shapes and values of parameters and buffers, floats taken as float32.

    The same on every device, in every memory layout, and after a save and load as safetensors. BatchNorm's
    counter of batches is left out: two networks of one digest compute the same function.
    """
    sha = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if key.endswith(COUNTER) or not isinstance(tensor, Tensor):
            continue
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        values = tensor.detach().to("cpu", dtype).contiguous()
        sha.update(json.dumps([key, str(dtype), list(values.shape)]).encode())
        sha.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


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
    what = f"the keys {_few(map(str, content))}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise CheckpointError(
        f"{path} holds {what} instead of weights: save model.state_dict(), bare or under 'state_dict'."
    )


def _check_fit(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    wanted = model.state_dict()
    missing, extra = _absent(wanted, weights), _absent(weights, wanted)
    if missing or extra:
        found = _count("missing keys", missing), _count("extra keys", extra)
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
        bad = _non_finite(tensor)
        if bad:
            raise CheckpointError(
                f"{path} has NaN or Inf in {key} ({bad} of {tensor.numel()} values): use another checkpoint."
            )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _absent(keys: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return [key for key in keys if key not in other and not key.endswith(COUNTER)]


def _non_finite(tensor: Tensor) -> int:
    return int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0


def _count(what: str, keys: list[str]) -> str:
    what = what.replace("keys", "key").replace("tensors", "tensor") if len(keys) == 1 else what
    return f"{len(keys)} {what} ({_few(keys)})" if keys else ""


def _few(names, most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120].rstrip(". ")
