"""Moments per fold of the images, from which any resampling of the images is computed without another pass.

`FoldMoments` takes the chunks of a pass. `FoldSums` holds, for every fold k, sums about the means of all the data:

    n_k,   S_k = sum of (x - mean),   P_k = sum of (x - mean)(y - mean)^T

Resampling with weights w (how often each fold is drawn) gives N = sum w_k n_k, S = sum w_k S_k and the covariance
sum w_k P_k / N - S S^T / N^2. Weights 1 give the figures of all images, weights 0 and 1 those of a part of them, multinomial
weights the bootstrap over folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featviz.moments import Moments, Pairs

Floats = NDArray[np.float64]


class FoldMoments:
    """Moments of every fold of sets that are sampled together; see `Moments` for sets and pairs."""

    def __init__(self, paired: Pairs = (), crossed: Pairs = ()) -> None:
        self.paired, self.crossed = tuple(paired), tuple(crossed)
        self._whole: list[tuple[int, Moments]] = []  # number of folds; the last chunk may have fewer

    def add(self, sets: Sequence[Tensor]) -> None:
        """Take in a chunk: for every set its samples (fold, sample, unit). Products have the samples' own precision."""
        folds = len(sets[0])
        if not self._whole or self._whole[-1][0] != folds:
            dtype = torch.float64 if sets[0].dtype == torch.float64 else torch.float32
            self._whole.append((folds, Moments(self.paired, self.crossed, dtype)))
        self._whole[-1][1].add(*sets)

    def sums(self) -> "FoldSums":
        """The sums of every fold about the means of all samples."""
        parts = [moments for _, moments in self._whole]
        folds = max(number for number, _ in self._whole)
        counts = np.zeros(folds)
        for number, moments in self._whole:
            counts[:number] += moments.count
        sets = range(parts[0].sets)
        total = counts.sum()
        means = [
            torch.stack([moments.mean(i).sum(0) * moments.count for moments in parts]).sum(0) / total for i in sets
        ]
        first = [np.zeros((folds, len(mean))) for mean in means]
        squares = [np.zeros((folds, len(mean))) for mean in means]
        pairs = (*self.paired, *self.crossed)
        products: dict[tuple[int, int], Floats] = {}
        for number, moments in self._whole:
            shifts = [moments.mean(i) - means[i] for i in sets]
            for i in sets:
                first[i][:number] += (shifts[i] * moments.count).cpu().numpy()
                squares[i][:number] += ((moments.variance(i) + shifts[i].square()) * moments.count).cpu().numpy()
            for i, j in pairs:
                paired = (i, j) in self.paired
                between = shifts[i] * shifts[j] if paired else shifts[i].unsqueeze(-1) * shifts[j].unsqueeze(-2)
                product = ((moments.covariance(i, j) + between) * moments.count).cpu().numpy()
                if (i, j) not in products:
                    products[i, j] = np.zeros((folds, *product.shape[1:]))
                products[i, j][:number] += product
        return FoldSums(counts, [mean.cpu().numpy() for mean in means], first, squares, products)


@dataclass(frozen=True)
class FoldSums:
    """Per fold: number of samples, first moments, squares and products about `means`; see the module's docstring.

    counts: (fold,). means: per set (n_i,). first, squares: per set (fold, n_i).
    products: (i, j) -> (fold, n_i), or (fold, n_i, n_j) of all units with all.
    """

    counts: Floats
    means: list[Floats]
    first: list[Floats]
    squares: list[Floats]
    products: dict[tuple[int, int], Floats]

    @property
    def folds(self) -> int:
        """How many folds there are."""
        return len(self.counts)

    def all_images(self) -> Floats:
        """Weights (1, fold) of all the data."""
        return np.ones((1, self.folds))

    def halves(self) -> Floats:
        """Weights (2, fold) of two disjoint halves of the images."""
        even = np.arange(self.folds) % 2 == 0
        return np.stack([even, ~even]).astype(np.float64)

    def resamples(self, count: int, seed: int) -> Floats:
        """Weights (count, fold): how often each fold is drawn with replacement (Efron & Tibshirani 1993)."""
        return (
            np.random.default_rng(seed)
            .multinomial(self.folds, np.full(self.folds, 1 / self.folds), count)
            .astype(np.float64)
        )

    def variance(self, i: int, weights: Floats) -> Floats:
        """(resample, n_i) biased; 0 for a unit whose variance is no more than float32 rounding of its mean."""
        total = (weights @ self.counts)[:, None]
        shift = weights @ self.first[i] / total
        variance = np.maximum(weights @ self.squares[i] / total - shift**2, 0)
        noise = 1e-12 * (variance + (self.means[i] + shift) ** 2) + 1e-30
        return np.where(variance <= noise, 0, variance)

    def covariance(self, i: int, j: int, weights: Floats) -> Floats:
        """(resample, n_i) of a pair kept unit by unit, or (resample, n_i, n_j)."""
        total = weights @ self.counts
        products = self.products[i, j]
        one, other = (weights @ self.first[k] / total[:, None] for k in (i, j))
        mean = np.tensordot(weights, products, 1) / total.reshape(-1, *(1,) * (products.ndim - 1))
        return mean - (one * other if products.ndim == 2 else one[:, :, None] * other[:, None, :])


def correlation(covariance: Floats, variance: Floats, other: Floats) -> Floats:
    """Pearson correlation, 0 where a variance is 0.

    Args:
        covariance: (..., n) unit by unit, or (..., n, m).
        variance: (..., n). other: (..., n), or (..., m).
    """
    if covariance.ndim > variance.ndim:
        scale = np.sqrt(variance[..., :, None] * other[..., None, :])
    else:
        scale = np.sqrt(variance * other)
    return np.clip(np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale != 0), -1, 1)
