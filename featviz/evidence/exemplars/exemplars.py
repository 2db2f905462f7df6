"""Exemplars: the natural images that excite a unit most, and the part of each that the unit sees.

(subjects, layers, data) -> `Exemplars`: for every unit of every layer in every subject its k best images, from one pass
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.data import Data, parts_of
from featviz.errors import DataError, FeatvizError, UnitError, near_names
from featviz.evidence.exemplars.best_images import BestImages, Histogram
from featviz.evidence.layer_names import measurable_layers
from featviz.evidence.layer_pass import LayerChunk, PassReport, Progress, fingerprint, layer_pass
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.receptive_field import ReceptiveField, receptive_fields
from featviz.subjects import Subject, as_subject

log = logging.getLogger("featviz")


@dataclass(frozen=True)
class Exemplar:
    """One image that excites a unit.

    image: its number in the data, from 0. path, label: where the data have them. activation: the largest of the unit's map.
    percentile: share of all images whose largest activation is smaller, in percent. position: of the maximum in the map; ()
    where the layer has no map.
    """

    image: int
    activation: float
    percentile: float
    position: tuple[int, ...]
    label: int | None = None
    path: str | None = None

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        found = {"image": self.image, "path": self.path, "label": self.label, "position": list(self.position)}
        return {**found, "activation": round(self.activation, 5), "percentile": round(self.percentile, 3)}


@dataclass(frozen=True, eq=False)
class LayerExemplars:
    """The best images of all n units of one layer in one subject; see `BestImages` for the tensors (k, unit).

    maxima, means: histograms over images of the largest and the mean activation of a unit's map.
    """

    value: Tensor
    image: Tensor
    position: Tensor
    label: Tensor
    space: tuple[int, ...]
    maxima: Histogram
    means: Histogram


class ExemplarCollector:
    """Takes the chunks of a pass and keeps the best images of some subjects; see `exemplars`."""

    def __init__(self, names: Sequence[str], k: int, per_label: int | None = None) -> None:
        if k < 1 or (per_label is not None and per_label < 1):
            raise DataError(f"k={k} images with at most {per_label} per class are none: give numbers of 1 or more.")
        self.names, self.k, self.per_label = tuple(names), k, per_label
        self._found: dict[tuple[str, str], tuple[BestImages, Histogram, Histogram]] = {}
        self._space: dict[str, tuple[int, ...]] = {}

    def take(self, chunk: LayerChunk) -> None:
        """Take in a chunk of a layer."""
        if self.per_label is not None and chunk.labels is None:
            raise DataError("exemplars spread over classes need labels: give batches (x, label).")
        labels = None if chunk.labels is None else chunk.labels.T.flatten()
        self._space[chunk.layer] = chunk.space
        for name in self.names:
            found = chunk.maxima(name)
            numbers = torch.arange(chunk.first, chunk.first + chunk.images, device=found.device)
            key = (name, chunk.layer)
            if key not in self._found:
                self._found[key] = BestImages(self.k, self.per_label), Histogram(), Histogram()
            best, maxima, means = self._found[key]
            best.add(found, partial(chunk.maps, name), numbers, labels)
            maxima.add(found)
            means.add(chunk.means(name))

    def result(self, subjects: Mapping[str, Subject], report: PassReport, data: Data) -> "Exemplars":
        """What was found; `data` names the images where it has `paths`."""
        layers: dict[str, dict[str, LayerExemplars]] = {}
        for (name, layer), (best, maxima, means) in self._found.items():
            value, image, position, label = best.result()
            if not bool((value.isfinite() | (image < 0)).all()):
                raise DataError(
                    f"an activation of {layer} in {name} is not finite: check the weights and the data for NaN."
                )
            found = LayerExemplars(value, image, position, label, self._space[layer], maxima, means)
            layers.setdefault(layer, {})[name] = found
        paths = tuple(str(path) for path in getattr(data, "paths", ()))
        chosen = {name: subjects[name] for name in self.names}
        return Exemplars(chosen, layers, self.k, report, paths if len(paths) == report.images else ())


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Exemplars of all units of some layers in some subjects; `found(layer, unit, subject)` lists one unit's.

    k: images per unit. paths: of all images, in the order of the data, where it is known.
    """

    subjects: Mapping[str, Subject]
    layers: Mapping[str, Mapping[str, LayerExemplars]]
    k: int
    report: PassReport
    paths: tuple[str, ...] = ()
    _fields: dict[tuple[str, str], dict[tuple[int, ...], ReceptiveField]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Exemplars({self.k} of each unit of {len(self.layers)} layers in {', '.join(self.subjects)})"

    def layer(self, layer: str, subject: str) -> LayerExemplars:
        """All units of a layer in a subject.

        Raises:
            UnitError: it was not measured.
        """
        if layer not in self.layers:
            raise UnitError(f"there are no exemplars of layer {layer!r}: {near_names(layer, self.layers)}")
        if subject not in self.layers[layer]:
            raise UnitError(f"there are no exemplars of {subject!r}: {near_names(subject, self.layers[layer])}")
        return self.layers[layer][subject]

    def found(self, layer: str, unit: int, subject: str) -> list[Exemplar]:
        """The best images of a unit, the best first; fewer than k where there are fewer images.

        Raises:
            UnitError: there is no such layer, subject or unit.
        """
        best = self.layer(layer, subject)
        if not 0 <= unit < best.value.shape[1]:
            raise UnitError(
                f"{layer} has no unit {unit}: its {best.value.shape[1]} units are 0 to {best.value.shape[1] - 1}."
            )
        shares = best.maxima.share_below(best.value.to(best.maxima.counts().device)).cpu()
        exemplars = []
        for rank in range(self.k):
            image = int(best.image[rank, unit])
            if image < 0:
                break
            flat, label = int(best.position[rank, unit]), int(best.label[rank, unit])
            position = tuple(int(index) for index in np.unravel_index(flat, best.space)) if best.space else ()
            percentile = 100 * float(shares[rank, unit])
            path = self.paths[image] if self.paths else None
            exemplars.append(
                Exemplar(image, float(best.value[rank, unit]), percentile, position, None if label < 0 else label, path)
            )
        return exemplars

    def best_mean(self, layer: str, subject: str) -> Tensor:
        """(unit,) the largest mean of a unit's map over all images, to a bin: what the score of a rendering compares with."""
        return self.layer(layer, subject).means.quantile(1.0)

    def fields(
        self, layer: str, subject: str, positions: Sequence[tuple[int, ...]]
    ) -> dict[tuple[int, ...], ReceptiveField]:
        """The pixels that a layer's units see at some positions; all pixels where that cannot be measured, which is logged."""
        known = self._fields.setdefault((layer, subject), {})
        missing = [(position[0], position[1]) for position in {*positions} - {*known} if len(position) == 2]
        height, width = self.report.image_shape[-2:]
        whole = ReceptiveField(0, 0, height, width)
        if missing:
            config = RenderConfig(size=(height, width), precision="float32")
            try:
                known |= receptive_fields(FeatureExtractor(self.subjects[subject], (layer,), config), layer, missing)
            except FeatvizError as error:
                log.info("the whole image stands for the receptive fields of %s: %s", layer, error)
            for position in {*missing} - {*known}:
                log.info(
                    "the whole image stands for the receptive field of %s at %s: no pixel changes it.", layer, position
                )
                known[position] = whole
        return {position: known.get(position, whole) for position in positions}

    def crops(self, data: Data, layer: str, units: Sequence[int]) -> dict[tuple[str, int], list[Tensor]]:
        """(subject, unit) -> for each exemplar the part of the image that the unit sees, (channels, h, w).

        Reads `data` once, up to the last image that is needed.

        Raises:
            DataError: the images come in another order than when they were measured.
        """
        wanted = {(name, unit): self.found(layer, unit, name) for name in self.layers.get(layer, {}) for unit in units}
        numbers = {exemplar.image for found in wanted.values() for exemplar in found}
        images = _images(data, numbers, self.report.fingerprints)
        fields = {
            name: self.fields(
                layer,
                name,
                [exemplar.position for key, found in wanted.items() if key[0] == name for exemplar in found],
            )
            for name in self.layers.get(layer, {})
        }
        crops: dict[tuple[str, int], list[Tensor]] = {}
        for (name, unit), found in wanted.items():
            boxes = [fields[name][exemplar.position] for exemplar in found]
            crops[name, unit] = [
                images[exemplar.image][:, box.top : box.bottom, box.left : box.right]
                for exemplar, box in zip(found, boxes, strict=True)
            ]
        return crops

    def record(self, layer: str, units: Sequence[int] | None = None) -> dict[str, Any]:
        """The exemplars of a layer, by subject and unit, ready for JSON."""
        width = next(iter(self.layers[layer].values())).value.shape[1]
        asked = range(width) if units is None else units
        return {
            name: {str(unit): [exemplar.record() for exemplar in self.found(layer, unit, name)] for unit in asked}
            for name in self.layers[layer]
        }

    @cached_property
    def images(self) -> int:
        """How many images were measured."""
        return self.report.images


def exemplars(
    subjects: Mapping[str, nn.Module | Subject],
    layers: str | Sequence[str] | None,
    data: Data,
    k: int = 9,
    *,
    per_class: int | None = None,
    axes: Mapping[str, int] | None = None,
    memory: int | None = None,
    progress: Progress = None,
) -> Exemplars:
    """Find the natural images that excite each unit most: what a feature looks like without any rendering.

    >>> tops = exemplars({"A": a, "merged": m}, ["layer3.1.bn1"], loader)  # doctest: +SKIP
    >>> tops.found("layer3.1.bn1", 17, "A")[0].image  # doctest: +SKIP

    An image counts by the largest activation of the unit's map, so a unit has an image at most once.

    Args:
        subjects: networks or `Subject`s, by name.
        layers: names, or patterns such as "layer3.*"; None: all norms, or all layers with weights.
        data: batches `x` or `(x, label)` of images in [0, 1], in the same order every time they are iterated.
        k: images per unit.
        per_class: at most so many of one class, which needs labels; None: any number.
        axes: layer -> axis of its units, where it is not 1 (the last axis of tokens).
        memory: MiB of layer outputs that may be held at once; None: 256 on a CPU.
        progress: called with (images done, 0).

    Raises:
        UnitError: a layer that a subject does not have. DataError: no data, no labels, or a k below 1.
    """
    named = {name: as_subject(model, name) for name, model in subjects.items()}
    if not named:
        raise DataError("there is no subject: give at least one network by its name.")
    chosen = measurable_layers(next(iter(named.values())).model, layers, {})
    chosen |= {layer: axis for layer, axis in (axes or {}).items() if layer in chosen}
    collector = ExemplarCollector(list(named), k, per_class)
    report = layer_pass(named, chosen, data, collector.take, memory=memory, progress=progress)
    return collector.result(named, report, data)


def _images(data: Data, numbers: set[int], fingerprints: Tensor) -> dict[int, Tensor]:
    """The images of these numbers, known by their fingerprints."""
    found: dict[int, Tensor] = {}
    first = 0
    for batch in data:
        x, *_ = parts_of(batch)
        here = [number for number in numbers if first <= number < first + len(x)]
        if here:
            chosen = x[[number - first for number in here]].cpu()
            if not torch.allclose(fingerprint(chosen), fingerprints[here], rtol=1e-6, atol=1e-6):
                break
            found |= dict(zip(here, chosen, strict=True))
        if len(found) == len(numbers):
            return found
        first += len(x)
    raise DataError(
        "the images come in another order than when they were measured: give data that are not shuffled anew."
    )
