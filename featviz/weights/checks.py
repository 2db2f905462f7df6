"""Checks of networks before work starts: finite weights, equal architecture, and a digest that identifies the weights."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from featviz.errors import ModelError

BATCH_COUNTER = "num_batches_tracked"  # of BatchNorm: no network's function depends on it


def check_finite(model: nn.Module, name: str) -> None:
    """Raise ModelError, naming the first tensor, where the model called `name` has NaN or infinite weights.

    Infinite buffers are allowed (bounds, attention masks), except the running statistics of norms.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for key, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and (bad := count_invalid(key, tensor, key in parameters)):
            raise ModelError(
                f"{name} has NaN or Inf in {key} ({bad} of {tensor.numel()} values): use another checkpoint."
            )


def count_invalid(name: str, tensor: Tensor, is_parameter: bool) -> int:
    """How many values of a tensor cannot be used: NaN, and infinite ones but in buffers that are no running statistics."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    statistic = name.endswith(("running_mean", "running_var"))
    invalid = ~torch.isfinite(tensor) if is_parameter or statistic else torch.isnan(tensor)
    return int(invalid.sum())


def check_same_architecture(model_a: nn.Module, model_b: nn.Module) -> None:
    """Raise ModelError where the networks' tensors differ in name (counts) or shape (the first one)."""
    shapes_a, shapes_b = ({key: tuple(t.shape) for key, t in m.state_dict().items()} for m in (model_a, model_b))
    remedy = "give two networks of one architecture"
    for key in shapes_a:
        if key in shapes_b and shapes_a[key] != shapes_b[key]:
            raise ModelError(f"the models differ at {key}, {shapes_a[key]} in A and {shapes_b[key]} in B: {remedy}.")
    only_a, only_b = (missing_names(x, y) for x, y in ((shapes_a, shapes_b), (shapes_b, shapes_a)))
    if only_a or only_b:
        found = counted_names("tensors only in A", only_a), counted_names("tensors only in B", only_b)
        raise ModelError(f"the models differ, with {' and '.join(filter(None, found))}: {remedy}.")


def digest(model: nn.Module) -> str:
    """SHA-256 (hex) of names, shapes and values of parameters and buffers, floats taken as float32.

    The same on every device, in every memory layout, and after a save and load as safetensors. BatchNorm's
    counter of batches is left out: two networks of one digest compute the same function.
    """
    sha = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if key.endswith(BATCH_COUNTER) or not isinstance(tensor, Tensor):
            continue
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        values = tensor.detach().to("cpu", dtype).contiguous()
        sha.update(json.dumps([key, str(dtype), list(values.shape)]).encode())
        sha.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def missing_names(keys: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Keys that `other` lacks, counters of BatchNorm aside."""
    return [key for key in keys if key not in other and not key.endswith(BATCH_COUNTER)]


def counted_names(what: str, keys: list[str]) -> str:
    """`2 missing keys (a, b)`; nothing where there are none."""
    what = what.replace("keys", "key").replace("tensors", "tensor") if len(keys) == 1 else what
    return f"{len(keys)} {what} ({first_names(keys)})" if keys else ""


def first_names(names: Iterable[str], most: int = 3) -> str:
    """`a, b, c, ...`"""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
