"""The methods that combine units: two models, data, method -> `Mixing` of every group, and a score of every merged unit."""

from collections.abc import Callable

import numpy as np
from torch import nn

from featviz.config import AlignConfig
from featviz.data import Data
from featviz.matching.assignment import Floats
from featviz.matching.linear.cca import cca_units
from featviz.matching.linear.covariance import Joint, joint_statistics
from featviz.matching.linear.merge import Mixing, Pair, check_mixable
from featviz.matching.linear.optimal_transport import transport_units
from featviz.matching.linear.zipit import zip_units
from featviz.symmetry.groups import PermutationGroups


def combine(
    model_a: nn.Module,
    model_b: nn.Module,
    groups: PermutationGroups,
    method: str,
    data: Data,
    options: AlignConfig,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Mixing, dict[str, Floats]]:
    """Combine the units of every group by "zipit", "cca" or "ot". Groups that own nothing are averaged as they are.

    Raises:
        AlignmentError: no data, units that cannot be combined, or covariances that the method cannot use.
    """
    check_mixable(model_a, groups, None, method)
    statistics = joint_statistics(model_a, model_b, groups, data, method, progress)
    merge: dict[str, Pair] = {}
    split: dict[str, Pair] = {}
    scores: dict[str, Floats] = {}
    for group in groups:
        eye = np.eye(group.size)
        joint = statistics.get(group.name)
        if joint is None:
            merge[group.name], split[group.name] = (eye / 2, eye / 2), (eye, eye)
            scores[group.name] = np.zeros(group.size)
            continue
        if method == "zipit":
            found = zip_units(joint.correlation, options.alpha, options.beta)
        elif method == "cca":
            found = cca_units(joint, options.gamma, group.name)
        else:
            found = transport_units(joint, options.entropy, group.name)
        merge[group.name], split[group.name] = found
        scores[group.name] = agreement(joint, found[0])
    mixing = Mixing(merge, split)
    check_mixable(model_a, groups, mixing, method)
    return mixing, scores


def agreement(joint: Joint, merge: Pair) -> Floats:
    """Correlation (m,) of A's and B's parts of every merged unit; 0 where one network has no part in it."""
    n = joint.size
    a, b = merge
    covariance = joint.covariance
    cross = ((a @ covariance[:n, n:]) * b).sum(1)
    square_a, square_b = ((m @ c * m).sum(1) for m, c in ((a, covariance[:n, :n]), (b, covariance[n:, n:])))
    scale = np.sqrt(np.maximum(square_a * square_b, 0))
    return np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
