"""Two networks and their alignment become one: merged = (1 - weight) * A + weight * B', then its statistics are repaired.

An alignment that combines units (ZipIt, CCA Merge, optimal transport) merges as `matching/linear/merge.py` says.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from featviz.config import MergeConfig
from featviz.data import Data
from featviz.errors import AlignmentError
from featviz.matching.alignment import Alignment, LinearAlignment
from featviz.matching.linear.combination import layer_rows
from featviz.matching.linear.merge import merge_linearly
from featviz.merging.average import remember_average_normalization
from featviz.merging.batchnorm import has_batchnorm, reset_batchnorm
from featviz.merging.private_parts import (
    TwoHeads,
    average_shared,
    check_head,
    repairable_modules,
    shared_tensors,
)
from featviz.merging.repair import repair_channels
from featviz.subjects import Subject, as_subject


def merge(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    alignment: Alignment | None,
    weight: float = MergeConfig.weight,
    repair: str = MergeConfig.repair,
    data: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
    head: str | None = None,
) -> nn.Module:
    """Average A with B in A's basis, and correct the statistics that averaging destroys.

    Args:
        model_a, model_b: the parents; left as they were.
        alignment: of these two networks; None averages them as they are (the unaligned control).
        weight: of B. 0 gives A, 1 gives B', and nothing is repaired at either. Below 0 and above 1 the line through A and B'
            is extended. Methods that combine units merge at 0.5 only.
        repair: how statistics are corrected, on `data`:
            "none": not at all.
            "batchnorm": the running statistics of every BatchNorm layer are measured afresh.
            "repair": that, and every other hidden layer with a bias gets the average mean and standard deviation of its
            parents, fused into its weights (REPAIR, Jordan et al. 2022); for weights in [0, 1].
            "rescale": as "repair", but the deviation alone (Qu & Horvath 2024; see `repair_channels`).
            "auto": "none" without data, else "batchnorm" where the network has BatchNorm, else "repair" (for a weight outside
            [0, 1] "none").
        data: batches `x` or `(x, label)`, images in [0, 1], for the repair; iterated up to three times.
        progress: called with (batches done, 0).
        head: where the networks differ (heads of other classes, extra modules), whose parts the result has: "a", "b", or
            "both": a network (`TwoHeads`) with both outputs and one trunk; data are iterated once for each.

    Returns:
        The merged network, in evaluation or training mode as A is, on A's device. Its input normalization is its parents'.

    Raises:
        AlignmentError: the alignment belongs to other networks, weight or repair is out of range, data is missing or empty, or
            the networks differ and no head is chosen.
        ModelError: the networks have nothing in common.
    """
    config = MergeConfig(weight=weight, repair=repair)
    a, b = as_subject(model_a, "A"), as_subject(model_b, "B")
    repair, weight = _chosen_repair(config, a.model, data), config.weight
    if alignment is not None:
        alignment.check(a.model, b.model)
    shared = shared_tensors(a.model, b.model, alignment)
    check_head(head, a.model, b.model, shared)
    if head == "both":
        one, other = (merge(a, b, alignment, weight, repair, data, progress, which) for which in ("a", "b"))
        both = TwoHeads(one, other, shared)
        remember_average_normalization(both, [a, b], [1 - weight, weight])
        return both
    permuted, rows = b.model, None
    if isinstance(alignment, LinearAlignment):
        merged = _merged_linearly(a.model, b.model, alignment, weight)
        rows = partial(layer_rows, alignment.groups, alignment.combination)
    else:
        permuted = b.model if alignment is None else alignment.permute(b.model)
        merged = average_shared(a.model, permuted, shared, weight, head or "a")
    remember_average_normalization(merged, [a, b], [1 - weight, weight])
    is_parent = weight == {"a": 0, "b": 1}[head] if head else weight in (0, 1)
    if repair == "none" or is_parent:
        return merged
    assert data is not None
    if repair == "batchnorm":
        reset_batchnorm(merged, data, progress)
    else:
        layers = None if alignment is None else alignment.groups.layers
        parent_b = replace(b, model=permuted)
        names = repairable_modules(shared, head or "a") if head or any(n != o for n, o in shared.items()) else None
        repair_channels(
            merged, a, parent_b, weight, data, layers, progress, rows, shift=repair == "repair", names=names
        )
    return merged


def _merged_linearly(model_a: nn.Module, model_b: nn.Module, alignment: LinearAlignment, weight: float) -> nn.Module:
    if weight != 0.5:
        raise AlignmentError(
            f"method {alignment.method!r} merges A and B equally, not with weight {weight} of B: use weight=0.5, "
            "or align by 'activations'."
        )
    return merge_linearly(model_a, model_b, alignment.groups, alignment.combination)


def _chosen_repair(config: MergeConfig, model: nn.Module, data: Data | None) -> str:
    """The repair that is done: "none", "batchnorm", "repair" or "rescale".

    Raises:
        AlignmentError: it cannot be done with this network, weight or data.
    """
    repair = config.repair
    between = 0 <= config.weight <= 1
    if repair == "auto":
        if data is None:
            return "none"
        return "batchnorm" if has_batchnorm(model) else "repair" if between else "none"
    if repair != "none" and data is None:
        raise AlignmentError(f"repair {repair!r} measures activations: give data=..., or use repair='none'.")
    if repair == "batchnorm" and not has_batchnorm(model):
        raise AlignmentError("repair 'batchnorm' needs BatchNorm layers with running statistics: use repair='repair'.")
    if repair in ("repair", "rescale") and not between:
        raise AlignmentError(
            f"repair {repair!r} averages the parents' deviations, which weight {config.weight} of B, outside 0 to 1, cannot: "
            "use repair='batchnorm' or 'none'."
        )
    return repair
