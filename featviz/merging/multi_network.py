"""The average of several networks in one basis, with BatchNorm statistics measured afresh."""

from collections.abc import Sequence

import torch
from torch import nn

from featviz.data import Data
from featviz.errors import AlignmentError
from featviz.matching.multi_network import ManyAlignment
from featviz.merging.repair import Progress, has_batchnorm, reset_batchnorm
from featviz.tensors import named_tensors


def merge_many(
    models: Sequence[nn.Module],
    alignment: ManyAlignment,
    repair: str = "auto",
    data: Data | None = None,
    progress: Progress = None,
) -> nn.Module:
    """The mean of all networks, each permuted into the basis of the first; integer buffers are the first one's.

    Args:
        alignment: of these networks, by `align_many`.
        repair: "none"; "batchnorm" measures the running statistics of every BatchNorm layer afresh on `data`; "auto" does so
            where there is data and such a layer.

    Raises:
        AlignmentError: other networks than those of the alignment, another repair, or no data for it.
    """
    if repair not in ("auto", "none", "batchnorm"):
        raise AlignmentError(f"there is no repair {repair!r} for many networks: use 'batchnorm', 'none' or 'auto'.")
    if repair == "batchnorm" and (data is None or not has_batchnorm(models[0])):
        raise AlignmentError("repair 'batchnorm' needs BatchNorm layers and data=...: use repair='none' without them.")
    permuted = alignment.permute(models)
    merged = permuted[0]
    tensors = [named_tensors(model) for model in permuted]
    with torch.no_grad():
        for name, tensor in named_tensors(merged).items():
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.copy_(torch.stack([own[name].to(tensor) for own in tensors]).mean(0))
    if repair != "none" and data is not None and has_batchnorm(merged):
        reset_batchnorm(merged, data, progress)
    return merged
