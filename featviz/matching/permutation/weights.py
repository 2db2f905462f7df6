"""Weight matching (Ainsworth, Hayase & Srinivasa 2022, "Git Re-Basin"): coordinate descent from several starts.

weights of A and of B -> one permutation per group with a large sum over parameters of <A, B'>.

Single starts get stuck, and the identity is a poor start. A start here is *progressive*: a parameter counts only once all other
groups on it have been placed, so that what is known grows from the input and the output, whose order is fixed. That alone
recovers a planted permutation of a residual MLP (git-re-basin issue 8). Further starts take the groups in random order, every
fourth begins at random permutations, and one at activation matching's where there is data; the best sum is kept.

Starts run at the same time, one thread each, as far as `torch.get_num_threads()` goes: half of their time is assignment, which
is not parallel in itself. What a start finds does not depend on the others.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from featviz.config.matching_options import ActivationOptions, WeightMatchingOptions
from featviz.matching.assignment import Matching
from featviz.matching.permutation.activations import match_correlations
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.coordinate_descent import (
    Perms,
    coordinate_descent,
    match_near_ties,
    place_progressively,
)
from featviz.matching.permutation.similarity_cache import SimilarityCache
from featviz.matching.permutation.weight_scores import score_by_weights
from featviz.matching.problem import MatchingProblem
from featviz.symmetry.groups import Index, PermutationGroups
from featviz.symmetry.permute import random_permutations


def match_weights(
    problem: MatchingProblem, options: WeightMatchingOptions, start: Mapping[str, Index] | None = None
) -> Matching:
    """Method "weights".

    Args:
        start: permutations from which one more start begins; None: activation matching's, where there is data, with its
            default options.

    Raises:
        AlignmentError: the weights are not finite.
    """
    if start is None and problem.data is not None:
        start = match_correlations(problem, ActivationOptions()).perms
    weights = ComparedWeights.of(problem, bool(options.scale_free))
    total = options.restarts + (start is not None)

    def run(number: int) -> Start:
        begin = start if number == options.restarts else None
        return descend_from_start(weights, problem.groups, options, (problem.seed, number), begin)

    objectives = [0.0] * total
    best: tuple[int, Start] | None = None
    with one_thread_each(total) as workers, ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(run, number): number for number in range(total)}
        for done, future in enumerate(as_completed(futures)):
            number, found = futures.pop(future), future.result()
            objectives[number] = found.objective
            if best is None or (found.objective, -number) > (best[1].objective, -best[0]):
                best = number, found  # the others' similarities are forgotten
            if problem.progress:
                problem.progress(done + 1, total)
    assert best is not None
    number, found = best
    perms = match_near_ties(found.similarities, problem.groups, found.perms)
    objectives[number] = weights.objective(perms)
    return score_by_weights(weights, problem.groups, perms, objectives, found.similarities)


@dataclass(frozen=True)
class Start:
    """Where one start has ended: its permutations, their objective and similarities."""

    perms: Perms
    objective: float
    similarities: SimilarityCache


def descend_from_start(
    weights: ComparedWeights,
    groups: PermutationGroups,
    options: WeightMatchingOptions,
    seed: tuple[int, int],
    begin: Mapping[str, Index] | None = None,
) -> Start:
    """Coordinate descent from the permutations `begin`, or from those that are placed or drawn.

    Args:
        seed: of the problem, and the number of the start: 0 places largest first, every fourth is random.
    """
    generator = np.random.default_rng(seed)
    similarities = SimilarityCache(weights)
    if begin is not None:
        perms = dict(begin)
    elif seed[1] % 4 == 3:
        perms = random_permutations(groups, generator)
    else:
        perms = place_progressively(similarities, groups.families(), {}, generator if seed[1] else None)
    perms = coordinate_descent(similarities, groups, perms, options, generator)
    return Start(perms, weights.objective(perms), similarities)


@contextmanager
def one_thread_each(tasks: int) -> Iterator[int]:
    """Context: how many tasks may run at once; while it is open, torch's threads are shared out among them."""
    threads = torch.get_num_threads()
    workers = max(1, min(tasks, threads))
    try:
        torch.set_num_threads(threads // workers)
        yield workers
    finally:
        torch.set_num_threads(threads)
