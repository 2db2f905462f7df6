"""`align_many`: two or more networks, an example input -> a `ManyAlignment`, by any method that gives permutations.

A method with a function for many networks sees all at once; any other aligns every network with the first one.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from featviz.config.matching_methods import MatchingMethod, function_of, resolve
from featviz.config.matching_options import MethodOptions
from featviz.data import Data
from featviz.errors import AlignmentError
from featviz.isolation import ordinary_modes
from featviz.matching.align import check_data, scored_matching
from featviz.matching.multi_network.alignment import ManyAlignment, Perms, relative_permutations
from featviz.matching.multi_network.match_many import weight_objective
from featviz.matching.permutation.baselines import identity
from featviz.matching.problem import MatchingProblem, Progress
from featviz.subjects import Subject, as_subject
from featviz.symmetry.discovery import permutation_groups
from featviz.weights.checks import check_finite, check_same_architecture, digest


@ordinary_modes
def align_many(
    models: Sequence[nn.Module | Subject],
    example_input: object,
    method: str | None = None,
    data: Data | None = None,
    seed: int | None = None,
    verify: bool = True,
    progress: Progress = None,
    restarts: int | None = None,
    options: MethodOptions | None = None,
) -> ManyAlignment:
    """Find the permutations that bring all networks into the basis of the first.

    Args:
        models: two or more networks of one architecture; left as they were.
        example_input: a batch, as for `align`.
        method: "activations" (correlations on `data`) or "weights", network by network (MatchMany of Ainsworth et al. 2022);
            "c2m3", the weights of all networks and layers at once (Crisostomi et al. 2024), from several starts, one
            of them the result of "weights". Every other method that gives permutations aligns each network with the first.
            None: the method of `options`, else "activations".
        data: batches `x` or `(x, label)`, images in [0, 1], which every network normalizes for itself.
        seed: of the order in which networks take their turns, of the starts of weight matching and of "c2m3".
        restarts: starts of weight matching, random starts of "c2m3"; the best is kept. Not used by "activations".
        options: as for `align`.

    Raises:
        AlignmentError: fewer than two networks, another method, or no data where it is needed.
        ModelError: the models differ in architecture, or hold NaN or Inf.
    """
    if len(models) < 2:
        raise AlignmentError(f"{len(models)} networks cannot be aligned: give two or more.")
    chosen, seed, own = resolve(method, seed, restarts, options, max(3, len(models)), default="activations")
    check_data(chosen, data)
    subjects = tuple(as_subject(model) for model in models)
    models = tuple(subject.model for subject in subjects)
    for number, model in enumerate(models):
        check_same_architecture(models[0], model)
        check_finite(model, f"network {number}")
    groups = permutation_groups(models[0], example_input, verify=verify)
    problem = MatchingProblem(chosen.name, models, groups, data, seed, progress, subjects)
    if chosen.many is None:
        perms, objective = _each_with_the_first(problem, chosen, own)
    else:
        perms, objective = function_of(chosen.many)(problem, own)
    common = tuple(relative_permutations(perms[0], one) for one in perms)
    return ManyAlignment(groups, common, chosen.name, objective, tuple(digest(model) for model in models))


def _each_with_the_first(
    problem: MatchingProblem, method: MatchingMethod, options: MethodOptions
) -> tuple[list[Perms], float]:
    """By a method for two networks; the objective is that of the weights."""
    assert method.pair is not None
    match = function_of(method.pair)
    perms: list[Perms] = [identity(problem.groups)]
    for number, model in enumerate(problem.models[1:]):
        subjects = (problem.subjects[0], problem.subjects[number + 1])
        pair = replace(problem, models=(problem.model_a, model), subjects=subjects, seed=problem.seed + number)
        perms.append(dict(scored_matching(pair, match(pair, options)).perms))
    return perms, weight_objective(problem, perms)
