"""`align`: two networks, an example input -> an `Alignment`, by any matching method of the registry.

Both networks are checked, the groups of interchangeable units are found, and the method is called with them.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from featviz.data import Data
from featviz.errors import AlignmentError
from featviz.matching.alignment import Alignment, LinearAlignment, PermutationAlignment
from featviz.matching.assignment import Matching, check_permutations
from featviz.matching.linear.combination import LinearCombination
from featviz.matching.permutation.normalized_weights import NormalizedWeights, score_by_weights
from featviz.matching.problem import MatchingProblem, Progress
from featviz.matching_methods import LINEAR, MatchingMethod, MethodOptions, function_of, resolve
from featviz.model_checks import check_finite, check_same_architecture, digest
from featviz.subjects import Subject, network_of
from featviz.symmetry.discovery import permutation_groups

log = logging.getLogger("featviz.matching")


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
) -> Alignment:
    """Find which of B's units correspond to which of A's: a permutation of every group, or linear combinations.

    Args:
        model_a, model_b: networks of one architecture; both are left as they were.
        example_input: a batch (one example is enough), or a tuple of arguments, on which the network runs.
        method: permutations of B by "weights" (coordinate descent, no data needed), "activations" (correlation on `data`),
            "inner" (inner product on `data`), "sinkhorn" (gradient ascent from weight matching's), or the controls "identity"
            and "random"; "zipit", "cca" and "ot" combine units linearly; or one that was registered by
            `featviz.matching_method`. None: the method of `options`, else "weights".
        data: batches `x` or `(x, label)`, as the networks expect them; needed by "activations", "inner" and the combinations.
            Weight matching, where it gets data, starts from activation matching as well.
        seed: of everything random. None: that of `options`, else 0.
        restarts: starts of weight matching, of which the best is kept; methods without restarts take no notice. None: that of
            `options`.
        verify: prove the permutation groups on a float64 copy before they are used.
        progress: called with (done, total); total 0 where it is not known.
        options: an `AlignConfig`, or the options of the method alone (`ZipItOptions(alpha=0.5)`). `method`, `seed` and
            `restarts` count before it.

    Returns:
        A `PermutationAlignment`; a `LinearAlignment` of a method that combines units.

    Raises:
        ModelError: the models differ in architecture, or hold NaN or Inf.
        AlignmentError: unknown method, options out of range or of another method, no data where data is needed, or units that
            the method cannot combine.
    """
    chosen, seed, own = resolve(method, seed, restarts, options)
    check_data(chosen, data)
    model_a, model_b = network_of(model_a), network_of(model_b)
    check_same_architecture(model_a, model_b)
    for name, model in (("model A", model_a), ("model B", model_b)):
        check_finite(model, name)
    groups = permutation_groups(model_a, example_input, verify=verify)
    problem = MatchingProblem(chosen.name, (model_a, model_b), groups, data, seed, progress)
    known = (groups, chosen.name, seed, digest(model_a), digest(model_b))
    assert chosen.pair is not None
    found = function_of(chosen.pair)(problem, own)
    if chosen.gives == LINEAR:
        if not isinstance(found, LinearCombination):
            raise AlignmentError(f"method {chosen.name!r} gave a {type(found).__name__}: return a LinearCombination.")
        return LinearAlignment(*known, found)
    alignment = PermutationAlignment(*known, scored_matching(problem, found))
    if not alignment.moved_units and not chosen.control:
        log.warning("%s", NOTHING_MOVED.format(method=chosen.name, units=groups.free_units))
    return alignment


NOTHING_MOVED = (
    "method '{method}' moves no unit: every one of {units} interchangeable units of B stays where it is. Either both networks "
    "have their units in one order (copies, fine-tuned from one base), or there is nothing to permute."
)


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
    return score_by_weights(
        NormalizedWeights(problem.model_a, problem.model_b, problem.groups), problem.groups, checked
    )
