"""The merged network of two networks whose units are combined linearly.

    merged tensor = sum over parents p of  merge_p (on axes that produce units) . W_p . unmerge_p (on axes that read them)

A tensor that produces no units of a group is a plain mean of what is left. For a permutation (`combination.py`) this is exactly
"permute and average". BatchNorm's scales, shifts and running means are combined as a bias is; variances with |merge|, so that
they stay positive.
"""

import numpy as np
import torch
from torch import Tensor, nn

from featviz.errors import AlignmentError
from featviz.isolation import copy_of
from featviz.matching.linear.combination import LinearCombination
from featviz.matching.unit_axes import axes_by_parameter
from featviz.symmetry.groups import GroupAxis, PermutationGroups
from featviz.weights.tensors import named_tensors

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
OUTPUT, INPUT = "output", "input"  # what an axis of a module's tensor is: of the units it produces, of those it reads


def merge_linearly(
    model_a: nn.Module, model_b: nn.Module, groups: PermutationGroups, combination: LinearCombination
) -> nn.Module:
    """The merged network; integer buffers are A's, tensors that modules share stay shared."""
    merged = copy_of(model_a)
    others = named_tensors(model_b)
    on = axes_by_parameter(groups)
    with torch.no_grad():
        for name, tensor in named_tensors(merged).items():
            if tensor.is_floating_point() or tensor.is_complex():
                owner = module_of(merged, name)
                parts = [
                    parent_share(source, parent, on.get(name, []), owner, name, combination)
                    for parent, source in enumerate((tensor, others[name]))
                ]
                tensor.copy_(parts[0] + parts[1])
    return merged


def parent_share(
    tensor: Tensor,
    parent: int,
    axes: list[tuple[str, GroupAxis]],
    owner: nn.Module,
    name: str,
    combination: LinearCombination,
    share: float = 0.5,
) -> Tensor:
    """One parent's part of a merged tensor, at double precision.

    Args:
        tensor: the parent's, which is A (`parent` 0) or B (1). `axes`: where groups lie on it.
        owner: the module that has it, under `name`.
        share: the weight of the parent in tensors, and in coordinates of axes, that belong to no group.
    """
    result = tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)
    shared = False
    for dim in sorted({axis.axis for _, axis in axes}):
        reads = axis_role(owner, name, tensor, dim) == INPUT
        matrix = np.eye(tensor.shape[dim]) * (1 if reads or shared else share)
        for group, axis in axes:
            if axis.axis == dim:
                block = combination.unmerge[group][parent].T if reads else combination.merge[group][parent]
                for column in axis.index.T:
                    matrix[np.ix_(column, column)] = block
        shared = shared or not reads
        if name.endswith("running_var"):
            matrix = np.abs(matrix)
        weights = torch.from_numpy(matrix).to(result)
        first = result.movedim(dim, 0)
        result = (weights @ first.reshape(len(first), -1)).view(first.shape).movedim(0, dim)
    return result if shared else result * share


def check_combinable(
    model: nn.Module, groups: PermutationGroups, combination: LinearCombination | None, method: str
) -> None:
    """Make sure that the units of every group can be combined linearly in every tensor that has them.

    Args:
        combination: None: only what no linear combination could do is refused.

    Raises:
        AlignmentError: naming the method, the parameter and the group.
    """
    remedy = "use method 'weights' or 'activations'"
    tensors = named_tensors(model)
    for group in groups:
        for axis in group.axes:
            name, tensor = axis.parameter, tensors[axis.parameter]
            owner, roles = module_of(model, name), _roles(model, name, tensor, axis.axis)
            where = f"method {method!r} cannot merge {name} (group {group.name})"
            if group.blocks > 1 or group.family or axis.blocks > 1:
                raise AlignmentError(f"{where}: its units stand in blocks that only move as wholes; {remedy}.")
            if None in roles or len(roles) > 1:
                kind = type(owner).__name__
                raise AlignmentError(
                    f"{where}: whether axis {axis.axis} of {kind}'s tensor makes units or reads them is not known; {remedy}."
                )
            depthwise = isinstance(owner, CONVOLUTIONS) and owner.groups > 1 and tensor.dim() > 1
            if depthwise and combination is not None and not combination.partitions(group.name):
                raise AlignmentError(f"{where}: a depthwise kernel has no linear combination of channels; {remedy}.")


def axis_role(owner: nn.Module, name: str, tensor: Tensor, axis: int) -> str | None:
    """`OUTPUT` or `INPUT`: whether an axis of a module's tensor is of units that it produces or reads; None if not known."""
    dim = axis % tensor.dim()
    if tensor.dim() == 1:
        return OUTPUT
    if isinstance(owner, (nn.Linear, *CONVOLUTIONS)) and name.rpartition(".")[2] == "weight":
        return OUTPUT if dim == 0 else INPUT if dim == 1 else None
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        return OUTPUT if dim == tensor.dim() - 1 else None
    return OUTPUT if tensor.numel() == tensor.shape[dim] else None  # a scale or shift per unit


def _roles(model: nn.Module, name: str, tensor: Tensor, axis: int) -> set[str | None]:
    """What an axis is for, in every module that has the tensor (a tied embedding makes units and reads them)."""
    named = named_tensors(model, every_name=True).items()
    return {axis_role(module_of(model, other), other, tensor, axis) for other, same in named if same is tensor}


def module_of(model: nn.Module, parameter: str) -> nn.Module:
    return model.get_submodule(parameter.rpartition(".")[0])
