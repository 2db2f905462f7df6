"""Two networks that differ: which parts they share, and which belong to one of them alone.

A's and B's parameters and buffers of equal name and shape are shared, all others are private: heads of other class counts,
extra modules, what `ignore` names. Units are matched by what is shared; a private tensor moves along the axes that it shares
with the groups, so that B permuted computes the same function as B.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from torch import nn

from featviz.errors import ModelError, near_names
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.groups import LayerUnits, PermutationGroups
from featviz.symmetry.shared_groups import SharedGroups, shared_groups, shared_names
from featviz.weights.tensors import named_tensors

log = logging.getLogger("featviz.matching")
Rename = Mapping[str, str] | Callable[[str], str] | None


class Private(NamedTuple):
    """Names of the parameters and buffers that belong to A alone and to B alone, each by its own names."""

    a: tuple[str, ...]
    b: tuple[str, ...]


def find_groups(
    model_a: nn.Module,
    model_b: nn.Module,
    example_input: object,
    ignore: Iterable[str] = (),
    rename: Rename = None,
    verify: bool = True,
    free_outputs: bool = False,
) -> tuple[PermutationGroups, SharedGroups | None]:
    """The groups of A, and what A and B share; None where they are of one architecture and nothing is ignored or renamed.

    Args:
        ignore: patterns of A's or B's names that are private although they are alike, `fc.*`.
        rename: B's names (of parameters or of modules) -> A's, or a function of B's name.
        verify, free_outputs: as in `permutation_groups`.

    Raises:
        ModelError: no parameter in common, no interchangeable units in common, `ignore` or `rename` with names that are not
            there, or two names that become one.
    """
    ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    if rename is None and not ignore and _shapes(model_a) == _shapes(model_b):
        return permutation_groups(model_a, example_input, verify=verify, free_outputs=free_outputs), None
    renamed = _renamed(model_b, rename)
    names = [*_shapes(model_a), *renamed, *renamed.values()]
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ModelError(f"ignore has {pattern!r}, which is no parameter of A or B: {near_names(pattern, names)}")
    private_b = {name for name in renamed if any(fnmatchcase(name, pattern) for pattern in ignore)}
    shared = {
        a: b for a, b in shared_names(model_a, model_b, ignore, renamed.__getitem__).items() if b not in private_b
    }
    if not any(name in dict(model_a.named_parameters()) for name in shared):
        raise ModelError(_nothing_in_common(model_a, model_b))
    parts = shared_groups(model_a, model_b, example_input, shared=shared, verify=verify, free_outputs=free_outputs)
    if not any(group.axes for group in groups_for_matching(parts)):
        raise ModelError(_no_units_in_common(model_a, model_b, shared, renamed))
    private = Private(parts.private_a, parts.private_b)
    for which, own in zip("AB", private, strict=True):
        if own:
            log.warning("private to %s, and not matched: %s.", which, ", ".join(own))
    if suggestion := _same_shapes_in_order(model_a, private.a, model_b, private.b):
        log.warning(
            "the private parameters have equal shapes in this order; if they are the same, give %s.", suggestion
        )
    return parts.a, parts


def module_names_in_b(parts: SharedGroups | None) -> dict[str, str]:
    """Names of modules with shared tensors: A's -> B's, where they differ."""
    pairs = {} if parts is None else parts.shared
    modules = {a.rpartition(".")[0]: b.rpartition(".")[0] for a, b in pairs.items()}
    return {a: b for a, b in modules.items() if a != b}


def groups_for_matching(parts: SharedGroups) -> PermutationGroups:
    """A's groups with the axes of shared tensors only, and the modules only at which both networks show the same units."""
    groups = tuple(
        replace(group, axes=tuple(axis for axis in group.axes if axis.parameter in parts.shared)) for group in parts.a
    )
    return replace(
        parts.a,
        groups=groups,
        layers=_alike(parts.a.layers, parts.b.layers, parts),
        reads=_alike(parts.a.reads, parts.b.reads, parts),
    )


def _alike(
    units_a: Mapping[str, LayerUnits], units_b: Mapping[str, LayerUnits], parts: SharedGroups
) -> dict[str, LayerUnits]:
    """The modules of A whose units are those of the same module of B. Units that may not move have to be shared, too."""
    modules = module_names_in_b(parts)
    owners = {name.rpartition(".")[0] for name in parts.private_a}
    found = {}
    for name, units in units_a.items():
        other = units_b.get(modules.get(name, name))
        if other is None or (units.width, units.axis) != (other.width, other.axis):
            continue
        if name in owners and (units.group < 0).all():
            continue  # outputs of a private module
        if np.array_equal(units.group, other.group) and np.array_equal(units.element, other.element):
            found[name] = units
    return found


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}


def _renamed(model_b: nn.Module, rename: Rename) -> dict[str, str]:
    """B's name -> A's, for every parameter and buffer of B."""
    names = list(named_tensors(model_b))
    if rename is None:
        return {name: name for name in names}
    if isinstance(rename, Mapping):
        for key in rename:
            if not any(name == key or name.startswith(f"{key}.") for name in names):
                raise ModelError(f"rename has {key!r}, which is no name in B: {near_names(str(key), names)}")
        longest = sorted(rename, key=len, reverse=True)

        def to_a(name: str) -> str:
            key = next((key for key in longest if name == key or name.startswith(f"{key}.")), None)
            return name if key is None else rename[key] + name[len(key) :]

        found = {name: to_a(name) for name in names}
    else:
        found = {name: rename(name) for name in names}
    origin: dict[str, str] = {}
    for name, new in found.items():
        if not isinstance(new, str):
            raise ModelError(f"rename makes {new!r} of B's {name}: give A's name, a text.")
        if new in origin:
            raise ModelError(f"rename makes {new} of both {origin[new]} and {name} of B: give each a name of its own.")
        origin[new] = name
    return found


def _nothing_in_common(model_a: nn.Module, model_b: nn.Module) -> str:
    names_a, names_b = list(named_tensors(model_a)), list(named_tensors(model_b))
    start = (
        "the networks have no parameter of one name and shape in common "
        f"(A begins with {', '.join(names_a[:2])}, B with {', '.join(names_b[:2])})"
    )
    suggestion = _same_shapes_in_order(model_a, names_a, model_b, names_b)
    if suggestion:
        return f"{start}, but their shapes agree in this order: give {suggestion} if they are the same network."
    return f"{start}: give two networks that share layers, or rename={{name in B: name in A}}."


def _no_units_in_common(
    model_a: nn.Module, model_b: nn.Module, shared: Mapping[str, str], renamed: Mapping[str, str]
) -> str:
    shapes_a, shapes_b = _shapes(model_a), {renamed[name]: shape for name, shape in _shapes(model_b).items()}
    differ = [name for name in shapes_a if name in shapes_b and shapes_a[name] != shapes_b[name]]
    where = (
        f"the models differ at {differ[0]}, {shapes_a[differ[0]]} in A and {shapes_b[differ[0]]} in B, and"
        if differ
        else f"the models have {', '.join(list(shared)[:3])} in common, but"
    )
    return f"{where} share no interchangeable units: give two networks with hidden layers in common."


def _same_shapes_in_order(
    model_a: nn.Module, names_a: Iterable[str], model_b: nn.Module, names_b: Iterable[str], most: int = 4
) -> str:
    """`rename={...}` where the tensors named have equal shapes in order and other names; else nothing."""
    shapes_a, shapes_b = _shapes(model_a), _shapes(model_b)
    pairs = list(zip(names_a, names_b, strict=False))
    same = [shapes_a[a] for a in names_a] == [shapes_b[b] for b in names_b]
    if not pairs or not same or any(a == b for a, b in pairs):
        return ""
    modules = dict.fromkeys((b.rpartition(".")[0] or b, a.rpartition(".")[0] or a) for a, b in pairs)
    shown = [f"{b!r}: {a!r}" for b, a in list(modules)[:most]]
    return "rename={" + ", ".join(shown) + (", ...}" if len(modules) > most else "}")
