"""An alignment: the permutation of every group of B into A's basis, with everything needed to use it again.

two models, example input -> `Alignment` -> B', the unit indexer, a safetensors file.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from featviz.config import METHODS, METHODS_ON_DATA, MIXINGS, AlignConfig
from featviz.data import Data
from featviz.errors import AlignmentError
from featviz.files import write_atomically
from featviz.matching.activations import match_activations
from featviz.matching.assignment import Floats, Matching
from featviz.matching.baselines import match_identity, match_random
from featviz.matching.indexer import UnitIndexer
from featviz.matching.linear.merge import PARENTS, Mixing
from featviz.matching.linear.methods import combine
from featviz.matching.sinkhorn import match_sinkhorn
from featviz.matching.weights import match_weights
from featviz.model_checks import check_finite, check_same_architecture, digest
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.groups import Group, GroupAxis, Index, LayerUnits, PermutationGroups, Pinned
from featviz.symmetry.permute import permute_module

CONVENTION = "B'[i] = B[perm[i]]"
Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Alignment:
    """B's units in A's order. `permutations[group][i]` is B's unit at A's place i: B'[i] = B[perm[i]].

    `digest_a` and `digest_b` say which two networks it belongs to; `objectives` what each start of the matching reached.
    Methods that combine units linearly have a `mixing` in place of permutations; `scores` then say how far A's and B's parts of
    each merged unit correlate.
    """

    groups: PermutationGroups
    matching: Matching
    method: str
    seed: int
    digest_a: str
    digest_b: str
    mixing: Mixing | None = None

    @property
    def permutations(self) -> Mapping[str, Index]:
        self._only_permutations("permutations")
        return self.matching.perms

    @property
    def scores(self) -> Mapping[str, Floats]:
        return self.matching.scores

    @property
    def margins(self) -> Mapping[str, Floats]:
        return self.matching.margins

    @cached_property
    def indexer(self) -> UnitIndexer:
        return UnitIndexer(self.groups, self.matching, self.mixing)

    def permute(self, model_b: nn.Module) -> nn.Module:
        """B': a copy of `model_b` with its units in A's order. It computes the same function as `model_b`.

        Raises:
            AlignmentError: `model_b` is not the B of this alignment, or its units are not permuted but combined.
        """
        self._only_permutations("a permuted B")
        check_digest("B", digest(model_b), self.digest_b)
        return permute_module(model_b, self.groups, self.permutations)

    def check(self, model_a: nn.Module, model_b: nn.Module) -> None:
        """Make sure that this alignment belongs to these two networks.

        Raises:
            AlignmentError: a digest differs.
        """
        check_digest("A", digest(model_a), self.digest_a)
        check_digest("B", digest(model_b), self.digest_b)

    def _only_permutations(self, what: str) -> None:
        if self.mixing is not None:
            raise AlignmentError(
                f"method {self.method!r} combines units and has no {what}: ask for indexer.members, or align by 'activations'."
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: permutations, scores, margins, groups and layers; metadata names the convention.

        Raises:
            OutputError: the place cannot be written.
        """
        arrays, structure = _flatten(self)
        header = {"format": "featviz.alignment", "featviz": version("featviz"), "convention": CONVENTION}
        header |= {"method": self.method, "seed": str(self.seed), "digest_a": self.digest_a, "digest_b": self.digest_b}
        metadata = header | {"structure": json.dumps(structure)}
        write_atomically(path, lambda part: save_file(arrays, part, metadata=metadata))


def align(
    model_a: nn.Module,
    model_b: nn.Module,
    example_input: object,
    method: str = AlignConfig.method,
    data: Data | None = None,
    seed: int = AlignConfig.seed,
    restarts: int = AlignConfig.restarts,
    verify: bool = True,
    progress: Callable[[int, int], None] | None = None,
    options: AlignConfig = AlignConfig(),  # noqa: B008 (frozen)
) -> Alignment:
    """Find which of B's units stand for which of A's: a permutation of every group, or linear combinations.

    Args:
        model_a, model_b: networks of one architecture; both are left as they were.
        example_input: a batch (one example is enough), or a tuple of arguments, on which the network runs.
        method: permutations of B by "weights" (coordinate descent, no data needed), "activations" (correlation on `data`),
            "inner" (inner product on `data`), "sinkhorn" (soft permutations, from weight matching's), or the controls
            "identity" and "random"; "zipit", "cca" and "ot" merge linear combinations of units (`mixing.py`).
        data: batches `x` or `(x, label)`, as the networks expect them; needed by "activations", "inner" and the combinations.
            Weight matching, where it gets data, starts from activation matching as well.
        seed, restarts: of weight matching's starts; the best objective is kept. `seed` draws method "random", too.
        verify: prove the permutation groups on a float64 copy before they are used.
        progress: called with (done, total); total 0 where it is not known.
        options: everything else of a method: `sweeps` and `tolerance` of "weights", `soft_*` of "sinkhorn", `alpha` and `beta`
            of "zipit", `gamma` of "cca", `entropy` of "ot". Its method, seed and restarts do not count.

    Raises:
        ModelError: the models differ in architecture, or hold NaN or Inf.
        AlignmentError: unknown method, no data where data is needed, or units that the method cannot combine.
    """
    if method not in METHODS:
        raise AlignmentError(
            f"there is no method {method!r}: use {', '.join(map(repr, METHODS[:-1]))} or {METHODS[-1]!r}."
        )
    if method in METHODS_ON_DATA and data is None:
        raise AlignmentError(f"method {method!r} compares units on data: give data=..., or use method='weights'.")
    check_same_architecture(model_a, model_b)
    for name, model in (("model A", model_a), ("model B", model_b)):
        check_finite(model, name)
    groups = permutation_groups(model_a, example_input, verify=verify)
    digests = digest(model_a), digest(model_b)
    if method in MIXINGS:
        assert data is not None
        mixing, scores = combine(model_a, model_b, groups, method, data, options, progress)
        return Alignment(groups, Matching({}, scores, {}), method, seed, *digests, mixing)
    config = replace(options, method=method, seed=seed, restarts=restarts)
    matching = _MATCHERS[method](model_a, model_b, groups, config, data, progress)
    return Alignment(groups, matching, method, seed, *digests)


def _weights(
    model_a: nn.Module,
    model_b: nn.Module,
    groups: PermutationGroups,
    config: AlignConfig,
    data: Data | None,
    progress: Progress,
) -> Matching:
    start = match_activations(model_a, model_b, groups, data, progress).perms if data is not None else None
    return match_weights(model_a, model_b, groups, config, progress, start)


# method -> matching of (model A, model B, groups, config, data, progress)
_MATCHERS: Mapping[str, Callable[..., Matching]] = {
    "weights": _weights,
    "activations": lambda a, b, groups, _, data, progress: match_activations(a, b, groups, data, progress),
    "inner": lambda a, b, groups, _, data, progress: match_activations(a, b, groups, data, progress, "inner"),
    "sinkhorn": lambda a, b, groups, config, _, progress: match_sinkhorn(a, b, groups, config, progress),
    "identity": lambda a, b, groups, *_: match_identity(a, b, groups),
    "random": lambda a, b, groups, config, *_: match_random(a, b, groups, config.seed),
}


def check_digest(which: str, found: str, wanted: str) -> None:
    """Raise AlignmentError where the digest of model A or B (`which`) is not the one that was wanted."""
    if found != wanted:
        raise AlignmentError(
            f"this alignment belongs to another model {which} (digest {wanted[:12]}, the model at hand has {found[:12]}): "
            "align these two models, or give the checkpoints that it was made from."
        )


def load_alignment(path: str | Path) -> Alignment:
    """Read what `Alignment.save` wrote.

    Raises:
        AlignmentError: there is no such file, it is damaged, or it is no alignment.
    """
    path = Path(path)
    if not path.is_file():
        raise AlignmentError(f"there is no alignment file {path}: make one with `featviz align`.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AlignmentError(f"{path} is damaged or no safetensors file ({error}): make it again.") from error
    if metadata.get("format") != "featviz.alignment" or metadata.get("convention") != CONVENTION:
        raise AlignmentError(
            f"{path} is a safetensors file but no alignment of featviz: make one with `featviz align`."
        )
    try:
        groups, matching, mixing = _unflatten(arrays, json.loads(metadata["structure"]))
    except (KeyError, TypeError, ValueError) as error:
        raise AlignmentError(f"{path} was written by another version of featviz: make it again.") from error
    return Alignment(
        groups, matching, metadata["method"], int(metadata["seed"]), metadata["digest_a"], metadata["digest_b"], mixing
    )


def _flatten(alignment: Alignment) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays by key, and everything else as JSON."""
    groups, matching = alignment.groups, alignment.matching
    arrays: dict[str, np.ndarray] = {}
    described = []
    for group in groups:
        axes = []
        for number, axis in enumerate(group.axes):
            arrays[f"index/{group.name}/{number}"] = axis.index
            axes.append({"parameter": axis.parameter, "axis": axis.axis, "blocks": axis.blocks})
        for kind, values in (("permutation", matching.perms), ("score", matching.scores), ("margin", matching.margins)):
            if group.name in values:
                arrays[f"{kind}/{group.name}"] = values[group.name]
        if alignment.mixing is not None:
            for number, parent in enumerate(PARENTS):
                arrays[f"merge/{parent}/{group.name}"] = alignment.mixing.merge[group.name][number]
                arrays[f"split/{parent}/{group.name}"] = alignment.mixing.split[group.name][number]
        described.append(
            {"name": group.name, "size": group.size, "axes": axes, "blocks": group.blocks, "family": group.family}
        )
    sites = {}
    for role, layers in (("layers", groups.layers), ("reads", groups.reads)):
        sites[role] = {name: [units.width, units.axis] for name, units in layers.items()}
        for name, units in layers.items():
            arrays[f"{role}/{name}"] = np.stack([units.group, units.element]).astype(np.int32)
    return {key: np.ascontiguousarray(array) for key, array in arrays.items()}, {
        "groups": described,
        "sites": sites,
        "pinned": [asdict(pin) for pin in groups.pinned],
        "unknown": dict(groups.unknown),
        "objectives": list(matching.objectives),
        "mixing": alignment.mixing is not None,
    }


def _unflatten(arrays: dict[str, np.ndarray], structure: dict) -> tuple[PermutationGroups, Matching, Mixing | None]:
    groups = []
    for entry in structure["groups"]:
        axes = [
            GroupAxis(index=arrays[f"index/{entry['name']}/{number}"], **axis)
            for number, axis in enumerate(entry["axes"])
        ]
        groups.append(Group(entry["name"], entry["size"], tuple(axes), entry["blocks"], entry["family"]))
    layers, reads = (
        {
            name: LayerUnits(width, axis, *arrays[f"{role}/{name}"].astype(np.int64))
            for name, (width, axis) in structure["sites"][role].items()
        }
        for role in ("layers", "reads")
    )
    pinned = tuple(Pinned(**pin) for pin in structure["pinned"])
    named = [group.name for group in groups]
    mixes = structure.get("mixing", False)  # files of earlier versions hold permutations
    kinds = (("permutation", not mixes), ("score", True), ("margin", not mixes))
    perms, scores, margins = ({name: arrays[f"{kind}/{name}"] for name in named if wanted} for kind, wanted in kinds)
    matching = Matching(perms, scores, margins, tuple(structure["objectives"]))
    mixing = None
    if mixes:
        merge, split = (
            {name: (arrays[f"{kind}/A/{name}"], arrays[f"{kind}/B/{name}"]) for name in named}
            for kind in ("merge", "split")
        )
        mixing = Mixing(merge, split)
    return PermutationGroups(tuple(groups), layers, reads, pinned, structure["unknown"]), matching, mixing
