"""`align`: two networks, an example input -> an `Alignment`, by any matching method of the registry.

Both networks are checked, the groups of interchangeable units are found, and the method is called with them.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from featviz.config.matching_methods import LINEAR, MatchingMethod, function_of, resolve
from featviz.config.matching_options import MethodOptions
from featviz.data import Data
from featviz.errors import AlignmentError
from featviz.isolation import ordinary_modes
from featviz.matching.alignment import Alignment, LinearAlignment, PermutationAlignment
from featviz.matching.assignment import Matching, check_permutations
from featviz.matching.linear.combination import LinearCombination
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.weight_scores import score_by_weights
from featviz.matching.problem import MatchingProblem, Progress
from featviz.matching.shared_parts import Rename, find_groups, groups_for_matching, module_names_in_b
from featviz.subjects import Subject, as_subject
from featviz.symmetry.shared_groups import SharedGroups
from featviz.weights.checks import check_finite, digest

log = logging.getLogger("featviz.matching")


@ordinary_modes
def align(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    example_input: object,
    method: str | None = None,
    data: Data | None = None,
    seed: int | None = None,
    restarts: int | None = None,
    verify: bool = True,
    progress: Progress = None,
    options: MethodOptions | None = None,
    *,
    ignore: Iterable[str] = (),
    rename: Rename = None,
    free_outputs: bool = False,
) -> Alignment:
    """Find which of B's units correspond to which of A's: a permutation of every group, or linear combinations.

    Args:
        model_a, model_b: two networks, left as they were. Where they differ (heads of other class counts, extra modules),
            what they share is matched; `alignment.private` names what belongs to one of them, which is logged, too.
        example_input: a batch (one example is enough), or a tuple of arguments, on which both networks run.
        method: permutations of B by "weights" (coordinate descent, no data needed), "activations" (correlation on `data`),
            "inner" (inner product on `data`), "sinkhorn" (gradient ascent from weight matching's), or the controls "identity"
            and "random"; "zipit", "cca" and "ot" combine units linearly; or one that was registered by
            `featviz.matching_method`. None: the method of `options`, else "weights".
        data: batches `x` or `(x, label)`, images in [0, 1], which every network normalizes for itself; needed by
            "activations", "inner" and the combinations. Weight matching, where it gets data, starts from activation matching
            as well.
        seed: of everything random. None: that of `options`, else 0.
        restarts: starts of weight matching; the best one is kept; methods without restarts take no notice. None: that of
            `options`.
        verify: prove the permutation groups on a float64 copy before they are used.
        progress: called with (done, total); total 0 where it is not known.
        options: an `AlignConfig`, or the options of the method alone (`ZipItOptions(alpha=0.5)`). `method`, `seed` and
            `restarts` count before it.
        ignore: patterns of names (`["fc.*"]`) of parameters that are private although both networks have them.
        rename: where B is the same network in another spelling: B's names of parameters or modules -> A's, or a function that
            makes A's name of B's.
        free_outputs: A and B are the first parts of larger networks (`align(a.features, b.features, ...)`), so that the order
            of their outputs may change: the last layer is matched, too, and B' gives B's outputs in A's order. Otherwise units
            of outputs are fixed.

    Returns:
        A `PermutationAlignment`; a `LinearAlignment` of a method that combines units.

    Raises:
        ModelError: the networks have no interchangeable units in common, hold NaN or Inf, or `ignore` or `rename` does not fit.
        AlignmentError: unknown method, options out of range or of another method, no data where data is needed, or units that
            the method cannot combine.
    """
    chosen, seed, own = resolve(method, seed, restarts, options)
    check_data(chosen, data)
    subjects = as_subject(model_a, "A"), as_subject(model_b, "B")
    a, b = (subject.model for subject in subjects)
    for name, model in (("model A", a), ("model B", b)):
        check_finite(model, name)
    groups, parts = find_groups(a, b, example_input, ignore, rename, verify, free_outputs)
    known = (groups, chosen.name, seed, digest(a), digest(b))
    problem = MatchingProblem(chosen.name, (a, b), groups, data, seed, progress, subjects)
    if parts is not None:
        problem = _problem_of_shared_parts(problem, parts, chosen)
    assert chosen.pair is not None
    found = function_of(chosen.pair)(problem, own)
    if chosen.gives == LINEAR:
        if not isinstance(found, LinearCombination):
            raise AlignmentError(f"method {chosen.name!r} gave a {type(found).__name__}: return a LinearCombination.")
        return LinearAlignment(*known, found)
    alignment = PermutationAlignment(*known, scored_matching(problem, found), parts=parts)
    _warn_where_nothing_moves(alignment, chosen)
    return alignment


def _warn_where_nothing_moves(alignment: PermutationAlignment, method: MatchingMethod) -> None:
    units = alignment.groups.free_units
    if units and not alignment.moved_units and not method.control:
        log.warning(
            f"method {method.name!r} moves no unit: all {units} interchangeable units of B have the number of the unit of A, "
            "as in copies and in networks that were fine-tuned from one base."
        )


def _problem_of_shared_parts(problem: MatchingProblem, parts: SharedGroups, method: MatchingMethod) -> MatchingProblem:
    if method.gives == LINEAR:
        raise AlignmentError(
            f"method {method.name!r} combines units of networks of one architecture, and these differ: use method 'weights' or "
            "'activations'."
        )
    names = module_names_in_b(parts) | {name: other for name, other in parts.shared.items() if name != other}
    return replace(problem, groups=groups_for_matching(parts), names_in_b=names)


def check_data(method: MatchingMethod, data: Data | None) -> None:
    """Raise AlignmentError where a method needs data and has none."""
    if method.needs_data and data is None:
        raise AlignmentError(f"method {method.name!r} compares units on data: give data=..., or use method='weights'.")


def scored_matching(problem: MatchingProblem, found: object) -> Matching:
    """What a method for two networks gave, checked; bare permutations are scored by the weights.

    Raises:
        AlignmentError: it is neither a `Matching` nor {group: permutation}, or a permutation is not allowed.
    """
    perms = found.perms if isinstance(found, Matching) else found
    if not isinstance(perms, Mapping):
        raise AlignmentError(
            f"method {problem.method!r} gave a {type(found).__name__}: return a Matching, or {{group.name: permutation}}."
        )
    checked = check_permutations(problem.groups, perms, problem.method)
    if isinstance(found, Matching):
        return replace(found, perms=checked)
    return score_by_weights(ComparedWeights.of(problem), problem.groups, checked)
