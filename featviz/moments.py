"""Streaming moments: samples come in chunks -> count, mean, variance, covariance and correlation of units, in float64.

Samples are summed about a shift near their mean: the mean of all earlier samples, of the first chunk its own. Whenever the
samples have doubled, the new ones are centred and merged with the earlier (Chan, Golub & LeVeque 1983):

    mean = mean_1 + delta * n_2 / (n_1 + n_2),    M = M_1 + M_2 + delta delta^T * n_1 n_2 / (n_1 + n_2)

with delta = mean_2 - mean_1 and M the sums of products of centred samples. So the result does not depend on how the samples
are cut into chunks, and a large mean costs no digits. All variances are biased (divided by the count), as a norm divides.

>>> moments = Moments(crossed=[(0, 1)])
>>> for chunk in torch.arange(12.0).view(3, 4, 1):
...     moments.add(chunk, -chunk)
>>> moments.mean(0).item(), moments.correlation(0, 1).item()
(5.5, -1.0)
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from featviz.errors import DataError

Pairs = Iterable[tuple[int, int]]
BLOCK = 2**20  # elements that are centred at once on a CPU


def samples_of(activation: Tensor, axis: int) -> Tensor:
    """(sample, unit) from a module's output with its units along `axis`: positions and images become samples.

    The samples of one unit lie side by side in memory.
    """
    return activation.detach().movedim(axis, 0).flatten(1).T


class Moments:
    """Count, means and second moments of one or more sets of units that are sampled together.

    A set is, for example, one layer of one network; sample s of every set belongs to the same image and position. Set i has n_i
    units. Means and variances of all sets are kept; of covariances only those that are asked for.

    Samples may have further dimensions before (sample, unit): (fold, sample, unit) gives the moments of every fold apart, each
    of `count` samples, and all results begin with the dimension of the folds.

    Args:
        paired: pairs (i, j) of sets whose covariance is wanted unit by unit, (n_i,); both have equally many units.
        crossed: pairs (i, j) of sets whose covariance is wanted for all units of i against all of j, (n_i, n_j).
        dtype: in which the products of one chunk are summed. Totals are float64 always. With float32 the sums of a
            chunk have a relative error of about 1e-6, and matrix products take half the time or less.
    """

    def __init__(self, paired: Pairs = (), crossed: Pairs = (), dtype: torch.dtype = torch.float64) -> None:
        self.paired, self.crossed = tuple(paired), tuple(crossed)
        self.dtype = dtype
        self._count = 0
        self._means: list[Tensor] = []
        self._squares: list[Tensor] = []  # sums of squares of centred samples, (n_i,)
        self._products: list[Tensor] = []  # sums of products of centred samples, in the order of paired and crossed
        self._recent: _ShiftedSums | None = None  # samples that are not in the totals above yet

    def add(self, *samples: Tensor) -> None:
        """Take in one chunk: for every set its samples (..., sample, unit).

        Raises:
            DataError: the sets have different numbers of samples, or other numbers of units than before.
        """
        if any(x.dim() < 2 or x.shape[:-1] != samples[0].shape[:-1] for x in samples):
            shapes = ", ".join(str(tuple(x.shape)) for x in samples)
            raise DataError(f"samples of shapes {shapes} do not belong together: give (sample, unit) for every set.")
        if samples[0].numel() == 0:
            return
        self._check_shapes([(*x.shape[:-2], x.shape[-1]) for x in samples])
        rows = [x.detach().mT for x in samples]
        with torch.no_grad(), torch.autocast(samples[0].device.type, enabled=False):
            if self._recent is None:
                means = self._means or [x.mean(-1) for x in rows]
                shifts = [mean.to(x.device, self.dtype).unsqueeze(-1) for mean, x in zip(means, rows, strict=True)]
                self._recent = _ShiftedSums(shifts, self.paired, self.crossed)
            self._recent.add(rows)
            if self._recent.count >= self._count:
                self._merge_recent()

    def _merge_recent(self) -> None:
        """Put the recent samples into the totals."""
        if self._recent is None:
            return
        recent, self._recent = self._recent, None
        chunk = Moments(self.paired, self.crossed, self.dtype)
        chunk._count = recent.count
        chunk._means, chunk._squares, chunk._products = recent.centred()
        self.merge(chunk)

    @property
    def count(self) -> int:
        """How many samples were taken in."""
        return self._count + (self._recent.count if self._recent else 0)

    def merge(self, other: "Moments") -> None:
        """Take in the samples of `other`, which has the same sets and pairs and stays as it is.

        Raises:
            DataError: it has other sets, units or pairs.
        """
        self._merge_recent()
        other._merge_recent()
        if not other._count:
            return
        self._check_pairs(other)
        if not self._count:
            self._count = other._count
            self._means, self._squares, self._products = other._means, other._squares, other._products
            return
        self._check_shapes([tuple(mean.shape) for mean in other._means])
        share = other._count / (self._count + other._count)
        factor = self._count * share
        delta = [new.to(old) - old for new, old in zip(other._means, self._means, strict=True)]
        self._means = [old + change * share for old, change in zip(self._means, delta, strict=True)]
        between = [change.square() for change in delta]
        self._squares = _sums(self._squares, other._squares, between, factor)
        between = [delta[i] * delta[j] for i, j in self.paired]
        between += [_outer(delta[i], delta[j]) for i, j in self.crossed]
        self._products = _sums(self._products, other._products, between, factor)
        self._count += other._count

    def _check_shapes(self, given: Sequence[tuple[int, ...]]) -> None:
        mine = [tuple(mean.shape) for mean in self._means]
        if mine and mine != list(given):
            raise DataError(
                f"moments of shapes {list(given)} cannot be added to {mine}: give the same layers in each batch."
            )

    def _check_pairs(self, other: "Moments") -> None:
        if (self.paired, self.crossed) != (other.paired, other.crossed):
            raise DataError("moments of other pairs of units cannot be added: make both with the same pairs.")

    @property
    def sets(self) -> int:
        """How many sets of units there are; 0 before the first chunk."""
        self._merge_recent()
        return len(self._means)

    def mean(self, i: int = 0) -> Tensor:
        """Means (n_i,) of set i."""
        self._check_count()
        return self._means[i]

    def variance(self, i: int = 0) -> Tensor:
        """Biased variances (n_i,) of set i."""
        self._check_count()
        return (self._squares[i] / self._count).clamp_min(0)

    def varies(self, i: int = 0) -> Tensor:
        """(n_i,) bool: whether a unit's variance is more than float32 rounding of its mean, 1e-12 of its mean square."""
        variance = self.variance(i)
        return variance > 1e-12 * (variance + self.mean(i).square()) + 1e-30

    def covariance(self, i: int = 0, j: int = 1) -> Tensor:
        """Biased covariances of sets i and j: (n_i,) of a pair in `paired`, (n_i, n_j) of one in `crossed`.

        Exactly 0 for units that do not vary; NaN where a sample was not finite.

        Raises:
            DataError: the pair was not asked for, or there are no samples.
        """
        covariance = self._product(i, j) / self._count
        one, other = self.varies(i).double(), self.varies(j).double()
        return covariance * self._combined(one, other, i, j)

    def correlation(self, i: int = 0, j: int = 1) -> Tensor:
        """Pearson correlations in [-1, 1], of the shape of `covariance`; 0 for units that do not vary."""
        covariance = self.covariance(i, j)
        one, other = (torch.where(self.varies(k), self.variance(k), torch.inf).sqrt() for k in (i, j))
        return (covariance / self._combined(one, other, i, j)).clamp(-1, 1)

    def inner_product(self, i: int = 0, j: int = 1) -> Tensor:
        """E[x_i x_j], nothing subtracted, of the shape of `covariance`."""
        product = self._product(i, j) / self._count
        one, other = self._means[i], self._means[j]
        return product + self._combined(one, other, i, j)

    def cosine(self, i: int = 0, j: int = 1) -> Tensor:
        """`inner_product` over the roots of the mean squares, in [-1, 1]; 0 for a unit that is always 0."""
        inner = self.inner_product(i, j)
        squares = [self.variance(k) + self.mean(k).square() for k in (i, j)]
        one, other = (torch.where(square > 1e-30, square, torch.inf).sqrt() for square in squares)
        return (inner / self._combined(one, other, i, j)).clamp(-1, 1)

    def _product(self, i: int, j: int) -> Tensor:
        self._check_count()
        pairs = self.paired + self.crossed
        if (i, j) in pairs:
            return self._products[pairs.index((i, j))]
        if (j, i) in pairs:
            return self._products[pairs.index((j, i))].mT if (j, i) not in self.paired else self._product(j, i)
        raise DataError(f"the covariance of sets {i} and {j} was not kept: name the pair in `paired` or `crossed`.")

    def _combined(self, one: Tensor, other: Tensor, i: int, j: int) -> Tensor:
        """Products of values of the units of sets i and j, in the shape of their covariance."""
        return one * other if (i, j) in self.paired or (j, i) in self.paired else _outer(one, other)

    def _check_count(self) -> None:
        self._merge_recent()
        if not self._count:
            raise DataError("moments of no samples are asked for: add a batch first.")


class _ShiftedSums:
    """Sums over samples of x - shift, of its squares and products, where the shift of every unit is near its mean.

    Samples are shifted block by block, so that no second copy of a chunk is made. Sums over a block have the dtype of the
    shifts, totals are float64.

    Args:
        shifts: per set (..., n_i, 1).
        paired, crossed: as in `Moments`.
    """

    def __init__(self, shifts: Sequence[Tensor], paired: Pairs, crossed: Pairs) -> None:
        self.count = 0
        self._shifts, self._paired, self._crossed = shifts, paired, crossed
        self._totals: list[Tensor] = []  # of every set, of squares of every set, of products of every pair

    def add(self, rows: Sequence[Tensor]) -> None:
        """Take in for every set its samples (..., n_i, sample)."""
        count = rows[0].shape[-1]
        elements = BLOCK if rows[0].device.type == "cpu" else 32 * BLOCK
        step = max(1, elements * count // max(x.numel() for x in rows))
        for first in range(0, count, step):
            shifted = [
                x[..., first : first + step].to(shift.dtype) - shift
                for x, shift in zip(rows, self._shifts, strict=True)
            ]
            new = [x.sum(-1) for x in shifted]
            new += [torch.linalg.vector_norm(x, dim=-1).square() for x in shifted]  # without a temporary square
            new += [(shifted[i] * shifted[j]).sum(-1) for i, j in self._paired]
            new += [shifted[i] @ shifted[j].mT for i, j in self._crossed]
            if not self._totals:
                self._totals = [more.double() for more in new]
            else:
                for total, more in zip(self._totals, new, strict=True):
                    total.add_(more)
        self.count += count

    def centred(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Means, squares and products about the means (the corrected two-pass algorithm, Chan, Golub & LeVeque 1983)."""
        sets = len(self._shifts)
        firsts, squares, products = self._totals[:sets], self._totals[sets : 2 * sets], self._totals[2 * sets :]
        means = [
            shift.squeeze(-1).double() + first / self.count for shift, first in zip(self._shifts, firsts, strict=True)
        ]
        squares = [square - first.square() / self.count for square, first in zip(squares, firsts, strict=True)]
        excess = [firsts[i] * firsts[j] / self.count for i, j in self._paired]
        excess += [_outer(firsts[i], firsts[j]) / self.count for i, j in self._crossed]
        return means, squares, [product - more for product, more in zip(products, excess, strict=True)]


def _sums(old: Sequence[Tensor], new: Sequence[Tensor], between: Sequence[Tensor], factor: float) -> list[Tensor]:
    return [a + b.to(a) + c * factor for a, b, c in zip(old, new, between, strict=True)]


def _outer(one: Tensor, other: Tensor) -> Tensor:
    """(..., n) and (..., m) -> (..., n, m)."""
    return one.unsqueeze(-1) * other.unsqueeze(-2)
