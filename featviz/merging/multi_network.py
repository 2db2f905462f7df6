"""Several aligned networks become one: their weighted average in the basis of the first, with BatchNorm measured afresh."""

import math
from collections.abc import Sequence

from torch import nn

from featviz.config.ranges import numbers
from featviz.data import Data
from featviz.errors import AlignmentError, shown
from featviz.matching.multi_network.alignment import ManyAlignment
from featviz.merging.average import average, remember_average_normalization
from featviz.merging.batchnorm import Progress, check_batchnorm_repair, has_batchnorm, reset_batchnorm
from featviz.subjects import Subject, as_subject
from featviz.weights.checks import check_same_architecture


def merge_many(
    models: Sequence[nn.Module | Subject],
    alignment: ManyAlignment | None,
    weights: Sequence[float] | None = None,
    repair: str = "auto",
    data: Data | None = None,
    progress: Progress = None,
) -> nn.Module:
    """The weighted mean of all networks, each permuted into the basis of the first; integer buffers are the first one's.

    Args:
        models: the networks, in the alignment's order; left as they were.
        alignment: of these networks, by `align_many`; None averages them as they are, as fine-tuned networks of one base.
        weights: one per network, with the sum 1, below 0 and above 1 too; None: all equal.
        repair: "none"; "batchnorm" measures the running statistics of every BatchNorm layer afresh on `data`; "auto" does so
            where there is data and such a layer.
        data: batches `x` or `(x, label)` for the repair; iterated once.
        progress: called with (batches done, 0).

    Raises:
        AlignmentError: other networks than those of the alignment, other weights, another repair, or no data for it.
        ModelError: without an alignment, networks of other architectures.
    """
    subjects = [as_subject(model) for model in models]
    networks = [subject.model for subject in subjects]
    if not networks:
        raise AlignmentError("there are no networks to merge: give one or more.")
    shares = [1 / len(networks)] * len(networks) if weights is None else numbers(weights)
    if shares is None:
        raise AlignmentError(f"weights are {shown(weights)}: give one number for each network, in their order.")
    if len(shares) != len(networks) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise AlignmentError(
            f"{len(shares)} weights with the sum {sum(shares):g} are given for {len(networks)} networks: give one for each, "
            "with the sum 1, or use task_arithmetic."
        )
    check_batchnorm_repair(repair, networks[0], data, "many networks")
    if alignment is None:
        for network in networks[1:]:
            check_same_architecture(networks[0], network)
    merged = average(networks if alignment is None else alignment.permute(networks), shares)
    remember_average_normalization(merged, subjects, shares)
    if repair != "none" and data is not None and has_batchnorm(merged):
        reset_batchnorm(merged, data, progress)
    return merged
