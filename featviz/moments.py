"""Streaming moments: samples come in chunks -> count, mean, variance, covariance and correlation of units, in float64.

Every chunk is centred about its own mean and then merged with what came before (Chan, Golub & LeVeque 1983):

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
        self.count = 0
        self.paired, self.crossed = tuple(paired), tuple(crossed)
        self.dtype = dtype
        self._means: list[Tensor] = []
        self._squares: list[Tensor] = []  # sums of squares of centred samples, (n_i,)
        self._products: list[Tensor] = []  # sums of products of centred samples, in the order of paired and crossed

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
        chunk = Moments(self.paired, self.crossed, self.dtype)
        with torch.no_grad(), torch.autocast(samples[0].device.type, enabled=False):
            chunk._set(samples)
            self.merge(chunk)

    def _set(self, samples: Sequence[Tensor]) -> None:
        """Become the moments of one chunk, by the corrected two-pass algorithm (the rounding of the mean is subtracted).

        Samples are centred block by block, so that no second copy of the chunk is made.
        """
        self.count = count = samples[0].shape[-2]
        rows = [x.detach().mT for x in samples]
        shifts = [x.mean(-1, keepdim=True).to(self.dtype) for x in rows]
        elements = BLOCK if rows[0].device.type == "cpu" else 32 * BLOCK
        step = max(1, elements * count // max(x.numel() for x in rows))
        sums: list[Tensor] = []
        for first in range(0, count, step):
            centred = [
                x[..., first : first + step].to(self.dtype) - shift for x, shift in zip(rows, shifts, strict=True)
            ]
            new = [x.sum(-1) for x in centred]
            new += [torch.linalg.vector_norm(x, dim=-1).square() for x in centred]  # without a temporary square
            new += [(centred[i] * centred[j]).sum(-1) for i, j in self.paired]
            new += [centred[i] @ centred[j].mT for i, j in self.crossed]
            sums = [total.add_(more) for total, more in zip(sums, new, strict=True)] if sums else _double(new)
        rest, squares, products = sums[: len(rows)], sums[len(rows) : 2 * len(rows)], sums[2 * len(rows) :]
        self._means = [s.squeeze(-1).double() + r / count for s, r in zip(shifts, rest, strict=True)]
        self._squares = [square - r.square() / count for square, r in zip(squares, rest, strict=True)]
        excess = [rest[i] * rest[j] / count for i, j in self.paired]
        excess += [_outer(rest[i], rest[j]) / count for i, j in self.crossed]
        self._products = [product - more for product, more in zip(products, excess, strict=True)]

    def merge(self, other: "Moments") -> None:
        """Take in the samples of `other`, which has the same sets and pairs and stays as it is.

        Raises:
            DataError: it has other sets, units or pairs.
        """
        if not other.count:
            return
        if not self.count:
            self._check_pairs(other)
            self.count = other.count
            self._means, self._squares, self._products = other._means, other._squares, other._products
            return
        self._check_pairs(other)
        mine, theirs = ([tuple(mean.shape) for mean in moments._means] for moments in (self, other))
        if mine != theirs:
            raise DataError(
                f"moments of shapes {theirs} cannot be added to {mine}: give the same layers in each batch."
            )
        share = other.count / (self.count + other.count)
        factor = self.count * share
        delta = [new.to(old) - old for new, old in zip(other._means, self._means, strict=True)]
        self._means = [old + change * share for old, change in zip(self._means, delta, strict=True)]
        between = [change.square() for change in delta]
        self._squares = _sums(self._squares, other._squares, between, factor)
        between = [delta[i] * delta[j] for i, j in self.paired]
        between += [_outer(delta[i], delta[j]) for i, j in self.crossed]
        self._products = _sums(self._products, other._products, between, factor)
        self.count += other.count

    def _check_pairs(self, other: "Moments") -> None:
        if (self.paired, self.crossed) != (other.paired, other.crossed):
            raise DataError("moments of other pairs of units cannot be added: make both with the same pairs.")

    @property
    def sets(self) -> int:
        """How many sets of units there are; 0 before the first chunk."""
        return len(self._means)

    def mean(self, i: int = 0) -> Tensor:
        """Means (n_i,) of set i."""
        self._check_count()
        return self._means[i]

    def variance(self, i: int = 0) -> Tensor:
        """Biased variances (n_i,) of set i."""
        self._check_count()
        return (self._squares[i] / self.count).clamp_min(0)

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
        covariance = self._product(i, j) / self.count
        one, other = self.varies(i).double(), self.varies(j).double()
        return covariance * self._combined(one, other, i, j)

    def correlation(self, i: int = 0, j: int = 1) -> Tensor:
        """Pearson correlations in [-1, 1], of the shape of `covariance`; 0 for units that do not vary."""
        covariance = self.covariance(i, j)
        one, other = (torch.where(self.varies(k), self.variance(k), torch.inf).sqrt() for k in (i, j))
        return (covariance / self._combined(one, other, i, j)).clamp(-1, 1)

    def inner_product(self, i: int = 0, j: int = 1) -> Tensor:
        """E[x_i x_j], nothing subtracted, of the shape of `covariance`."""
        product = self._product(i, j) / self.count
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
        if not self.count:
            raise DataError("moments of no samples are asked for: add a batch first.")


def _sums(old: Sequence[Tensor], new: Sequence[Tensor], between: Sequence[Tensor], factor: float) -> list[Tensor]:
    return [a + b.to(a) + c * factor for a, b, c in zip(old, new, between, strict=True)]


def _outer(one: Tensor, other: Tensor) -> Tensor:
    """(..., n) and (..., m) -> (..., n, m)."""
    return one.unsqueeze(-1) * other.unsqueeze(-2)


def _double(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]
