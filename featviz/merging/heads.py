"""Merges up to a layer: one merged part, behind it each parent's own part, as two heads (ZipIt's "partial zipping", Stoica
et al. 2023, section 4.3).

A, B, their alignment, a layer -> two networks. Up to the layer both are the merge; behind it each is its parent, which reads
its own units off the merged ones (`split` of `matching/linear/merge.py`; for permutations B reads them in its own order). The
layer has to be a cut: where a residual stream goes on behind it, its units would be merged and unmerged at once.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from featviz.data import Data
from featviz.errors import AlignmentError, near_names
from featviz.isolation import copy_of
from featviz.matching.alignment import Alignment
from featviz.matching.linear.merge import (
    Mixing,
    axes_by_parameter,
    check_mixable,
    direction,
    mix_modules,
    module_of,
    of_permutations,
    parent_share,
)
from featviz.merging.repair import has_batchnorm, reset_batchnorm
from featviz.symmetry.discovery import private_copy
from featviz.tensors import named_tensors


def merge_heads(
    model_a: nn.Module,
    model_b: nn.Module,
    alignment: Alignment,
    until: str,
    example_input: object,
    repair: str = "auto",
    data: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Merge what is computed up to a layer, and keep both parents from there on.

    Both networks have the parents' architecture, so that they render, save and evaluate like any other; what is merged is the
    same in both. `featviz.evaluate_ensemble(head_a, head_b, data)` asks both heads, as one would for parents of one task.

    Args:
        alignment: of these two models, by any method.
        until: the last module that is merged, with all that runs before it is done: "layer2".
        example_input: a batch (one example is enough), or a tuple of arguments, on which the network runs.
        repair: "none"; "batchnorm" measures the running statistics of every BatchNorm layer of both afresh on `data`; "auto"
            does so where there is data and such a layer.
        data: batches `x` or `(x, label)` for the repair; iterated twice, once for each head.

    Returns:
        The network with A's head, and the one with B's.

    Raises:
        AlignmentError: there is no such layer, units of the merged part are also produced behind it, the method's units cannot
            be read off, the alignment belongs to other models, or there is no data for the repair.
    """
    if repair not in ("auto", "none", "batchnorm"):
        raise AlignmentError(f"there is no repair {repair!r} for two heads: use 'batchnorm', 'none' or 'auto'.")
    if repair == "batchnorm" and (data is None or not has_batchnorm(model_a)):
        raise AlignmentError("repair 'batchnorm' needs BatchNorm layers and data=...: use repair='none' without them.")
    alignment.check(model_a, model_b)
    groups = alignment.groups
    mixing = of_permutations(alignment.permutations) if alignment.mixing is None else alignment.mixing
    check_mixable(model_a, groups, mixing, alignment.method)
    merged_part = tensors_until(model_a, until, example_input)
    on = axes_by_parameter(groups)
    mixed = _groups_of(model_a, alignment, until, merged_part)
    merged = named_tensors(mix_modules(model_a, model_b, groups, mixing))
    heads = []
    for parent, model in enumerate((model_a, model_b)):
        eyes = {group.name: (np.eye(group.size), np.eye(group.size)) for group in groups}
        split = {name: mixing.split[name] if name in mixed else eye for name, eye in eyes.items()}
        head = copy_of(model)
        with torch.no_grad():
            for name, tensor in named_tensors(head).items():
                if not tensor.is_floating_point() and not tensor.is_complex():
                    continue
                if name in merged_part:
                    tensor.copy_(merged[name])
                elif any(group in mixed for group, _ in on.get(name, [])):
                    owner = module_of(head, name)
                    tensor.copy_(parent_share(tensor, parent, on[name], owner, name, Mixing(eyes, split), share=1))
        if data is not None and repair != "none" and has_batchnorm(head):
            reset_batchnorm(head, data, progress)
        heads.append(head)
    return heads[0], heads[1]


def _groups_of(model: nn.Module, alignment: Alignment, until: str, merged_part: set[str]) -> set[str]:
    """The groups whose units the merged part produces.

    Raises:
        AlignmentError: something behind it produces some of them, too.
    """
    tensors = named_tensors(model)
    found = set()
    for group in alignment.groups:
        makers = {
            axis.parameter
            for axis in group.axes
            if direction(module_of(model, axis.parameter), axis.parameter, tensors[axis.parameter], axis.axis)
            == "produces"
        }
        if not makers & merged_part:
            continue
        if behind := sorted(makers - merged_part):
            raise AlignmentError(
                f"the network cannot be cut at {until}: {behind[0]}, behind it, adds to units that are merged before it "
                f"(group {group.name}); take a layer after which nothing does, such as the end of a stage."
            )
        found.add(group.name)
    return found


def tensors_until(model: nn.Module, until: str, example_input: object) -> set[str]:
    """Names of the parameters and buffers of all modules that are done when `until` has given its first output.

    Raises:
        AlignmentError: there is no such module, it does not run, or a module with tensors runs before and behind.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if not until or until not in modules:
        raise AlignmentError(
            f"the network has no layer {until!r}: {near_names(until, [name for name in modules if name])}"
        )
    probe, inputs = private_copy(model, example_input, torch.float32)
    end = probe.get_submodule(until)
    before: set[nn.Module] = set()
    behind: set[nn.Module] = set()

    def hook(module: nn.Module, args: object, output: object) -> None:
        (behind if end in before else before).add(module)

    handles = [module.register_forward_hook(hook) for module in probe.modules()]
    try:
        with torch.no_grad():
            probe(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    if end not in before:
        raise AlignmentError(f"the network does not call {until} in eval mode: take a layer that it calls.")
    found: set[str] = set()
    sides: dict[int, set[str]] = {}
    for name, tensor in named_tensors(probe, every_name=True).items():
        owner = module_of(probe, name)
        place = name
        while owner not in before | behind:  # never called itself, it serves the module around it
            place = place.rpartition(".")[0]
            owner = module_of(probe, place)
        seen = sides.setdefault(id(tensor), set())
        seen |= {side for side, modules in (("before", before), ("behind", behind)) if owner in modules}
        if len(seen) > 1:
            raise AlignmentError(f"the network cannot be cut at {until}: {name} is used before it and behind it.")
        if "before" in seen:
            found.add(name)
    return found
