"""The evidence of an atlas: fates and exemplars of all units, measured on images in one pass."""

import hashlib
import logging

import torch

from featviz.atlases.chunk import Chunk
from featviz.atlases.items import exemplar_arrays
from featviz.atlases.store import AtlasStore
from featviz.data import Data
from featviz.evidence.fates.fate import fate
from featviz.matching.alignment import Alignment
from featviz.subjects import Subject

log = logging.getLogger("featviz.atlas")


def measure(
    store: AtlasStore,
    networks: tuple[Subject, Subject, Subject],
    alignment: Alignment,
    repair: str,
    data: Data,
    exemplars: int,
) -> None:
    """Measure and publish what the store lacks.

    Args:
        networks: A, B in its own order, merged.
        repair, data, exemplars: see `atlas`.

    Raises:
        AtlasError: what is there was measured on other images.
    """
    store.check_measured({"first images": _first_images(data), "exemplars": exemplars, "repair": repair})
    missing = [item for item in store.items() if not store.is_measured(item)]
    layers = list(dict.fromkeys(item.layer for item in missing))
    if not layers:
        return
    log.info("measuring the units of %d layers on images.", len(layers))
    a, b, merged = networks
    fates = fate(a, b, alignment, merged, layers, data=data, repair=repair, exemplars=exemplars)
    for layer in layers:
        items = [item for item in missing if item.layer == layer]
        crops, shown = {}, ()
        if fates.exemplars is not None:
            shown = tuple(fates.exemplars.layers[layer])
            crops = fates.exemplars.crops(data, layer, [unit for item in items for unit in item.units])
        for item in items:
            records = [fates[layer].row(unit) | {"exemplars of": list(shown)} for unit in item.units]
            arrays = {"exemplars": exemplar_arrays(crops, shown, item.units, exemplars)} if crops else {}
            store.write_evidence(item, Chunk(records, arrays))


def _first_images(data: Data) -> str:
    """BLAKE2b (16 hex digits) of the first batch, in steps of 1/255."""
    batch = next(iter(data), None)
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(first, torch.Tensor):
        return "none"
    values = (first.detach().cpu().float() * 255).round().to(torch.int16).contiguous().numpy()
    return hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()
