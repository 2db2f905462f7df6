"""Permutation groups that two different networks have in common: other heads, extra modules, parts of another shape.

Tensors of equal name and shape are *shared*, all others are *private* to one network. Both networks are traced as one,
in which the shared tensors are the same objects. What may be permuted there is permitted by A and by B, and each group
owns the axes that must move with it: those of shared tensors, those of A's private tensors, and those of B's.

Example, two classifiers with heads of 4 and 6 classes: the group of the last convolution owns axis 0 of `conv.weight`
(shared), axis 1 of A's `fc.weight` (4, n), and axis 1 of B's `fc.weight` (6, n). Permuting B by it leaves B's function
as it was.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import Tensor, nn

from featviz.errors import ModelError
from featviz.isolation import copy_of
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.groups import Group, PermutationGroups
from featviz.symmetry.solve_groups import group_name
from featviz.weights.tensors import named_tensors


@dataclass(frozen=True)
class SharedGroups:
    """The groups that two networks have in common.

    Attributes:
        a, b: the groups as those of A and of B. Both hold the same groups in the same order, of the same names, sizes and
            units, so that one permutation serves both; axes, layers and pinned axes are those of each network, by its own
            names. Groups of private tensors alone are left out; `outputs` is empty.
        shared: A's name of a shared tensor -> B's name of it.
        private_a, private_b: the names of all other tensors of each network.
    """

    a: PermutationGroups
    b: PermutationGroups
    shared: Mapping[str, str]
    private_a: tuple[str, ...]
    private_b: tuple[str, ...]


class _Both(nn.Module):
    """Two networks as one."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, inputs_a: tuple, inputs_b: tuple) -> tuple:
        return self.a(*inputs_a), self.b(*inputs_b)


def shared_groups(
    model_a: nn.Module,
    model_b: nn.Module,
    example_input: object,
    *,
    example_input_b: object = None,
    shared: Mapping[str, str] | None = None,
    verify: bool = True,
    free_outputs: bool = False,
) -> SharedGroups:
    """Find the groups of units that may be permuted in both networks alike.

    Args:
        model_a, model_b: two networks with tensors in common; they are left as they were.
        example_input: a batch (one example is enough), or a tuple of arguments, for both networks.
        example_input_b: the same for B, where B takes another.
        shared: A's name -> B's name of the tensors (parameters and buffers) that are matched; by default `shared_names`.
        verify, free_outputs: as in `permutation_groups`, for both networks together.

    Raises:
        ModelError: the networks have no tensor in common, or one does not run on its example input.
    """
    shared = _without_torn_ties(model_a, model_b, shared_names(model_a, model_b) if shared is None else dict(shared))
    names_a, names_b = list(named_tensors(model_a)), list(named_tensors(model_b))
    if not shared:
        raise ModelError(
            "the networks have no tensor of the same name and shape in common "
            f"(A begins with {', '.join(names_a[:3])}; B with {', '.join(names_b[:3])}): "
            "give the names of one in terms of the other, or two networks that share a part."
        )
    inputs = [x if isinstance(x, tuple) else (x,) for x in (example_input, example_input_b)]
    both = _Both(copy_of(model_a), copy_of(model_b))
    _share(both.a, both.b, shared)
    inputs[1] = inputs[0] if example_input_b is None else inputs[1]
    found = permutation_groups(both, tuple(inputs), verify=verify, free_outputs=free_outputs)
    private_b = {f"b.{name}": name for name in names_b if name not in shared.values()}
    tensors_a = {f"a.{name}": name for name in names_a}
    tensors_b = {f"a.{name}": other for name, other in shared.items()} | private_b
    kept = _groups_with_shared_axes(found, {f"a.{name}" for name in shared})
    return SharedGroups(
        _side(found, kept, "a.", tensors_a),
        _side(found, kept, "b.", tensors_b),
        shared,
        tuple(name for name in names_a if name not in shared),
        tuple(private_b.values()),
    )


def shared_names(
    model_a: nn.Module,
    model_b: nn.Module,
    ignore: Iterable[str] = (),
    rename: Callable[[str], str] = lambda name: name,
) -> dict[str, str]:
    """The tensors that two networks have in common: A's name -> B's name, of equal shapes.

    Args:
        ignore: patterns of A's names (`fc.*`) that are not shared.
        rename: B's name -> A's name.
    """
    tensors_a = named_tensors(model_a)
    ignore = tuple(ignore)
    found = {}
    for name_b, tensor in named_tensors(model_b).items():
        name = rename(name_b)
        same = name in tensors_a and tensors_a[name].shape == tensor.shape
        if same and not any(fnmatchcase(name, pattern) for pattern in ignore):
            found[name] = name_b
    return found


def _without_torn_ties(model_a: nn.Module, model_b: nn.Module, shared: Mapping[str, str]) -> dict[str, str]:
    """Shared names without those of a tensor that has several names in one network and not the same in the other."""
    aliases_a, aliases_b = _number_of_names(model_a), _number_of_names(model_b)
    return {a: b for a, b in shared.items() if aliases_a.get(a) == aliases_b.get(b)}


def _number_of_names(model: nn.Module) -> dict[str, int]:
    """First name of a tensor -> under how many names the network has it."""
    first = {id(tensor): name for name, tensor in named_tensors(model).items()}
    count = dict.fromkeys(first.values(), 0)
    for tensor in named_tensors(model, every_name=True).values():
        count[first[id(tensor)]] += 1
    return count


def _share(a: nn.Module, b: nn.Module, shared: Mapping[str, str]) -> None:
    """Put A's shared tensors into B, under all names that they have there."""
    tensors_a = named_tensors(a)
    own = {id(tensor): name for name, tensor in named_tensors(b).items()}
    replacement = {name_b: tensors_a[name_a] for name_a, name_b in shared.items()}
    for module in b.modules():
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                name = own.get(id(tensor)) if isinstance(tensor, Tensor) else None
                if name in replacement:
                    tensors[key] = replacement[name]  # pyright: ignore[reportArgumentType]


def _groups_with_shared_axes(found: PermutationGroups, shared: set[str]) -> list[int]:
    """The numbers of groups that own an axis of a shared tensor, and of the blocks of these groups."""
    has_shared = [any(axis.parameter in shared for axis in group.axes) for group in found]
    families = {group.family for group, has in zip(found, has_shared, strict=True) if has and group.family}
    return [n for n, group in enumerate(found) if has_shared[n] or group.name in families]


def _side(found: PermutationGroups, kept: list[int], prefix: str, tensors: Mapping[str, str]) -> PermutationGroups:
    """The groups of one of both networks.

    Args:
        prefix: "a." or "b.", which the names of this network's modules begin with.
        tensors: name of a tensor in both -> its name in this network.
    """
    names: dict[str, str] = {}
    groups: list[Group] = []
    for number in kept:
        group = found.groups[number]
        first = group.axes[0].parameter if group.axes else f"{group.name}."
        names[group.name] = group_name(first[2:], names.values())
        axes = [replace(axis, parameter=tensors[axis.parameter]) for axis in group.axes if axis.parameter in tensors]
        groups.append(replace(group, name=names[group.name], axes=tuple(axes)))
    groups = [replace(group, family=names[group.family] if group.family else None) for group in groups]
    only = found.keeping(kept, "permuted in no tensor that both networks have")

    def own(by_module: Mapping) -> dict:
        return {name.removeprefix(prefix): value for name, value in by_module.items() if name.startswith(prefix)}

    return PermutationGroups(
        tuple(groups),
        own(only.layers),
        own(only.reads),
        tuple(replace(p, parameter=tensors[p.parameter]) for p in found.pinned if p.parameter in tensors),
        {operator: module[2:] for operator, module in found.unknown.items() if module.startswith(prefix)},
        normalized=frozenset(tensors[name] for name in found.normalized if name in tensors),
    )
