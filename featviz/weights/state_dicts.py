"""From what a checkpoint file holds to the weights of one network: which of its entries, under which names.

Trainers keep weights under a name of their own (`state_dict`, `model`, `ema`, ...), often with a prefix before every key
(`module.` of DataParallel, `model.` of Lightning, `_orig_mod.` of torch.compile, `encoder_q.` of two networks trained at once).
No list of such names is needed: an entry is a set of weights if its values are tensors, and a prefix is whatever makes all
names of the network appear.

    {"epoch": 3, "model": {"module.conv.weight": ...}, "model_ema": {...}}    holds two entries, "model" and "model_ema"
    match_network(model, entries)    # -> the weights of the one that fits, or one sentence that says what does not
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from featviz.errors import CheckpointError, near_names
from featviz.weights.checks import BATCH_COUNTER, counted_names, first_names, missing_names

# Entries of training state, which hold tensors but no weights.
TRAINING_STATE = ("optim", "sched", "scaler", "callback", "loops", "hyper", "rng", "mask", "config", "args")
PROFILER_KEYS = ("total_ops", "total_params")  # written by thop beside the weights of every module
DEPTH = 3  # how deep entries are looked for


@dataclass(frozen=True)
class Entry:
    """A set of weights in a file: `key` leads to it ("ema/shadow"; "" where the file holds nothing else)."""

    key: str
    weights: dict[str, Tensor]
    ignored: tuple[str, ...] = ()  # names beside the weights whose values are no tensors


@dataclass(frozen=True)
class _Fit:
    """An entry whose names, `prefix` stripped and the network's own prefix `outer` added, are those of the network."""

    entry: Entry
    prefix: str
    outer: str

    @property
    def key(self) -> str:
        """What `key=` has to be to choose this one."""
        return "/".join(filter(None, (self.entry.key, self.prefix.rstrip("."))))


def find_entries(content: object, key: str = "", depth: int = DEPTH) -> list[Entry]:
    """All sets of weights in a file's content; those within others' values before those beside other values."""
    if isinstance(content, (list, tuple)):
        if len(content) == 1:
            return find_entries(content[0], key, depth)
        content = {str(number): value for number, value in enumerate(content) if isinstance(value, Mapping)}
    if not isinstance(content, Mapping):
        return []
    named = {str(name): value for name, value in content.items()}
    if named.keys() >= {"state", "param_groups"}:  # an optimizer
        return []
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    others = tuple(name for name in named if name not in tensors)
    if tensors and not others:
        return [Entry(key, tensors)] if any(value.dim() for value in tensors.values()) else []
    found = []
    for name, value in named.items() if depth else ():
        if not any(word in name.lower() for word in TRAINING_STATE):
            found += find_entries(value, f"{key}/{name}" if key else name, depth - 1)
    if not found and len(tensors) > len(others) and any(value.dim() for value in tensors.values()):
        return [Entry(key, tensors, others)]
    return found


def only_entry(entries: Sequence[Entry], key: str | None) -> Entry:
    """The entry of that key, or the one that there is.

    Raises:
        CheckpointError: there are several, or none of that key.
    """
    named = {entry.key: entry for entry in entries}
    if key is not None and key not in named:
        raise CheckpointError(f"holds no weights under {key!r}, {near_names(key, named)}")
    if key is None and len(entries) > 1:
        raise CheckpointError(_choice(list(named)))
    return entries[0] if key is None else named[key]


def match_network(
    model: nn.Module, entries: Sequence[Entry], key: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Find the weights of `model` among the entries of a file.

    Args:
        entries: at least one.
        key: of an entry, a prefix of names in an entry, or both, as "state_dict/student"; None: whatever fits.

    Returns:
        The weights by the names of the network, and what was changed or left out on the way, one sentence each.

    Raises:
        CheckpointError: several fit, or none; the sentence lacks its subject, the file.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    common = _common_prefix(shapes)
    fitting: list[_Fit] = []
    for outer in ("", common) if common else ("",):
        inner = {name.removeprefix(outer): shape for name, shape in shapes.items()}
        fitting = fitting or [
            _Fit(entry, prefix, outer) for entry in entries for prefix in _prefixes(entry.weights, inner)
        ]
    if key is not None:
        chosen = [entry for entry in entries if entry.key == key]
        keyed = [fit for fit in fitting if key in (fit.entry.key, fit.prefix, fit.prefix.rstrip("."), fit.key)]
        if not chosen and not keyed:
            known = [entry.key for entry in entries if entry.key] + [fit.key for fit in fitting if fit.prefix]
            raise CheckpointError(f"holds no weights of the network under {key!r}, {near_names(key, known)}")
        entries, fitting = chosen or entries, keyed
    if not fitting:
        raise CheckpointError(_misfit(shapes, entries))
    if len(fitting) > 1:
        names = [fit.entry.key for fit in fitting]
        unique = len(set(names)) == len(names) and all(names)
        raise CheckpointError(_choice(names if unique else [fit.key for fit in fitting]))
    return _matched(shapes, fitting[0], entries)


def _common_prefix(names: Iterable[str]) -> str:
    """The longest prefix of whole modules that all names share: "1." of "1.conv.weight" and "1.fc.weight"."""
    parts = [name.split(".")[:-1] for name in names]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return "".join(f"{level[0]}." for level in shared)


def _prefixes(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Prefixes before names of the file under which all tensors of the network are found, in their shapes."""
    needed = [name for name in shapes if not name.endswith(BATCH_COUNTER)]
    counts = _count_prefixes(weights, shapes)
    full = [prefix for prefix, count in counts.items() if count == len(needed)]
    return [p for p in full if all(tuple(weights[p + name].shape) == shapes[name] for name in needed)]


def _count_prefixes(names: Mapping[str, object], known: Mapping[str, object]) -> dict[str, int]:
    """Prefix -> how many names, BatchNorm's counters aside, are that prefix and a known name."""
    counts: dict[str, int] = {}
    for name in names:
        if name.endswith(BATCH_COUNTER):
            continue
        start = 0
        while True:
            if name[start:] in known:
                counts[name[:start]] = counts.get(name[:start], 0) + 1
            start = name.find(".", start) + 1
            if not start:
                break
    return counts


def _matched(
    shapes: Mapping[str, tuple[int, ...]], fit: _Fit, entries: Sequence[Entry]
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a fit with its notes; what lies beside them is left out where it belongs to no network.

    Raises:
        CheckpointError: among the names with the prefix are some that the network lacks.
    """
    entry, prefix, outer = fit.entry, fit.prefix, fit.outer
    weights = {outer + name.removeprefix(prefix): x for name, x in entry.weights.items() if name.startswith(prefix)}
    beside = [name for name in entry.weights if not name.startswith(prefix)]
    unknown = missing_names(weights, shapes)
    extra = [name for name in unknown if not _belongs_to_training(name)]
    if extra:
        raise CheckpointError(_misfit_sentence([], extra, "give the architecture that has them"))
    notes = []
    if entry.key:
        notes.append(f"took the weights under {entry.key!r}")
    if prefix:
        notes.append(f"stripped {prefix!r} from {'' if beside else 'all '}{len(weights)} keys")
    if outer:
        notes.append(f"put {outer!r} before the keys, as the network has it")
    if left := [*beside, *unknown, *entry.ignored]:
        more = f" ({len(left)} in all)" if len(left) > 3 else ""
        notes.append(f"ignored {first_names(left)}{more}, which the network does not have")
    if others := [other.key for other in entries if other.key not in ("", entry.key)]:
        notes.append(f"left out {first_names(map(repr, others))}, which does not fit the network")
    fitting = {name: value for name, value in weights.items() if name in shapes and tuple(value.shape) == shapes[name]}
    if misshapen := [name for name in weights if name in shapes and name not in fitting]:  # counters of BatchNorm alone
        notes.append(f"left out {first_names(misshapen)}, of another shape")
    return fitting, notes


def _belongs_to_training(name: str) -> bool:
    """Whether a key beside the network's is a profiler's count or a tensor of a loss or metric."""
    first, last = name.split(".")[0].lower(), name.split(".")[-1]
    return last in (*PROFILER_KEYS, "n_averaged") or any(word in first for word in ("loss", "criterion", "metric"))


def _choice(keys: Sequence[str]) -> str:
    named = ", ".join(repr(key) for key in keys)
    return f"holds several sets of weights, {named}: choose one, for example with key={keys[-1]!r} (--key {keys[-1]})."


def _misfit(shapes: Mapping[str, tuple[int, ...]], entries: Sequence[Entry]) -> str:
    """Why the nearest entry does not fit the network, with a remedy."""
    nearest, prefix, most = entries[0], "", -1
    for entry in entries:
        for candidate, count in (_count_prefixes(entry.weights, shapes) or {"": 0}).items():
            if count > most:
                nearest, prefix, most = entry, candidate, count
    weights = {name.removeprefix(prefix): value for name, value in nearest.weights.items() if name.startswith(prefix)}
    missing, extra = missing_names(shapes, weights), missing_names(weights, shapes)
    extra = [name for name in extra if not _belongs_to_training(name)]
    where = "".join([f" under {nearest.key!r}" * bool(nearest.key), f" (without {prefix!r})" * bool(prefix)])
    if missing or extra:
        return _misfit_sentence(missing, extra, _remedy(shapes, weights, missing, extra), where)
    name = next(name for name, value in weights.items() if name in shapes and tuple(value.shape) != shapes[name])
    return (
        f"does not fit the network{where} at {name}, {tuple(weights[name].shape)} in the file and {shapes[name]} in the "
        f"network: {_size_remedy(shapes, weights)}."
    )


def _misfit_sentence(missing: list[str], extra: list[str], remedy: str, where: str = "") -> str:
    found = [counted_names("missing keys", missing), counted_names("extra keys", extra)]
    return f"does not fit the network{where}, with {' and '.join(filter(None, found))}: {remedy}."


def _remedy(
    shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor], missing: list[str], extra: list[str]
) -> str:
    if any(name.startswith("index/") for name in extra):
        return "it is an alignment and no checkpoint, so give it as the alignment (--alignment)"
    if not extra:
        return "give a file with all tensors of the network, or the architecture without these"
    if not missing:
        return "give the architecture that has them"
    sizes = [tuple(weights[name].shape) for name in extra]
    if sizes == [shapes[name] for name in missing]:
        return (
            f"their shapes agree in this order ({extra[0]} with {missing[0]}), so the modules may have other names: rename the "
            "keys of the file"
        )
    if len(missing) == sum(not name.endswith(BATCH_COUNTER) for name in shapes):
        return "not one name is shared, so give the architecture that it was saved from"
    return "give the architecture that it was saved from, with its arguments"


def _size_remedy(shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]) -> str:
    """What to change where names agree and shapes differ: the width of the last layer alone, or the architecture."""
    differing = [name for name in weights if name in shapes and tuple(weights[name].shape) != shapes[name]]
    outputs = {(tuple(weights[name].shape)[:1], shapes[name][:1]) for name in differing}
    same_rest = all(tuple(weights[name].shape)[1:] == shapes[name][1:] for name in differing)
    if same_rest and len(outputs) == 1 and len({name.rpartition(".")[0] for name in differing}) == 1:
        ((theirs, _),) = outputs
        return f"give the architecture with {theirs[0]} outputs there (an argument such as num_classes={theirs[0]})"
    return "give the architecture that it was saved from, with its arguments"
