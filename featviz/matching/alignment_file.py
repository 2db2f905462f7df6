"""The file of an alignment: groups, layers and arrays by group <-> one safetensors file.

Arrays: `index/GROUP/k` (what the units own on the group's k-th axis), `layers/MODULE` and `reads/MODULE` (group and element of
every unit), the same of B under `b/` where the networks differ, and what the kind of alignment adds under names `KIND/GROUP`.
Metadata: format, convention, method, seed, digests of both networks, and as JSON everything that is not an array.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from featviz.errors import AlignmentError
from featviz.files import write_atomically
from featviz.matching.safetensors_arrays import read_arrays
from featviz.matching.stored_groups import check_groups, check_shared
from featviz.reading import json_value
from featviz.symmetry.groups import Group, GroupAxis, LayerUnits, PermutationGroups, Pinned
from featviz.symmetry.shared_groups import SharedGroups
from featviz.version import __version__

CONVENTION = "B'[i] = B[perm[i]]"
FORMAT = "featviz.alignment"
Arrays = dict[str, np.ndarray]


def write_alignment_file(
    path: str | Path,
    groups: PermutationGroups | SharedGroups,
    header: Mapping[str, str],
    arrays: Arrays,
    structure: Mapping[str, Any],
) -> None:
    """Write atomically; `arrays` and `structure` are added to those of the groups, `header` to the metadata.

    Args:
        groups: of both networks; where these differ, what they share.

    Raises:
        OutputError: it cannot be written there.
    """
    own, described = _flatten_groups(groups if isinstance(groups, PermutationGroups) else groups.a)
    if isinstance(groups, SharedGroups):
        others, described["groups_of_b"] = _flatten_groups(groups.b)
        own |= {f"b/{key}": array for key, array in others.items()}
        described["shared"] = dict(groups.shared)
        described["private"] = [groups.private_a, groups.private_b]
    arrays = {key: np.ascontiguousarray(array) for key, array in {**own, **arrays}.items()}
    metadata = {"format": FORMAT, "featviz": __version__, "convention": CONVENTION, **header}
    metadata["structure"] = json.dumps(described | dict(structure))
    write_atomically(path, lambda part: part.write_bytes(save(arrays, metadata=metadata)))


def read_alignment_file(
    path: str | Path,
) -> tuple[PermutationGroups | SharedGroups, dict[str, str], Arrays, dict[str, Any]]:
    """Groups, metadata, all arrays and the structure of a file, also of one that an earlier version wrote.

    Raises:
        AlignmentError: there is no such file, it is damaged, its groups included, or it is no alignment.
    """
    path = Path(path)
    if not path.is_file():
        raise AlignmentError(f"there is no alignment file {path}: make one with `featviz align`.")
    try:
        arrays, metadata = read_arrays(path)
    except (ValueError, OSError) as error:
        raise AlignmentError(f"{path} is damaged or no safetensors file ({error}): make it again.") from error
    if metadata.get("format") != FORMAT or metadata.get("convention") != CONVENTION:
        raise AlignmentError(
            f"{path} is a safetensors file but no alignment of featviz: make one with `featviz align`."
        )
    try:
        structure = json_value(metadata["structure"])
        groups = _unflatten_groups(arrays, structure)
        check_groups(groups)
        if "groups_of_b" in structure:
            arrays_b = {key.removeprefix("b/"): array for key, array in arrays.items() if key.startswith("b/")}
            groups_b = _unflatten_groups(arrays_b, structure["groups_of_b"])
            check_groups(groups_b)
            shared, (private_a, private_b) = structure["shared"], structure["private"]
            groups = SharedGroups(groups, groups_b, shared, tuple(private_a), tuple(private_b))
            check_shared(groups)
    except KeyError as error:
        raise AlignmentError(f"{path} lacks {error}, so another version of featviz wrote it: make it again.") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise AlignmentError(f"{path} is damaged ({error}): make it again.") from error
    return groups, metadata, arrays, structure


def _flatten_groups(groups: PermutationGroups) -> tuple[Arrays, dict[str, Any]]:
    """Arrays by key, and everything else as JSON."""
    arrays: Arrays = {}
    described = []
    for group in groups:
        axes = []
        for number, axis in enumerate(group.axes):
            arrays[f"index/{group.name}/{number}"] = axis.index
            axes.append({"parameter": axis.parameter, "axis": axis.axis, "blocks": axis.blocks})
        described.append(
            {"name": group.name, "size": group.size, "axes": axes, "blocks": group.blocks, "family": group.family}
        )
    sites = {}
    for role, layers in (("layers", groups.layers), ("reads", groups.reads)):
        sites[role] = {name: [units.width, units.axis, units.reason] for name, units in layers.items()}
        for name, units in layers.items():
            arrays[f"{role}/{name}"] = np.stack([units.group, units.element]).astype(np.int32)
    outputs = []
    for number, units in enumerate(groups.outputs):
        outputs.append(None if units is None else [units.width, units.axis, units.reason])
        if units is not None:
            arrays[f"outputs/{number}"] = np.stack([units.group, units.element]).astype(np.int32)
    structure = {"groups": described, "sites": sites, "outputs": outputs, "unknown": dict(groups.unknown)}
    structure["normalized"] = sorted(groups.normalized)
    return arrays, structure | {"pinned": [asdict(pin) for pin in groups.pinned]}


def _unflatten_groups(arrays: Arrays, structure: dict[str, Any]) -> PermutationGroups:
    groups = []
    for entry in structure["groups"]:
        axes = [
            GroupAxis(index=arrays[f"index/{entry['name']}/{number}"], **axis)
            for number, axis in enumerate(entry["axes"])
        ]
        groups.append(Group(entry["name"], entry["size"], tuple(axes), entry["blocks"], entry["family"]))
    layers, reads = (
        {name: _layer_units(arrays[f"{role}/{name}"], *written) for name, written in structure["sites"][role].items()}
        for role in ("layers", "reads")
    )
    pinned = tuple(Pinned(**pin) for pin in structure["pinned"])
    outputs = tuple(
        None if written is None else _layer_units(arrays[f"outputs/{number}"], *written)
        for number, written in enumerate(structure.get("outputs", ()))  # files of earlier versions have none
    )
    normalized = frozenset(structure.get("normalized", ()))  # files of earlier versions have none
    return PermutationGroups(tuple(groups), layers, reads, pinned, structure["unknown"], outputs, normalized)


def _layer_units(array: np.ndarray, width: int, axis: int, reason: str = "") -> LayerUnits:
    """Units from their array (2, width) of groups and elements; files of earlier versions know no reason."""
    group, element = array.astype(np.int64)
    return LayerUnits(width, axis, group, element, reason)
