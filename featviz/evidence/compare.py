"""Can these two networks be merged, and how? What they share, how alike their units are, and what an average of them does.

two networks, an example input, perhaps data -> `Comparison`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from featviz.config.matching_options import WeightMatchingOptions
from featviz.data import Data, device_of
from featviz.errors import AlignmentError, ModelError
from featviz.evidence.comparison import Comparison, GroupScores, Outcome
from featviz.isolation import copy_of, weight_sharing_copy
from featviz.matching.align import align
from featviz.matching.alignment import PermutationAlignment
from featviz.matching.assignment import Floats, assign
from featviz.matching.permutation.weights import match_weights
from featviz.matching.problem import MatchingProblem
from featviz.matching.shared_parts import groups_for_matching, module_names_in_b
from featviz.matching.unit_activations import activation_sites, measure_moments
from featviz.merging.barrier import evaluate
from featviz.merging.batchnorm import has_batchnorm
from featviz.merging.merge import merge
from featviz.subjects import Subject, as_subject, input_normalization, network_of
from featviz.symmetry.groups import Index
from featviz.weights.checks import BATCH_COUNTER, check_finite

Progress = Callable[[str], None]


def compare(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    example_input: object,
    data: Data | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two networks: structure, weights, units, and their averages.

    >>> print(compare(model_a, model_b, torch.rand(1, 3, 32, 32), loader))  # doctest: +SKIP

    The score of a pair of units is the correlation of their activations on `data`; without data, the cosine of their incoming
    and outgoing weights. The same matching is done once more where it can find nothing, which gives what chance gives: with B
    seeing each image's successor, or with B's weights shuffled within every tensor.

    Args:
        model_a, model_b: left as they were.
        example_input: a batch (one example is enough) on which both run.
        data: batches `x` or `(x, label)` of images in [0, 1], iterated several times. Every other batch serves for matching and
            repair, the rest for loss and accuracy, where there are labels.
        seed: of weight matching and of the shuffling.
        progress: called with what is done next, in words.

    Raises:
        ModelError: NaN in a network, or not one tensor in common.
        DataError: data without images.
    """
    say = progress or (lambda _: None)
    subjects = [as_subject(model, name) for model, name in ((model_a, "A"), (model_b, "B"))]
    a, b = (network_of(subject) for subject in subjects)
    for model, name in ((a, "A"), (b, "B")):
        check_finite(model, name)
    structure = _structure(a, b)
    normalizations = [input_normalization(subject) for subject in subjects]
    structure["normalizations"] = {name: one.record() for name, one in zip("AB", normalizations, strict=True)}
    structure["same_normalization"] = normalizations[0].same_values(normalizations[1])
    first, second = (None, None) if data is None else (_EveryOther(data, 0), _EveryOther(data, 1))
    measure = "cosine of weights" if first is None else "correlation of activations"
    try:
        alignments = _alignments(a, b, example_input, first, seed, say)
        say("comparing units")
        scores, groups = _unit_scores(a, b, alignments, first, seed)
    except (ModelError, AlignmentError) as error:
        return Comparison(**structure, measure=measure, scores={}, groups=(), outcomes={}, refused=str(error))
    outcomes, repair = {}, "none"
    differ = bool(structure["only_a"] or structure["only_b"] or structure["other_shapes"])
    if data is not None and second is not None and not differ and _labelled(data, a, b):
        repair = "batchnorm" if has_batchnorm(a) else "repair"
        say("measuring averages")
        outcomes = _outcomes(a, b, alignments, cast("Data", first), second if second.any() else data)
    return Comparison(
        **structure,
        measure=measure,
        scores=scores,
        groups=groups,
        outcomes=outcomes,
        repair=repair if outcomes else "none",
    )


class _EveryOther:
    """Batches 0, 2, 4, ... or 1, 3, 5, ... of data."""

    def __init__(self, data: Data, first: int) -> None:
        self._data, self._first = data, first

    def __iter__(self) -> Iterator[Any]:
        return (batch for number, batch in enumerate(self._data) if number % 2 == self._first)

    def any(self) -> bool:
        """Whether there is a batch."""
        return next(iter(self), None) is not None


def _structure(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    """Which tensors both have, and the cosine of the weights that both have."""
    ours, theirs = (
        {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(BATCH_COUNTER)}
        for model in (a, b)
    )
    shared = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    if not shared:
        raise ModelError("the networks have no tensor of one name and shape in common: there is nothing to compare.")
    dot = one = two = 0.0
    for name in shared:
        x, y = ours[name], theirs[name]
        if x.ndim > 1 and x.is_floating_point():
            x, y = x.double().flatten().cpu(), y.double().flatten().cpu()
            dot, one, two = dot + float(x @ y), one + float(x @ x), two + float(y @ y)
    return {
        "shared": len(shared),
        "only_a": tuple(name for name in ours if name not in theirs),
        "only_b": tuple(name for name in theirs if name not in ours),
        "other_shapes": {
            name: (tuple(ours[name].shape), tuple(theirs[name].shape))
            for name in ours
            if name in theirs and name not in shared
        },
        "parameters": tuple(sum(p.numel() for p in model.parameters()) for model in (a, b)),
        "cosine": dot / (one * two) ** 0.5 if one and two else 0.0,
    }


def _alignments(
    a: nn.Module, b: nn.Module, example: object, data: Data | None, seed: int, say: Progress
) -> dict[str, PermutationAlignment]:
    """Of the identity, of weight matching and, with data, of activation matching."""
    found = {}
    for method in ("identity", "weights") if data is None else ("identity", "weights", "activations"):
        say(f"matching {method}")
        matched_on = data if method == "activations" else None
        alignment = align(a, b, example, method, matched_on, seed, verify=method == "identity")
        assert isinstance(alignment, PermutationAlignment)
        found[method] = alignment
    return found


def _unit_scores(
    a: nn.Module, b: nn.Module, alignments: Mapping[str, PermutationAlignment], data: Data | None, seed: int
) -> tuple[dict[str, float], tuple[GroupScores, ...]]:
    """Mean scores by method, "chance" among them, and the scores of every group."""
    groups = alignments["identity"].groups
    problem = _problem(alignments["identity"], a, b, data, seed)
    if data is None:
        found = {method: alignment.scores for method, alignment in alignments.items()}
        shuffled = replace(problem, models=(a, _shuffled(b, seed)))
        found["chance"] = match_weights(shuffled, WeightMatchingOptions(restarts=1)).scores
    else:
        similarity = _correlations(problem)
        found = {method: _picked(similarity, alignment.permutations) for method, alignment in alignments.items()}
        similarity = _correlations(replace(problem, models=(a, _seeing_successors(b))))
        found["chance"] = _picked(similarity, {name: assign(matrix, name) for name, matrix in similarity.items()})
    by_method = {method: {name: float(np.mean(own[name])) for name in found["chance"]} for method, own in found.items()}
    sizes = {group.name: group.size for group in groups if group.name in by_method["chance"]}
    total = sum(sizes.values())
    overall = {
        method: sum(sizes[name] * own[name] for name in sizes) / max(1, total) for method, own in by_method.items()
    }
    best = max((method for method in by_method if method != "chance"), key=overall.__getitem__)
    rows = [(by_method["identity"][name], by_method[best][name], by_method["chance"][name]) for name in sizes]
    return overall, tuple(GroupScores(name, sizes[name], *row) for name, row in zip(sizes, rows, strict=True))


def _problem(
    alignment: PermutationAlignment, a: nn.Module, b: nn.Module, data: Data | None, seed: int
) -> MatchingProblem:
    """What `align` gives its methods: for networks that differ, what they share."""
    problem = MatchingProblem(alignment.method, (a, b), alignment.groups, data, seed)
    parts = alignment.parts
    if parts is None:
        return problem
    return replace(problem, groups=groups_for_matching(parts), names_in_b=module_names_in_b(parts))


def _correlations(problem: MatchingProblem) -> dict[str, Floats]:
    """(n, n) of every group whose units are seen somewhere: the mean correlation over where they are."""
    sites = {name: found for name, found in activation_sites(problem.model_a, problem.groups).items() if found}
    moments = measure_moments(problem, sites, [(0, 1)])
    return {name: np.mean([one.correlation().cpu().numpy() for one in own], axis=0) for name, own in moments.items()}


def _picked(similarity: Mapping[str, Floats], perms: Mapping[str, Index]) -> dict[str, Floats]:
    """Per group (n,): the similarity of A's units to their partners."""
    return {name: matrix[np.arange(len(matrix)), perms[name]] for name, matrix in similarity.items()}


def _seeing_successors(model: nn.Module) -> nn.Module:
    """A copy that sees the next image of every batch in place of each."""
    network = weight_sharing_copy(model)
    network.register_forward_pre_hook(lambda _, args: (args[0].roll(-1, 0), *args[1:]))
    return network


def _shuffled(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose weights are shuffled within every tensor."""
    network, generator = copy_of(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return network


def _labelled(data: Data, *models: nn.Module) -> bool:
    """Whether the batches have labels that are numbers of the networks' outputs."""
    batch = next(iter(data), None)
    if not isinstance(batch, (tuple, list)) or len(batch) < 2 or not isinstance(batch[1], Tensor):
        return False
    with torch.no_grad():
        outputs = [weight_sharing_copy(model)(batch[0][:1].to(device_of(model))) for model in models]
    return all(isinstance(y, Tensor) and y.ndim == 2 and y.shape[1] > int(batch[1].max()) for y in outputs)


def _outcomes(
    a: nn.Module, b: nn.Module, alignments: Mapping[str, PermutationAlignment], repaired_on: Data, measured_on: Data
) -> dict[str, Outcome]:
    """Of the parents, and of their equal average under every alignment, repaired."""
    networks = {"A": lambda: a, "B": lambda: b}
    for method, alignment in alignments.items():
        networks[method] = partial(merge, a, b, alignment, repair="auto", data=repaired_on)
    batches = cast("Any", measured_on)
    return {name: Outcome(*evaluate(make(), batches)) for name, make in networks.items()}
