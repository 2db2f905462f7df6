"""One pass over the data: several networks see the same images, and the outputs of many layers are handed on chunk by chunk.

(subjects, layers, data) -> for every few images and every layer: `LayerChunk`, the layer's output in each subject

Nothing is kept from one chunk to the next, so the memory does not grow with the number of images: at any time there are the
outputs of all asked layers of all subjects for the images of one chunk, `PassReport.chunk_bytes`.

Images are numbered in the order of the data, from 0, and split over FOLDS folds: image i belongs to fold i % folds. A fold is a
sample of all the data, so that sums kept per fold are enough to resample the images later (`bootstrap.py`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featviz.data import Data, device_of, parts_of
from featviz.errors import DataError, ModelError, UnitError
from featviz.failures import run_network
from featviz.isolation import ordinary_modes, weight_sharing_copy, without_attention_fastpath
from featviz.rendering.optimize.malloc import keep_freed_memory
from featviz.subjects import Normalization, Subject, as_they_are, input_normalization, normalized_inputs
from featviz.symmetry.propagation import tensors_of

FOLDS = 20
MEMORY = 256  # MiB of layer outputs that are held at once on a CPU; the more, the worse for its cache
MEMORY_GPU = 4096
Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class LayerChunk:
    """The output of one layer in every subject for some images.

    values: by subject (fold, unit, row, position); image number of (fold, row) is `first + row * folds + fold`.
    space: shape of the positions, for example (height, width) of the maps; () where there is one.
    labels: (fold, row) of the images; None where the data have none.
    """

    layer: str
    values: Mapping[str, Tensor]
    first: int
    space: tuple[int, ...]
    labels: Tensor | None

    def maxima(self, subject: str) -> Tensor:
        """(image, unit) largest value over the positions; images are in the order of the data."""
        return self.values[subject].amax(-1).permute(2, 0, 1).flatten(0, 1)

    def means(self, subject: str, dtype: torch.dtype | None = None) -> Tensor:
        """(image, unit) mean over the positions, summed in `dtype`; images are in the order of the data."""
        return self.values[subject].mean(-1, dtype=dtype).permute(2, 0, 1).flatten(0, 1)

    def maps(self, subject: str, images: Tensor, units: Tensor) -> Tensor:
        """(n, position) values of units (n,) on images (n,), which count from the first of the chunk."""
        values = self.values[subject]
        return values[images % len(values), units, images // len(values)]

    @property
    def images(self) -> int:
        """How many images there are."""
        folds, _, rows, _ = next(iter(self.values.values())).shape
        return folds * rows


@dataclass(frozen=True)
class PassReport:
    """What a pass saw and held.

    images: how many. chunk_bytes: of the layer outputs that were held at once. fingerprints: (image,) a number of every image
    by which it is known again. image_shape: (channels, h, w) of the first. normalizations: of each subject, and who says so.
    """

    images: int
    chunk_bytes: int
    fingerprints: Tensor
    image_shape: tuple[int, ...]
    normalizations: Mapping[str, Normalization]


@ordinary_modes
def layer_pass(
    subjects: Mapping[str, Subject],
    layers: Mapping[str, int | None],
    data: Data,
    take: Callable[[LayerChunk], object],
    folds: int = FOLDS,
    memory: int | None = None,
    progress: Progress = None,
) -> PassReport:
    """Run all subjects on all data once and hand on the outputs of the layers.

    The subjects' networks stay as they are: private copies in evaluation mode are run. A layer that is called several times in
    a forward pass gives its first output.

    Args:
        subjects: by name; every one normalises the images for itself (`subjects.normalized_inputs`).
        layers: name -> axis of the units in the output; None: 1, and the last axis of (image, token, unit).
        data: batches `x` or `(x, label)`, x (image, channels, h, w) in [0, 1].
        take: called for every chunk of every layer, on the device of the first subject.
        memory: MiB of layer outputs that may be held at once, at least those of `folds` images; None: 256 on a CPU, 4096 on
            other devices.
        progress: called with (images done, 0).

    Raises:
        DataError: no data, or a network fails on the images.
        UnitError: a subject lacks a layer or does not call it, or an output that has no units.
    """
    device = device_of(next(iter(subjects.values())).model)
    budget = (memory or (MEMORY if device.type == "cpu" else MEMORY_GPU)) << 20
    regrouped = _Regrouped(data, folds)
    done = chunk_bytes = 0
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if device.type == "cpu":
            stack.enter_context(keep_freed_memory())
        runs = [stack.enter_context(_Recorder(subject, layers)) for subject in subjects.values()]
        for inputs in normalized_inputs(regrouped, list(subjects.values()), device):
            outputs = [run(x, folds, device) for run, x in zip(runs, inputs, strict=True)]
            held = sum(x.numel() * x.element_size() for found in outputs for x, _ in found.values())
            count = len(inputs[0])
            chunk_bytes = max(chunk_bytes, held)
            regrouped.step = max(1, budget * count // (held * folds)) * folds
            labels = regrouped.labels
            split = None if labels is None else labels.view(-1, min(folds, count)).T.to(device)
            for layer in layers:
                values = {name: found.pop(layer) for name, found in zip(subjects, outputs, strict=True)}
                _check_alike(layer, values)
                take(LayerChunk(layer, {n: x for n, (x, _) in values.items()}, done, _space(values), split))
                del values
            done += count
            if progress:
                progress(done, 0)
    if not done:
        raise DataError("there is no data to measure on: `data` yielded no batch (a generator serves only once).")
    shape = regrouped.image_shape
    normalizations = {
        name: input_normalization(subject, channels=shape[0]) if regrouped.images_in_range else as_they_are(shape[0])
        for name, subject in subjects.items()
    }
    return PassReport(done, chunk_bytes, torch.cat(regrouped.fingerprints), shape, normalizations)


def fingerprint(images: Tensor) -> Tensor:
    """(image,) float64: a weighted sum of the values of each image, by which it is known again."""
    flat = images.detach().flatten(1).double()
    return flat @ torch.linspace(1, 2, flat.shape[1], dtype=torch.float64, device=flat.device)


class _Regrouped:
    """The images of the data in batches whose size is a multiple of the folds, and at the end what is left, below one.

    Attributes:
        step: how many images the next batch has at most. labels: those of the current batch, or None.
        fingerprints: of all images so far, batch by batch. image_shape: of the first one. images_in_range: whether the first
            batch lies in [0, 1], so that the subjects normalise it.
    """

    def __init__(self, data: Data, folds: int) -> None:
        self._data, self._folds = data, folds
        self.step = folds
        self.labels: Tensor | None = None
        self.fingerprints: list[Tensor] = []
        self.image_shape: tuple[int, ...] = ()
        self.images_in_range = False

    def __iter__(self) -> Iterator[Tensor]:
        images: Tensor | None = None
        labels: Tensor | None = None
        for batch in self._data:
            x, y = images_and_labels(batch)
            if not self.image_shape:
                self.image_shape = tuple(x.shape[1:])
                self.images_in_range = x.ndim == 4 and bool(x.min() >= 0 and x.max() <= 1)
            self.fingerprints.append(fingerprint(x).cpu())
            images = x if images is None else torch.cat([images, x.to(images.device)])
            labels = y if labels is None or y is None else torch.cat([labels, y])
            while len(images) >= self._folds:
                size = min(self.step, len(images) // self._folds * self._folds)
                self.labels = None if labels is None else labels[:size]
                yield images[:size]
                images, labels = images[size:], None if labels is None else labels[size:]
        if images is not None and len(images):
            self.labels = labels
            yield images


def images_and_labels(batch: object) -> tuple[Tensor, Tensor | None]:
    """The images of a batch, and their labels where they have one each."""
    x, *rest = parts_of(batch)
    label = next((y for y in rest if isinstance(y, Tensor) and y.shape == x.shape[:1]), None)
    return x, label


class _Recorder:
    """A private copy of a subject's network; calling it gives the layers' outputs as (fold, unit, row, position) with space."""

    def __init__(self, subject: Subject, layers: Mapping[str, int | None]) -> None:
        self._model = weight_sharing_copy(getattr(subject.model, "_orig_mod", subject.model))
        self._name, self._layers = subject.name or "the network", layers
        self._seen: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        self._images = self._folds = 0
        self._device = device_of(self._model)
        self._stack = ExitStack()

    def __enter__(self) -> "_Recorder":
        modules = dict(self._model.named_modules(remove_duplicate=False))
        for layer in self._layers:
            if layer not in modules:
                raise UnitError(f"{self._name} has no layer {layer!r}: take layers that all networks have.")
            handle = modules[layer].register_forward_hook(self._hook(layer))
            self._stack.callback(handle.remove)
        self._stack.enter_context(without_attention_fastpath())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, x: Tensor, folds: int, device: torch.device) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
        self._seen = {}
        self._images, self._folds = len(x), min(folds, len(x))
        run_network(self._model, x.to(self._device))
        for layer in self._layers:
            if layer not in self._seen:
                raise UnitError(f"{self._name} does not call its layer {layer!r} in evaluation mode: leave it out.")
        return {layer: (values.to(device), space) for layer, (values, space) in self._seen.items()}

    def _hook(self, layer: str) -> Callable[[nn.Module, object, object], None]:
        def record(module: nn.Module, args: object, output: object) -> None:
            del module, args
            if layer in self._seen:
                return
            tensors = tensors_of(output)
            if not tensors:
                raise ModelError(f"{layer} gives a {type(output).__name__} without a tensor: take another layer.")
            self._seen[layer] = _by_fold(tensors[0].detach(), self._layers[layer], self._images, self._folds, layer)

        return record


def _by_fold(output: Tensor, axis: int | None, images: int, folds: int, layer: str) -> tuple[Tensor, tuple[int, ...]]:
    """(fold, unit, row, position), always a copy, since an operation in place may follow; and the shape of the positions.

    A first axis of k parts of each image (windows) becomes the first axis of positions.
    """
    if output.dim() < 2 or len(output) % images or not output.is_floating_point():
        raise UnitError(
            f"the output of {layer} has the shape {tuple(output.shape)} for {images} images: its first axis must be that of "
            "the images, and its values floating-point numbers."
        )
    units_second = output.movedim((2 if output.dim() == 3 else 1) if axis is None else axis, 1)
    parts = len(output) // images
    space = (*((parts,) if parts > 1 else ()), *units_second.shape[2:])
    split = units_second.unflatten(0, (images // folds, folds, parts)).flatten(4) if units_second.dim() > 2 else None
    if split is None:
        split = units_second.unflatten(0, (images // folds, folds, parts)).unsqueeze(-1)
    ordered = split.permute(1, 3, 0, 2, 4)  # fold, unit, row, part, position
    made = torch.empty(ordered.shape, dtype=ordered.dtype, device=ordered.device).copy_(ordered)
    return made.flatten(3), space


def _check_alike(layer: str, values: Mapping[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    shapes = {name: tuple(x.shape[i] for i in (0, 2, 3)) for name, (x, _) in values.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{shape[2]} in {name}" for name, shape in shapes.items())
        raise UnitError(f"the output of {layer} has other numbers of positions ({told}): compare layers of one size.")


def _space(values: Mapping[str, tuple[Tensor, tuple[int, ...]]]) -> tuple[int, ...]:
    return next(iter(values.values()))[1]
