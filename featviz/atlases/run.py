"""Making an atlas: two networks and what is asked for -> a folder that is filled, item by item, and can be left at any time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from featviz.atlases.items import ItemRenderer
from featviz.atlases.measure import measure
from featviz.atlases.plan import Identity, Item, plain, shard_of
from featviz.atlases.prepare import (
    alignment_digest,
    layers_asked,
    merges_on_path,
    planned_layers,
    shared_alignment,
    shared_merge,
    subjects_of,
    without_compilation,
)
from featviz.atlases.store import AtlasStore
from featviz.config import AtlasConfig, MergeConfig, RenderConfig
from featviz.data import Data
from featviz.files import check_writable
from featviz.matching.alignment import Alignment
from featviz.rendering import ordinary_modes, resolve_device
from featviz.subjects import Subject, as_subject, input_normalization
from featviz.weights.checks import digest

Progress = Callable[[int, int], None]
Workers = Callable[[ItemRenderer, Iterable[Item]], Iterable[tuple[Item, bytes]]]
"""Renders items, in any order, into the bytes of their files."""


@ordinary_modes
def atlas(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    out: str | Path,
    layers: str | Sequence[str] | None = None,
    *,
    alignment: Alignment | None = None,
    method: str | None = None,
    merged: nn.Module | Subject | None = None,
    repair: str = MergeConfig.repair,
    also: Mapping[str, nn.Module | Subject] | None = None,
    path: Sequence[float] = (),
    data: Data | None = None,
    exemplars: int = AtlasConfig.exemplars,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    units_per_item: int = AtlasConfig.units_per_item,
    images: str = AtlasConfig.images,
    shard: tuple[int, int] = (0, 1),
    device: torch.device | str | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> AtlasStore:
    """Render units of layers in A, B' and their merge, with what became of each, into a folder; go on where one was left.

    >>> store = atlas(model_a, model_b, "runs/ab", layers="layer3.*", data=images)  # doctest: +SKIP
    >>> featviz.page("runs/ab")  # doctest: +SKIP

    The work is cut into items of a few units of one layer. An item that is in the folder is not made again, so the same call
    goes on after an interruption of any kind, and several processes may work on one folder: on shards of their own, or on the
    same. In float32 by the eager backend, on one kind of machine and with one number of threads, the files are equal to the
    byte however often the work was interrupted; otherwise to rounding.

    Args:
        out: the folder. One that holds an atlas of other networks or another configuration is refused.
        layers: names, patterns such as "layer3.*", or unit specs such as "layer3.1.bn1:0-15"; None: the outputs of all norms,
            or of all layers with weights where there is no norm. Layers of earlier calls are gone on with.
        alignment: of the two; None: the folder's, else matched by `method`.
        method: of the matching, as in `align`; None: "activations" with data, "weights" without.
        merged: the merged network in A's basis; None: the folder's, else `merge` with `repair`, on `data`.
        also: further networks in A's basis by name.
        path: weights of B at which further merges are made and shown, such as (0.25, 0.75): the path from A to B'.
        data: batches `x` or `(x, label)` of images in [0, 1], iterable more than once: for matching and repair, and for the
            evidence, which is left out without. 1,000 images or more.
        exemplars: natural images kept for each unit of A, B' and merged; 0: none.
        config: of the rendering. `config.batch` units of an item are rendered together.
        units_per_item: what is lost at most when a process is killed.
        images: "raw", or "webp": lossy, a quarter of the bytes.
        shard: (i, n): every n-th item from i on, i from 0; the evidence is measured by shard 0.
        device: None: where the networks are.
        workers: what renders items elsewhere, for example `featviz.RayWorkers()`; None: this process, one after the other.
        progress: called with (units rendered, units to render) of this shard.

    Raises:
        AtlasError: the folder holds another atlas, or a damaged file; no such shard.
        OutputError: the folder cannot be written, or the disk is full; what is there stays whole.
        AlignmentError, UnitError, ModelError, RenderError, DataError, DeviceError: as `align`, `merge`, `render_panel`, `fate`.
    """
    kept = AtlasConfig(exemplars, units_per_item, images)
    shard_of([], shard)  # before anything is made
    folder = Path(out)
    a, b = (without_compilation(as_subject(model, name)) for model, name in ((model_a, "A"), (model_b, "B")))
    place = resolve_device(device, a.model)
    layers_asked(a.model, layers, {})  # before anything is written
    networks = folder / "networks"
    check_writable(networks / "alignment.safetensors")
    alignment = shared_alignment(networks / "alignment.safetensors", a, b, alignment, method, data, config)
    planned = planned_layers(a.model, alignment, layers)
    merged = shared_merge(networks / "merged.safetensors", a, b, alignment, merged, repair, data)
    on_path = merges_on_path(networks, a, b, alignment, path, repair, data)
    subjects = subjects_of(a, b, merged, alignment, [*(also or {}).items(), *on_path])
    identity = Identity(
        {name: digest(subject.model) for name, subject in subjects.items()},
        {name: input_normalization(subject, config).record() for name, subject in subjects.items()},
        alignment_digest(networks / "alignment.safetensors"),
        alignment.method,
        plain(asdict(config)),
        kept.units_per_item,
        kept.images,
    )
    store = AtlasStore.create(folder, identity)
    for layer in planned:
        store.add_layer(layer)
    render = ItemRenderer(subjects, alignment.indexer, config, kept.images, str(place))
    mine = shard_of(store.items(), shard)
    with store.in_use():
        if data is not None and shard[0] == 0:
            measure(store, (a, b, merged), alignment, repair, data, kept.exemplars)
        render_items(store, mine, lambda items: (workers or one_by_one)(render, items), progress)
    return store


def one_by_one(render: ItemRenderer, items: Iterable[Item]) -> Iterable[tuple[Item, bytes]]:
    """Items rendered in this process."""
    for item in items:
        yield item, render(item).to_bytes()


def render_items(
    store: AtlasStore,
    items: Sequence[Item],
    rendered: Callable[[Iterable[Item]], Iterable[tuple[Item, bytes]]],
    progress: Progress | None = None,
) -> None:
    """Render what is missing and publish it.

    Args:
        rendered: renders items one after the other, in any order; what it is given is looked up when it asks for it, so that an
            item that another process has made meanwhile is left out.
    """
    total, done = sum(len(item.units) for item in items), 0

    def report(item: Item) -> None:
        nonlocal done
        done += len(item.units)
        if progress is not None:
            progress(done, total)

    def missing() -> Iterable[Item]:
        for item in items:
            if store.is_done(item):
                report(item)
            else:
                yield item

    for item, data in rendered(missing()):
        store.write_bytes(item, data)
        report(item)
