"""Permute and average: A, B and their alignment -> the merged network.

    merged = (1 - weight) * A + weight * B'

An alignment that combines units (ZipIt, CCA Merge, optimal transport) merges as `matching/linear/merge.py` says.
Counters (`num_batches_tracked`) and other integer buffers are taken from A; an average of them has no meaning.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from featviz.config import REPAIRS, MergeConfig
from featviz.data import Data
from featviz.errors import AlignmentError
from featviz.isolation import copy_of
from featviz.matching.alignment import Alignment
from featviz.matching.linear.merge import layer_rows, mix_modules
from featviz.merging.repair import has_batchnorm, repair_channels, reset_batchnorm
from featviz.tensors import named_tensors


def merge(
    model_a: nn.Module,
    model_b: nn.Module,
    alignment: Alignment | None,
    weight: float = MergeConfig.weight,
    repair: str = MergeConfig.repair,
    data: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """Average A with B in A's basis, and correct the statistics that averaging destroys.

    Args:
        alignment: of these two models; None averages them as they are (the unaligned control).
        weight: of B, in [0, 1]. At 0 the result is A, at 1 it is B', and nothing is repaired. 0.5 where units are combined.
        repair: "none"; "batchnorm" measures the running statistics of every BatchNorm layer afresh on `data`; "repair"
            does so and brings every other hidden layer with a bias to the average mean and standard deviation of its
            parents (Jordan et al. 2022), fused into its weights; "rescale" gives them the deviation only, and leaves the
            means to follow (Qu & Horvath 2024; see `repair_channels`); "auto" is "none" without data, else "batchnorm"
            where the network has BatchNorm, else "repair".
        data: batches `x` or `(x, label)` for the repair; iterated up to three times.

    Raises:
        AlignmentError: the alignment belongs to other models, weight or repair out of range, or data is missing.
    """
    if not 0 <= weight <= 1:
        raise AlignmentError(f"the weight of B is {weight}: it lies between 0 (A alone) and 1 (B' alone).")
    if repair not in REPAIRS:
        raise AlignmentError(f"there is no repair {repair!r}: use one of {', '.join(REPAIRS)}.")
    if repair not in ("auto", "none") and data is None:
        raise AlignmentError(f"repair {repair!r} measures activations: give data=..., or use repair='none'.")
    if repair == "batchnorm" and not has_batchnorm(model_a):
        raise AlignmentError("repair 'batchnorm' needs BatchNorm layers with running statistics: use repair='repair'.")
    if alignment is not None:
        alignment.check(model_a, model_b)
    mixing = None if alignment is None else alignment.mixing
    if alignment is not None and mixing is not None:
        if weight != 0.5:
            raise AlignmentError(
                f"method {alignment.method!r} merges A and B equally, not with weight {weight} of B: use weight=0.5, "
                "or align by 'activations'."
            )
        permuted = model_b
        merged = mix_modules(model_a, model_b, alignment.groups, mixing)
    else:
        permuted = model_b if alignment is None else alignment.permute(model_b)
        merged = average(model_a, permuted, weight)
    if repair == "auto":
        repair = "none" if data is None else "batchnorm" if has_batchnorm(model_a) else "repair"
    if repair == "none" or weight in (0, 1):
        return merged
    assert data is not None
    if repair in ("repair", "rescale"):
        layers = None if alignment is None else alignment.groups.layers
        rows = None if mixing is None or alignment is None else partial(layer_rows, alignment.groups, mixing)
        shift = repair == "repair"
        repair_channels(merged, model_a, permuted, weight, data, layers, progress, rows, shift)
    else:
        reset_batchnorm(merged, data, progress)
    return merged


def average(model_a: nn.Module, model_b: nn.Module, weight: float) -> nn.Module:
    """A copy of `model_a` with (1 - weight) * A + weight * B in every floating-point tensor."""
    merged = copy_of(model_a)
    other = named_tensors(model_b)
    with torch.no_grad():
        for name, tensor in named_tensors(merged).items():
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.copy_(torch.lerp(tensor, other[name].to(tensor), weight))
    return merged
