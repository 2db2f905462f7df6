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
    """An ATen operator's result, where what it makes or reads in a lower precision is float64.

    Views, and what an operator writes into, stay what they are: a view of a converted copy would lose what is written into it.
    """
    if kwargs.get("dtype") in LOWER:
        kwargs = {**kwargs, "dtype": torch.float64}
    schema = operator._schema
    if schema.is_mutable or any(result.alias_info is not None for result in schema.returns):
        return operator(*args, **kwargs)
    args, kwargs = tree_map_only(Tensor, _as_float64, (tuple(args), dict(kwargs)))
    return tree_map_only(Tensor, _as_float64, operator(*args, **kwargs))


def _as_float64(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype in LOWER else tensor
