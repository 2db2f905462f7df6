"""Permutations exchanged with other tools: an alignment <-> JSON or safetensors that says which axes each permutation permutes.

write_permutations(alignment, model_b, "ab.json")
alignment = read_permutations("ab.json", model_a, model_b, example_input)                              # of featviz
alignment = read_permutations("rebasin.npz", model_a, model_b, example_input, spec=spec.axes_to_perm)  # Git Re-Basin's
alignment = read_permutations("permutations.json", ..., spec=spec.layer_and_axes_to_perm, fixed="a", permutee="b")  # C2M3's
alignment = read_permutations({"conv1.weight": [2, 0, 1]}, model_a, model_b, example_input)            # of axis 0

A file holds `permutations` {name: vector}, `axes_to_perm` {parameter: [name or null per axis]}, the convention, the method and
its seed, and the digests of both networks; safetensors keep all but the vectors as metadata. So B' is made anywhere by
`b[key] = b[key].index_select(axis, permutations[name])` over all axes (of grouped convolutions, see `axes.py`). Pickles are
never opened.
"""

import json
import math
import warnings
import zipfile
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import nn

from featviz.config.ranges import one_of
from featviz.errors import AlignmentError, OutputError, near_names, shown, summary
from featviz.files import write_atomically
from featviz.matching.alignment import Alignment, PermutationAlignment, check_digest
from featviz.matching.alignment_file import CONVENTION
from featviz.matching.exchange.parameter_axes import AxesToPerm, axes_of_groups, groups_of_axes
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.weight_scores import score_by_weights
from featviz.matching.safetensors_arrays import read_arrays
from featviz.reading import check_file, json_value, open_archive, read_json
from featviz.subjects import Subject, as_subject
from featviz.symmetry.discovery import permutation_groups, private_copy
from featviz.symmetry.verification import TOLERANCE, relative_error
from featviz.weights.checks import check_finite, check_same_architecture, digest
from featviz.weights.tensors import named_tensors

FORMAT, VERSION = "featviz-permutations", 1
INVERSE = "B'[perm[i]] = B[i]"
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".th", ".joblib")
REMEDY = "where you trust it, save its vectors by numpy.savez('perms.npz', **{k: numpy.asarray(v) for k, v in perms.items()})"


def write_permutations(alignment: Alignment, model_b: nn.Module | Subject, path: str | Path) -> Path:
    """Write the permutations for other tools, as .json or .safetensors, by the axes that they permute.

    Scores and margins are left out; `Alignment.save` keeps them, for featviz alone.

    Raises:
        AlignmentError: `model_b` is not the alignment's B, or its units are combined, not permuted.
        OutputError: another suffix, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".json", ".safetensors"):
        raise OutputError(f"{path} is neither .json nor .safetensors: give a name that ends in one of them.")
    perms, model_b = alignment.permutations, as_subject(model_b).model
    check_digest("B", digest(model_b), alignment.digest_b)
    vectors, axes_to_perm = axes_of_groups(alignment.groups_b, perms, model_b)
    header = {"format": FORMAT, "version": VERSION, "convention": CONVENTION}
    header |= {"method": alignment.method, "seed": alignment.seed}
    header |= {"digest_a": alignment.digest_a, "digest_b": alignment.digest_b}
    if path.suffix == ".json":
        content = header | {
            "permutations": {name: vector.tolist() for name, vector in vectors.items()},
            "axes_to_perm": axes_to_perm,
        }
        return write_atomically(path, lambda part: part.write_text(_lines(content)))
    metadata = {key: str(value) for key, value in header.items()} | {"axes_to_perm": json.dumps(axes_to_perm)}
    return write_atomically(path, lambda part: part.write_bytes(save(vectors, metadata=metadata)))


def read_permutations(
    source: str | Path | Mapping[str, Any],
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    example_input: object,
    *,
    spec: AxesToPerm | None = None,
    convention: str | None = None,
    fixed: str | None = None,
    permutee: str | None = None,
) -> PermutationAlignment:
    """The alignment that a file or a dictionary of permutations states, checked against the networks' own symmetry.

    Args:
        source: a .json, .safetensors or .npz file, or its content: what `write_permutations` wrote, {name: vector} with `spec`,
            {parameter: permutation of its axis 0}, or C2M3's {fixed: {permutee: {name: vector or None}}}.
        example_input: as for `align`.
        spec: parameter -> one name or None per axis, Git Re-Basin's `axes_to_perm` and C2M3's `layer_and_axes_to_perm`. The
            parameters' names are the network's own, or the same in flax's spelling (`layer1/0/conv1/kernel`).
        convention: "B'[i] = B[perm[i]]" (the default, Git Re-Basin's and C2M3's) or "B'[perm[i]] = B[i]", its inverse.
        fixed, permutee: which two of C2M3's networks are A and B.

    Returns:
        An alignment whose scores and margins are those of the weights. Units for which nothing is stated stay at their places,
        and a warning names their groups.

    Raises:
        AlignmentError: a file that is none of these; other networks than the file's; permutations that contradict each other or
            are no symmetry of the network.
        ModelError: the networks differ in architecture, or do not run on the example.
    """
    if not isinstance(source, str | Path | Mapping):
        raise AlignmentError(f"the permutations are {shown(source)}: give the path of a file, or a dictionary by name.")
    content = _content(Path(source)) if isinstance(source, str | Path) else dict(source)
    where = str(source) if isinstance(source, str | Path) else "the dictionary"
    model_a, model_b = as_subject(model_a).model, as_subject(model_b).model
    check_same_architecture(model_a, model_b)
    for name, model in (("model A", model_a), ("model B", model_b)):
        check_finite(model, name)
    digests, method, seed = (digest(model_a), digest(model_b)), "given", 0
    if content.get("format") == FORMAT:
        if spec is not None or not (convention is None or one_of(convention, (str(content.get("convention")),))):
            raise AlignmentError(f"{where} states its own axes and convention: leave spec and convention out.")
        vectors, spec, convention, method, seed, *wanted = _own(content, where)
        for which, found, want in zip("AB", digests, wanted, strict=True):
            check_digest(which, found, want)
    else:
        vectors = _pair(content, where, fixed, permutee)
        spec = _on_axis_0(vectors, model_a) if spec is None else spec
    if not isinstance(spec, Mapping):
        raise AlignmentError(
            f"spec is a {type(spec).__name__}: give the dictionary in it, parameter -> a name per axis."
        )
    inverse = _is_inverse(convention)
    groups = permutation_groups(model_a, example_input)
    perms, left = groups_of_axes(groups, vectors, spec, model_a)
    if inverse:
        perms = {name: np.argsort(perm) for name, perm in perms.items()}
    error = relative_error(*private_copy(model_b, example_input, torch.float64), groups, perms)
    if error > TOLERANCE:
        raise AlignmentError(
            f"model B permuted as {where} says computes another function (relative error {error:.1e}), though A would not: "
            "give two networks that differ in their weights alone."
        )
    if left:
        warnings.warn(f"{where} states nothing for these groups, whose units stay: {', '.join(left)}.", stacklevel=2)
    matching = score_by_weights(ComparedWeights(model_a, model_b, groups), groups, perms)
    return PermutationAlignment(groups, method, seed, *digests, matching)


def _content(path: Path) -> dict[str, Any]:
    """What a file holds, by its suffix."""
    if path.suffix in PICKLES:
        raise AlignmentError(
            f"{path} is a pickle, which runs code when it is opened, and featviz opens none: {REMEDY}."
        )
    if path.suffix not in _READERS:
        raise AlignmentError(f"{path} is of no format that featviz reads: give a .json, .safetensors or .npz file.")
    if not path.is_file():
        raise AlignmentError(f"there is no file {path}: give the path of a .json, .safetensors or .npz file.")
    try:
        content = _READERS[path.suffix](path)
    except Exception as error:  # a damaged archive raises whatever its remains lead to
        raise AlignmentError(
            f"{path} is damaged or holds more than plain arrays ({summary(error)}): {REMEDY}."
        ) from error
    if not isinstance(content, dict):
        raise AlignmentError(f"{path} holds a {type(content).__name__}: give a dictionary of permutations by name.")
    return content


def _from_safetensors(path: Path) -> dict[str, Any]:
    vectors, metadata = read_arrays(path)
    if metadata.get("format") != FORMAT:
        return vectors
    return metadata | {"permutations": vectors, "axes_to_perm": json_value(metadata["axes_to_perm"])}


def _from_npz(path: Path) -> dict[str, Any]:
    check_file(path)
    if not zipfile.is_zipfile(path):
        raise ValueError("no archive of numpy.savez")
    with open_archive(path) as archive:
        return {entry.filename.removesuffix(".npy"): _array_of(archive, entry) for entry in archive.infolist()}


def _array_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """An array of an archive; its header must state as many bytes as are there, since NumPy allocates what is stated."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, _, dtype = read_header(file)
        if math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{entry.filename} states shape {shape} and has {entry.file_size} bytes")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".json": read_json,
    ".safetensors": _from_safetensors,
    ".npz": _from_npz,
}


def _own(content: Mapping[str, Any], where: str) -> tuple[dict, dict, str, str, int, str, str]:
    """Vectors, axes, convention, method, seed and both digests of a file of `write_permutations`."""
    if str(content.get("version")) != str(VERSION):
        raise AlignmentError(
            f"{where} is of version {shown(content.get('version'))}, and this featviz reads {VERSION}: update it."
        )
    try:
        vectors, axes = dict(content["permutations"]), dict(content["axes_to_perm"])
        stated = (
            content["convention"],
            content["method"],
            int(content["seed"]),
            content["digest_a"],
            content["digest_b"],
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AlignmentError(f"{where} is incomplete ({error!r}): write it again by write_permutations.") from error
    if not all(isinstance(one, int if at == 2 else str) for at, one in enumerate(stated)):
        raise AlignmentError(f"{where} states {shown(stated)} for its method and networks: write it again.")
    return vectors, axes, *stated


def _pair(content: Mapping[str, Any], where: str, fixed: str | None, permutee: str | None) -> Mapping[str, Any]:
    """The vectors of one pair of networks, of a file with one pair or of C2M3's with all."""
    if not any(isinstance(inner, Mapping) for inner in content.values()):
        if fixed is not None or permutee is not None:
            raise AlignmentError(f"{where} holds the permutations of one pair: leave fixed and permutee out.")
        return content
    pairs: dict[tuple[str | None, str | None], Mapping[str, Any]] = {
        (one, other): vectors
        for one, inner in content.items()
        for other, vectors in (inner.items() if isinstance(inner, Mapping) else ())
        if isinstance(vectors, Mapping)
    }
    if not isinstance(fixed, str | None) or not isinstance(permutee, str | None) or (fixed, permutee) not in pairs:
        known = ", ".join(f"({shown(one)}, {shown(other)})" for one, other in islice(pairs, 10)) or "none"
        raise AlignmentError(
            f"{where} has no permutations for fixed={shown(fixed)} and permutee={shown(permutee)}: choose one of its pairs, "
            f"{known}."
        )
    return pairs[fixed, permutee]


def _on_axis_0(vectors: Mapping[str, Any], model: nn.Module) -> AxesToPerm:
    """The spec of vectors that are named after the parameters whose axis 0 they permute."""
    known = named_tensors(model, every_name=True)
    for name in vectors:
        if name not in known:
            raise AlignmentError(
                f"{shown(name)} is no parameter of the network: give spec, the axes that every name permutes (Git Re-Basin's "
                f"axes_to_perm), or a parameter's name; {near_names(name if isinstance(name, str) else shown(name), known)}"
            )
    return {name: (name,) for name in vectors}


def _is_inverse(convention: str | None) -> bool:
    if convention is not None and not one_of(convention, (CONVENTION, INVERSE)):
        stated = convention if isinstance(convention, str) else shown(convention)
        raise AlignmentError(f'there is no convention "{stated}": write "{CONVENTION}" or "{INVERSE}".')
    return convention == INVERSE


def _lines(content: Mapping[str, Any]) -> str:
    """JSON with a line for every vector and every parameter."""

    def of(value: object) -> str:
        if not isinstance(value, Mapping):
            return json.dumps(value)
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(inner)}" for key, inner in value.items()) + "\n }"

    return "{\n" + ",\n".join(f" {json.dumps(key)}: {of(value)}" for key, value in content.items()) + "\n}\n"
