"""Merges up to a layer: a merged trunk, and after it the rest of each parent, as two heads (ZipIt's "partial zipping", Stoica
et al. 2023, section 4.3).

A, B, their alignment, a layer -> two networks. Up to the layer both are the merge; after it each is its parent, whose first
weights are changed so that they read the parent's units from the merged ones (`unmerge` of `matching/linear/combination.py`;
for permutations B's are reordered). The layer has to separate the network: units of a residual stream that goes on after it
would be both merged and unmerged.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from featviz.data import Data
from featviz.errors import AlignmentError, near_names
from featviz.isolation import copy_of
from featviz.matching.alignment import Alignment
from featviz.matching.linear.combination import LinearCombination
from featviz.matching.linear.merge import (
    OUTPUT,
    axis_role,
    check_combinable,
    merge_linearly,
    module_of,
    parent_share,
)
from featviz.matching.shared_parts import module_names_in_b
from featviz.matching.unit_axes import axes_by_parameter
from featviz.merging.average import remember_average_normalization
from featviz.merging.batchnorm import check_batchnorm_repair, has_batchnorm, reset_batchnorm
from featviz.merging.private_parts import average_shared, shared_tensors
from featviz.subjects import Subject, as_subject
from featviz.symmetry.discovery import private_copy, run_example
from featviz.symmetry.groups import PermutationGroups
from featviz.weights.tensors import named_tensors


def merge_heads(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    alignment: Alignment,
    until: str,
    example_input: object,
    repair: str = "auto",
    data: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Merge everything up to a layer, and keep both parents from there on.

    Both networks have their parent's architecture, so that they render, save and evaluate like any other; the merged trunk is
    the same in both. `featviz.evaluate_ensemble(head_a, head_b, data)` measures both heads together.

    Args:
        model_a, model_b: the parents; left as they were.
        alignment: of these two networks, by any method. They may differ after the layer, in heads of other classes for example.
        until: A's name of the last module that is merged ("layer2"), with everything that runs before it has ended.
        example_input: a batch (one example is enough), or a tuple of arguments, on which the network runs.
        repair: "none"; "batchnorm" measures the running statistics of every BatchNorm layer of both afresh on `data`; "auto"
            does so where there is data and such a layer.
        data: batches `x` or `(x, label)` for the repair; iterated once for each head.
        progress: called with (batches done, 0).

    Returns:
        The network with A's head, and the one with B's.

    Raises:
        AlignmentError: there is no such layer, units of the trunk are also produced after it, a part of it belongs to one
            network alone, the method's units cannot be read from merged ones, the alignment belongs to other networks, or there
            is no data for the repair.
    """
    a, b = as_subject(model_a, "A"), as_subject(model_b, "B")
    check_batchnorm_repair(repair, a.model, data, "two heads")
    alignment.check(a.model, b.model)
    combination = alignment.as_combination()
    for model, groups in ((a.model, alignment.groups), (b.model, alignment.groups_b)):
        check_combinable(model, groups, combination, alignment.method)
    trunk = _merged_trunk(a.model, b.model, alignment, until, example_input)
    heads = []
    for parent, (subject, groups) in enumerate(((a, alignment.groups), (b, alignment.groups_b))):
        head = _head(subject.model, parent, groups, trunk[parent], combination, until)
        remember_average_normalization(head, [subject], [1.0])
        if data is not None and repair != "none" and has_batchnorm(head):
            reset_batchnorm(head, data, progress)
        heads.append(head)
    return heads[0], heads[1]


def _merged_trunk(
    model_a: nn.Module, model_b: nn.Module, alignment: Alignment, until: str, example_input: object
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The merged tensors of the trunk, by A's names and by B's.

    Raises:
        AlignmentError: a part of the trunk belongs to one network alone.
    """
    names = tensors_until(model_a, until, example_input)
    if alignment.parts is None:
        merged = named_tensors(merge_linearly(model_a, model_b, alignment.groups, alignment.as_combination()))
        trunk = {name: merged[name] for name in names}
        return trunk, trunk
    shared = shared_tensors(model_a, model_b, alignment)
    until_b = module_names_in_b(alignment.parts).get(until, until)
    names_b = tensors_until(model_b, until_b, example_input)
    private = sorted({name for name in names if name not in shared} | (names_b - set(shared.values())))
    if private:
        raise AlignmentError(
            f"the networks cannot be merged up to {until}: {private[0]}, before its end, belongs to one of them alone; take "
            "an earlier layer."
        )
    merged = named_tensors(average_shared(model_a, alignment.permute(model_b), shared, 0.5))
    return {name: merged[name] for name in names}, {shared[name]: merged[name] for name in names}


def _head(
    model: nn.Module,
    parent: int,
    groups: PermutationGroups,
    trunk: Mapping[str, Tensor],
    combination: LinearCombination,
    until: str,
) -> nn.Module:
    """A copy of A (`parent` 0) or B (1) with the merged trunk; its other tensors read their own units from the merged ones."""
    on = axes_by_parameter(groups)
    mixed = _trunk_groups(model, groups, until, set(trunk))
    identities = {group.name: (np.eye(group.size), np.eye(group.size)) for group in groups}
    unmerge = {name: combination.unmerge[name] if name in mixed else same for name, same in identities.items()}
    reads = LinearCombination(identities, unmerge)
    head = copy_of(model)
    with torch.no_grad():
        for name, tensor in named_tensors(head).items():
            if not tensor.is_floating_point() and not tensor.is_complex():
                continue
            if name in trunk:
                tensor.copy_(trunk[name])
            elif any(group in mixed for group, _ in on.get(name, [])):
                tensor.copy_(parent_share(tensor, parent, on[name], module_of(head, name), name, reads, share=1))
    return head


def _trunk_groups(model: nn.Module, groups: PermutationGroups, until: str, trunk: set[str]) -> set[str]:
    """Names of the groups whose units the trunk produces.

    Raises:
        AlignmentError: a module after the trunk produces some of them, too.
    """
    tensors = named_tensors(model)
    found = set()
    for group in groups:
        producers = {
            axis.parameter
            for axis in group.axes
            if axis_role(module_of(model, axis.parameter), axis.parameter, tensors[axis.parameter], axis.axis) == OUTPUT
        }
        if not producers & trunk:
            continue
        if others := sorted(producers - trunk):
            raise AlignmentError(
                f"the network cannot be cut at {until}: {others[0]}, behind it, adds to units that are merged before it "
                f"(group {group.name}); take a layer after which nothing does, such as the end of a stage."
            )
        found.add(group.name)
    return found


def tensors_until(model: nn.Module, until: str, example_input: object) -> set[str]:
    """Names of the parameters and buffers of all modules that have run when `until` gives its first output.

    Args:
        model: left as it was.
        until: name of a module.
        example_input: a batch, or a tuple of arguments, on which the network runs.

    Raises:
        ModelError: the network fails on the example.
        AlignmentError: there is no such module, it does not run, or a module with tensors runs both before its end and after.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if not until or until not in modules:
        raise AlignmentError(
            f"the network has no layer {until!r}: {near_names(until, [name for name in modules if name])}"
        )
    probe, inputs = private_copy(model, example_input, torch.float32)
    end = probe.get_submodule(until)
    before: set[nn.Module] = set()
    after: set[nn.Module] = set()

    def hook(module: nn.Module, args: object, output: object) -> None:
        (after if end in before else before).add(module)

    handles = [module.register_forward_hook(hook) for module in probe.modules()]
    try:
        run_example(probe, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if end not in before:
        raise AlignmentError(f"the network does not call {until} in eval mode: take a layer that it calls.")
    found: set[str] = set()
    sides: dict[int, set[str]] = {}
    for name, tensor in named_tensors(probe, every_name=True).items():
        owner = module_of(probe, name)
        path = name
        while owner not in before | after:  # a module that is not called itself is used by the module around it
            path = path.rpartition(".")[0]
            owner = module_of(probe, path)
        seen = sides.setdefault(id(tensor), set())
        seen |= {side for side, modules in (("before", before), ("after", after)) if owner in modules}
        if len(seen) > 1:
            raise AlignmentError(f"the network cannot be cut at {until}: {name} is used before it and behind it.")
        if "before" in seen:
            found.add(name)
    return found
