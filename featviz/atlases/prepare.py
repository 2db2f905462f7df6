"""What all processes of an atlas must have in common: the alignment, the merged network, the layers and their units.

What is random or costly is made once and published: every process that joins, now or after a crash, works with it.
"""

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from featviz.atlases.chunk import arrays_digest
from featviz.atlases.plan import PlannedLayer
from featviz.config import MergeConfig, RenderConfig
from featviz.data import Data
from featviz.errors import AtlasError, RenderError
from featviz.evidence.layer_names import measurable_layers
from featviz.files import write_atomically
from featviz.matching.align import align
from featviz.matching.alignment import Alignment, LinearAlignment, load_alignment
from featviz.matching.safetensors_arrays import read_arrays
from featviz.merging.merge import merge
from featviz.rendering import uncompiled
from featviz.subjects import Subject, as_subject, input_channels
from featviz.units import parse_units
from featviz.weights.checkpoints import load_into, save_weights


def shared_alignment(
    path: Path,
    a: Subject,
    b: Subject,
    given: Alignment | None,
    method: str | None,
    data: Data | None,
    config: RenderConfig,
) -> Alignment:
    """The alignment given, the folder's, or a new one; published, and read back as all other processes read it.

    Args:
        path: of the folder's.
        given, method, data, config: see `atlas`.

    Raises:
        AtlasError: the folder's is another than the one given, or was made by another method.
    """
    if given is None and not path.exists():
        random = torch.Generator().manual_seed(config.seed)
        example = torch.rand(1, input_channels(a, config), *config.input_hw, generator=random)
        example = example.to(next(a.model.parameters()))
        given = align(a, b, example, method or ("weights" if data is None else "activations"), data)
    if given is not None:
        given.check(a.model, b.model)
        with _temporary(path) as part:
            given.save(part)
            if path.exists() and alignment_digest(path) != alignment_digest(part):
                raise AtlasError(
                    f"{path} is another alignment than the one given: leave it out, or give another folder."
                )
            write_atomically(path, lambda target: target.write_bytes(part.read_bytes()), replace=False)
    found = load_alignment(path)
    found.check(a.model, b.model)
    if method is not None and found.method != method:
        raise AtlasError(
            f"{path} was made by {found.method!r}, not by {method!r}: leave it out, or give another folder."
        )
    return found


def shared_merge(
    path: Path,
    a: Subject,
    b: Subject,
    alignment: Alignment,
    given: nn.Module | Subject | None,
    repair: str,
    data: Data | None,
    weight: float = MergeConfig.weight,
) -> Subject:
    """The merged network given, the folder's, or a new one that is published.

    Args:
        path: of the folder's.
        given, repair, data: see `atlas`. weight: of B.
    """
    if given is not None:
        return without_compilation(as_subject(given, "merged"))
    head = alignment.head
    if not path.exists():
        made = merge(a, b, alignment, weight, repair, data, head=head)
        with _temporary(path) as part:
            save_weights(made, part)
            write_atomically(path, lambda target: target.write_bytes(part.read_bytes()), replace=False)
    merged = merge(a, b, alignment, repair="none", head=head)
    load_into(merged, path)
    return as_subject(merged, "merged")


def merges_on_path(
    folder: Path,
    a: Subject,
    b: Subject,
    alignment: Alignment,
    weights: Sequence[float],
    repair: str,
    data: Data | None,
) -> list[tuple[str, Subject]]:
    """Merges at these weights of B with their names, the folder's or new ones; see `shared_merge`."""
    return [
        (
            f"weight {weight}",
            shared_merge(folder / f"weight-{weight}.safetensors", a, b, alignment, None, repair, data, weight),
        )
        for weight in map(float, weights)
    ]


def subjects_of(
    a: Subject, b: Subject, merged: Subject, alignment: Alignment, further: Iterable[tuple[str, nn.Module | Subject]]
) -> dict[str, Subject]:
    """The columns: A, B' and the merged network, or the original B where units are combined; then further ones.

    Raises:
        RenderError: a further one has the name of another.
    """
    linear = isinstance(alignment, LinearAlignment)
    second = b if linear else replace(b, name="B'", model=alignment.permute(b.model))
    subjects = {"A": a, "B" if linear else "B'": second, "merged": merged}
    for name, model in further:
        if name in subjects:
            raise RenderError(
                f"there are two subjects {name!r}: give each another name, and every weight of the path once."
            )
        subjects[name] = without_compilation(as_subject(model, name))
    return subjects


def planned_layers(model: nn.Module, alignment: Alignment, layers: str | Sequence[str] | None) -> list[PlannedLayer]:
    """The layers asked for, with their units, all known to exist.

    Raises:
        UnitError: a layer or unit that the network does not have.
    """
    axes = {name: units.axis for name, units in alignment.groups.layers.items()}
    asked = layers_asked(model, layers, axes)
    positions = {name: place for place, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    found = []
    for layer, units in asked.items():
        every = range(alignment.indexer.units(layer).width)
        chosen = tuple(every) if units is None else tuple(dict.fromkeys(units))
        alignment.indexer.check(layer, list(chosen))
        found.append(PlannedLayer(layer, chosen, positions[layer]))
    return found


def layers_asked(
    model: nn.Module, layers: str | Sequence[str] | None, axes: Mapping[str, int]
) -> dict[str, list[int] | None]:
    """Names, patterns and unit specs -> the units of each layer, None for all; see `atlas`.

    Args:
        axes: of the units, from an alignment; {}: not known.

    Raises:
        UnitError: a layer that the network does not have.
    """
    specs = [layers] if isinstance(layers, str) else layers
    asked: dict[str, list[int] | None] = {}
    if specs is None:
        asked = dict.fromkeys(measurable_layers(model, None, axes))
    for text in specs or ():
        name, units = text, None
        if ":" in text:
            spec = parse_units(text)
            name, units = spec.layer, spec.channels
        for layer in measurable_layers(model, name, axes):
            known = asked.get(layer, [])
            asked[layer] = None if units is None or known is None else [*known, *units]
    return asked


def without_compilation(subject: Subject) -> Subject:
    """The subject without `torch.compile`, which has no modules by name."""
    return replace(subject, model=uncompiled(subject.model))


def alignment_digest(path: Path) -> str:
    """Of the arrays of an alignment's file; not of its metadata, which tells who wrote it.

    Raises:
        AtlasError: it is damaged.
    """
    try:
        return arrays_digest(read_arrays(path)[0])
    except (ValueError, OSError) as error:
        raise AtlasError(f"{path} is damaged ({error}): remove it and start the atlas again.") from error


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file that is removed afterwards."""
    part = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)
