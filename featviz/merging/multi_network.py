"""Several aligned networks become one: their weighted average in the basis of the first, with BatchNorm measured afresh."""

from collections.abc import Sequence

from torch import nn

from featviz.data import Data
from featviz.matching.multi_network.alignment import ManyAlignment
from featviz.merging.average import average
from featviz.merging.batchnorm import Progress, check_batchnorm_repair, has_batchnorm, reset_batchnorm


def merge_many(
    models: Sequence[nn.Module],
    alignment: ManyAlignment,
    repair: str = "auto",
    data: Data | None = None,
    progress: Progress = None,
) -> nn.Module:
    """The mean of all networks, each permuted into the basis of the first; integer buffers are the first one's.

    Args:
        models: the networks, in the alignment's order; left as they were.
        alignment: of these networks, by `align_many`.
        repair: "none"; "batchnorm" measures the running statistics of every BatchNorm layer afresh on `data`; "auto" does so
            where there is data and such a layer.
        data: batches `x` or `(x, label)` for the repair; iterated once.
        progress: called with (batches done, 0).

    Raises:
        AlignmentError: other networks than those of the alignment, another repair, or no data for it.
    """
    check_batchnorm_repair(repair, models[0], data, "many networks")
    merged = average(alignment.permute(models))
    if repair != "none" and data is not None and has_batchnorm(merged):
        reset_batchnorm(merged, data, progress)
    return merged
