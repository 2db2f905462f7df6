"""Operators that convert to a lower precision, as attention does by `q.float()`, called in float64 all the same.

A proof in float64 would see the rounding of such a conversion, and refuse groups that are right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_map_only

LOWER = (torch.float32, torch.float16, torch.bfloat16)


def called_in_float64(operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An ATen operator's result, where what it makes or reads in a lower precision is float64; what it writes into stays."""
    if kwargs.get("dtype") in LOWER:
        kwargs = {**kwargs, "dtype": torch.float64}
    if not operator._schema.is_mutable:
        args, kwargs = tree_map_only(Tensor, _as_float64, (tuple(args), dict(kwargs)))
    return operator(*args, **kwargs)


def _as_float64(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype in LOWER else tensor
