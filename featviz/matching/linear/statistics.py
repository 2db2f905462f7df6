"""Statistics of the units of both networks together: data through A and B once -> covariances (2n, 2n) of every group.

Units are observed where activation matching observes them (`unit_activations.py`). Rows 0 to n-1 are A's units, n to 2n-1 B's.
Where a group has several sites (a residual stream) its covariances are averaged, and so are its correlations.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featviz.errors import AlignmentError
from featviz.matching.assignment import Floats
from featviz.matching.problem import MatchingProblem
from featviz.matching.unit_activations import activation_sites, measure_moments
from featviz.moments import Moments


@dataclass(frozen=True)
class UnitStatistics:
    """Of the 2n units of a group in both networks: `covariance` and `correlation`, both (2n, 2n), float64.

    Units that never vary have covariance and correlation 0 with every unit, also with themselves.
    """

    covariance: Floats
    correlation: Floats

    @property
    def size(self) -> int:
        """Units of the group in each network, n."""
        return len(self.covariance) // 2

    def part_correlations(self, merge_a: Floats, merge_b: Floats) -> Floats:
        """Correlation (m,) of A's part and B's part of merged units: of merge_a (m, n) times A's units, merge_b times B's.

        0 where one network has no part in a unit.
        """
        n = self.size
        a, b = self.covariance[:n, :n], self.covariance[n:, n:]
        cross = ((merge_a @ self.covariance[:n, n:]) * merge_b).sum(1)
        scale = np.sqrt(np.maximum((merge_a @ a * merge_a).sum(1) * (merge_b @ b * merge_b).sum(1), 0))
        return np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)


def correlation_of(covariance: Floats) -> Floats:
    """Pearson correlation; 0 for a unit without variance."""
    deviation = np.sqrt(covariance.diagonal())
    deviation = np.where(deviation > 0, deviation, np.inf)
    return np.clip(covariance / np.outer(deviation, deviation), -1, 1)


def unit_statistics(problem: MatchingProblem) -> dict[str, UnitStatistics]:
    """Statistics of every group that owns parameters.

    Raises:
        AlignmentError: there is no data, an activation is not finite, or no module shows a group's units.
    """
    everywhere = activation_sites(problem.model_a, problem.groups)
    sites = {group.name: everywhere[group.name] for group in problem.groups if group.axes}
    for group, found in sites.items():
        if not found:
            raise AlignmentError(
                f"method {problem.method!r} cannot see group {group}: no module shows its units; use method 'weights'."
            )
    moments = measure_moments(problem, sites, [(0, 0), (0, 1), (1, 1)])
    statistics = {}
    for group, found in moments.items():
        covariances = [_joint_covariance(own) for own in found]
        if not np.isfinite(covariances).all():
            raise AlignmentError(
                f"the units of group {group} cannot be compared: an activation is not finite. "
                "Check both networks' weights, and the data, for NaN and infinities."
            )
        correlations = [correlation_of(covariance) for covariance in covariances]
        statistics[group] = UnitStatistics(np.mean(covariances, axis=0), np.mean(correlations, axis=0))
    return statistics


def _joint_covariance(moments: Moments) -> NDArray[np.float64]:
    """(2n, 2n) of the units of A and B."""
    return np.block([[moments.covariance(i, j).cpu().numpy() for j in (0, 1)] for i in (0, 1)])
