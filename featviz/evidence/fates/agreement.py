"""Agreement, fidelity and identity of the units of a merged layer, from sums per fold of the images.

With X_p the unit of parent p (B in A's basis), w_p its weight in the merge and M the merged unit, over images and positions:

    agreement  c = mean over pairs of parents of corr(X_p, X_q)         did the parents have the same feature?
    fidelity   f = corr(M, R),  R = sum of w_p X_p, the unit's row       did averaging the weights average the feature?
    predicted  corr(M, X_p) = f * corr(X_p, R)                           beside the measured one
    identity   the row of the layer that M correlates with most, among X_p for each p, and among R

If M = R plus noise that is independent of the parents, the prediction is exact; for two parents of equal variance it is
f * sqrt((1 + c) / 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from featviz.evidence.fates.fold_sums import Floats, FoldSums, correlation

TIE = 1e-5  # of a correlation: rows that are as close as this are equally close (float32 products)


@dataclass(frozen=True)
class LayerFigures:
    """Figures of the n units of a layer for R resamplings of the images; P parents.

    agreement, fidelity: (R, n). correlation, predicted: (P, R, n) of the merged unit with each parent's at its place.
    nearest: (P + 1, R, n) the row with the largest correlation, in each parent and in the rows' means (the last).
    own: of the same shape, whether that is the unit's own row (or its own is as close).
    alive: (R, n) whether the merged unit varies. parents_alive: (P, R, n).
    variance: (R, n) of the merged unit over that of its row; NaN where the row does not vary.
    """

    agreement: Floats
    fidelity: Floats
    correlation: Floats
    predicted: Floats
    nearest: NDArray[np.int64]
    own: NDArray[np.bool_]
    alive: NDArray[np.bool_]
    parents_alive: NDArray[np.bool_]
    variance: Floats


def layer_pairs(parents: int) -> list[tuple[int, int]]:
    """Pairs of sets whose covariances are needed, all units with all: sets 0 to P - 1 are the parents, P is merged."""
    return [*combinations(range(parents), 2), *((parents, p) for p in range(parents))]


def layer_figures(sums: FoldSums, shares: Sequence[float], weights: Floats) -> LayerFigures:
    """Figures of a layer whose merged units are `shares[p]` of parent p's.

    Args:
        sums: with the pairs of `layer_pairs`.
        weights: (R, fold) resamplings of the images.
    """
    parents = range(len(shares))
    merged = len(shares)
    variances = [sums.variance(i, weights) for i in (*parents, merged)]
    pairs = {(p, q): _diagonal(sums.covariance(p, q, weights)) for p, q in combinations(parents, 2)}
    agreement = [correlation(cov, variances[p], variances[q]) for (p, q), cov in pairs.items()]
    row_covariance = [  # of each parent's unit with its row
        _weighted(shares, [variances[p] if p == q else pairs[min(p, q), max(p, q)] for q in parents]) for p in parents
    ]
    row_variance = np.maximum(_weighted(shares, row_covariance), 0)
    row_variance = np.where(row_variance <= 1e-12 * np.sum(variances[:merged], axis=0), 0, row_variance)
    with_parents = [sums.covariance(merged, p, weights) for p in parents]
    with_rows = _weighted(shares, with_parents)
    matrices = [correlation(with_parents[p], variances[merged], variances[p]) for p in parents]
    matrices.append(correlation(with_rows, variances[merged], row_variance))
    fidelity = _diagonal(matrices[-1])
    predicted = [fidelity * correlation(row_covariance[p], variances[p], row_variance) for p in parents]
    identity = [_identity(matrix) for matrix in matrices]
    ratio = np.full_like(row_variance, np.nan)
    return LayerFigures(
        agreement=np.mean(agreement, axis=0) if agreement else np.ones_like(fidelity),
        fidelity=fidelity,
        correlation=np.stack([_diagonal(matrix) for matrix in matrices[:-1]]),
        predicted=np.stack(predicted),
        nearest=np.stack([nearest for nearest, _ in identity]),
        own=np.stack([own for _, own in identity]),
        alive=variances[merged] > 0,
        parents_alive=np.stack([variances[p] > 0 for p in parents]),
        variance=np.divide(variances[merged], row_variance, out=ratio, where=row_variance > 0),
    )


def unmatched_agreement(sums: FoldSums, parents: int, quantile: float = 0.95) -> float:
    """The control of agreement: the given quantile of the correlations of units of the layer that are not matched.

    Units that do not vary are left out. 0 where there is no pair (a layer of one unit).
    """
    weights = sums.all_images()
    found = []
    for p, q in combinations(range(parents), 2):
        one, other = sums.variance(p, weights)[0], sums.variance(q, weights)[0]
        matrix = correlation(sums.covariance(p, q, weights)[0], one, other)
        unmatched = ~np.eye(*matrix.shape, dtype=bool) & (one > 0)[:, None] & (other > 0)
        found.append(matrix[unmatched])
    values = np.concatenate(found) if found else np.zeros(0)
    return float(np.quantile(values, quantile)) if len(values) else 0.0


def _identity(matrix: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(R, n) nearest row of each unit, its own where it is as near; and whether it is its own."""
    best, own = matrix.max(-1), _diagonal(matrix)
    is_own = own >= best - TIE
    nearest = np.where(is_own, np.arange(matrix.shape[-1]), matrix.argmax(-1))
    return nearest, is_own & (own > 0)


def _weighted(shares: Sequence[float], values: Sequence[Floats]) -> Floats:
    return np.sum([share * value for share, value in zip(shares, values, strict=True)], axis=0)


def _diagonal(matrix: Floats) -> Floats:
    return np.diagonal(matrix, axis1=-2, axis2=-1)
