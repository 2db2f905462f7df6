"""Joint statistics of both networks' units: data through A and B once -> covariances (2n, 2n) of every group.

Units are read where activation matching reads them (`activation_matching.readings`). Rows 0 to n-1 are A's units, n to 2n-1
B's. Where a group is read at several places (a residual stream) its covariances are averaged, and so are its correlations.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from featviz.data import Data
from featviz.errors import AlignmentError
from featviz.matching.activations import for_every_sample, readings
from featviz.matching.assignment import Floats
from featviz.symmetry.groups import PermutationGroups


@dataclass
class JointMoments:
    """Streaming first and second moments of the 2n units of both networks: float64, shifted by the first batch's means."""

    count: int = 0
    shift: Tensor | None = None
    sums: list[Tensor] = field(default_factory=list)  # x (2n,), x x^T (2n, 2n)

    def add(self, a: Tensor, b: Tensor) -> None:
        """Samples (n, s) of both networks."""
        x = torch.cat([a, b]).double()
        if self.shift is None:
            self.shift = x.mean(1, keepdim=True)
        x = x - self.shift
        new = [x.sum(1), x @ x.T]
        self.sums = new if not self.sums else [old.add_(more) for old, more in zip(self.sums, new, strict=True)]
        self.count += x.shape[1]

    def covariance(self) -> Floats:
        """(2n, 2n), exactly 0 in the rows of units that never vary."""
        mean, product = (total / self.count for total in self.sums)
        covariance = product - torch.outer(mean, mean)
        assert self.shift is not None
        noise = 1e-12 * (product.diagonal() + self.shift.squeeze(1).square()) + 1e-30
        varies = (covariance.diagonal() > noise).double()
        return (covariance * torch.outer(varies, varies)).cpu().numpy()


@dataclass(frozen=True)
class Joint:
    """What is known of a group's 2n units: `covariance` and `correlation`, both (2n, 2n)."""

    covariance: Floats
    correlation: Floats

    @property
    def size(self) -> int:
        return len(self.covariance) // 2


def correlation_of(covariance: Floats) -> Floats:
    """Pearson correlation; 0 for a unit without variance."""
    deviation = np.sqrt(covariance.diagonal())
    deviation = np.where(deviation > 0, deviation, np.inf)
    return np.clip(covariance / np.outer(deviation, deviation), -1, 1)


def joint_statistics(
    model_a: nn.Module,
    model_b: nn.Module,
    groups: PermutationGroups,
    data: Data,
    method: str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Joint]:
    """Statistics of every group that owns parameters.

    Raises:
        AlignmentError: there is no data, an activation is not finite, or no module shows a group's units.
    """
    everywhere = readings(model_a, groups)
    places = {group.name: everywhere[group.name] for group in groups if group.axes}
    for group, found in places.items():
        if not found:
            raise AlignmentError(
                f"method {method!r} cannot see group {group}: no module shows its units; use method 'weights'."
            )
    moments = {(group, number): JointMoments() for group, found in places.items() for number in range(len(found))}
    for_every_sample((model_a, model_b), places, data, lambda key, seen: moments[key].add(*seen), progress)
    statistics = {}
    for group, found in places.items():
        covariances = [moments[group, number].covariance() for number in range(len(found))]
        if not np.isfinite(covariances).all():
            raise AlignmentError(
                f"the units of group {group} cannot be compared: an activation is not finite. "
                "Check both networks' weights, and the data, for NaN and infinities."
            )
        correlations = [correlation_of(covariance) for covariance in covariances]
        statistics[group] = Joint(np.mean(covariances, axis=0), np.mean(correlations, axis=0))
    return statistics
