"""The variance of a merge of networks whose norms are folded in, layer by layer and by kind of layer, before and after REPAIR.

    uv run python benchmarks/merging.py variance --real real/ --keep

The two MobileNetV1 0.25 of the folder of real checkpoints, matched by activations, their average at weight 1/2, as it is and
after REPAIR. Of every convolution's output, before ReLU6, on held-out photographs: *correlation* of A's unit and its partner,
*variance* of the merged unit over the mean of its parents' (medians over the units of all layers of a kind), and *cosine* of
the merged map with the mean of the parents' maps. *Clipped* is the share of outputs that ReLU6 cuts off at 6.

What breaks is told apart by merges in which only some layers are averaged and all others are A's, each brought back to A's
statistics (REPAIR at weight 0); and by bringing every unit of B' to the deviation of A's before the average: its filter and
bias times s, what reads it divided by s. Where norms are folded in, that scale is arbitrary; so that it is exactly so, both
networks have ReLU in place of ReLU6 there.
"""

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import featviz
from featviz.isolation import copy_of
from featviz.merging.repair import repair_channels
from featviz.moments import Moments, samples_of
from measures.merging.objectives import Pair, accuracy, mobilenet_pair
from measures.report import GALLERY, Record, markdown

NAME = "variance"
PICTURE = "variance-mobilenet.png"
KINDS = ("first", "depthwise", "pointwise")
HEAD = (
    *("layers", "number", "correlation", "variance: average", "repaired", "cosine: average", "repaired"),
    "clipped in A, B', repaired, %",
)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--real", type=Path, required=True, metavar="FOLDER", help="real checkpoints and photographs")
    parser.add_argument("--plots", type=Path, default=Path("runs"), help="folder of the plot (default: %(default)s)")


def measure(args: argparse.Namespace) -> Record:
    pair = mobilenet_pair(args.real)
    alignment = featviz.align(pair.a, pair.b, pair.matched_on[0][0][:1], "activations", pair.matched_on)
    permuted = replace(pair.b, model=alignment.permute(pair.b))
    convolutions = {
        name: kind_of(module) for name, module in pair.a.model.named_modules() if isinstance(module, nn.Conv2d)
    }
    layers = {name: alignment.groups.layers[name] for name in convolutions}
    merges = {
        how: featviz.merge(pair.a, pair.b, alignment, repair=how, data=pair.matched_on) for how in ("none", "repair")
    }
    curves = {
        label: featviz.layer_connectivity(pair.a, permuted, _subject(merges[how], pair), layers, pair.tested_on)
        for label, how in (("average", "none"), ("repaired", "repair"))
    }
    folder = GALLERY if args.keep else args.plots
    title = "MobileNetV1 0.25, norms folded in, activation matching, 500 photographs"
    featviz.plot_variance(curves, folder / PICTURE, f"Variance of merged units: {title}")
    clipped = [
        clipped_shares(subject, convolutions, pair) for subject in (pair.a, permuted, _subject(merges["repair"], pair))
    ]
    found = {}
    for number, (name, kind) in enumerate(convolutions.items()):
        average, repaired = (curves[label][number] for label in ("average", "repaired"))
        found[name] = {
            "kind": kind, "correlation": _median(average.correlation), "clipped": [own[name] for own in clipped],
            "variance": [_median(average.ratio), _median(repaired.ratio)], "cosine": [average.cosine, repaired.cosine],
        }  # fmt: skip
    return {"layers": found, "accuracy": accuracies(pair, permuted, merges, convolutions)}


def kind_of(module: nn.Conv2d) -> str:
    return "depthwise" if module.groups > 1 else "pointwise" if module.kernel_size == (1, 1) else "first"


def _subject(model: nn.Module, pair: Pair) -> featviz.Subject:
    return featviz.Subject(model, "merge", pair.a.mean, pair.a.std)


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values))


def clipped_shares(subject: featviz.Subject, layers: Collection[str], pair: Pair) -> dict[str, float]:
    """Layer -> share of its outputs above 6, on the held-out images."""
    counts = dict.fromkeys(layers, 0)
    totals = dict.fromkeys(layers, 0)

    def count(name: str, output: Tensor) -> None:
        counts[name] += int((output > 6).sum())
        totals[name] += output.numel()

    _observe(subject, layers, [x for x, _ in pair.tested_on], count)
    return {name: counts[name] / totals[name] for name in layers}


def _observe(
    subject: featviz.Subject, layers: Collection[str], batches: list[Tensor], look: Callable[[str, Tensor], object]
) -> None:
    """Call `look(layer, output)` for every batch."""
    modules = dict(subject.model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _, __, output, name=name: look(name, output)) for name in layers
    ]
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (subject.mean, subject.std))
    with torch.inference_mode():
        for x in batches:
            subject.model((x - mean) / std)
    for handle in handles:
        handle.remove()


def accuracies(
    pair: Pair, permuted: featviz.Subject, merges: Mapping[str, nn.Module], convolutions: Mapping[str, str]
) -> dict[str, float]:
    """Percent of the held-out images of the parents and of merges that tell apart what breaks."""
    found = {"A": accuracy(pair.a, pair), "B": accuracy(pair.b, pair)}
    found |= {"average": accuracy(merges["none"], pair), "average, repaired": accuracy(merges["repair"], pair)}
    parts = {kind: [name for name, own in convolutions.items() if own == kind] for kind in KINDS}
    parts["classifier"] = ["classifier"]
    for kind, names in parts.items():
        found[f"{kind} layers averaged, A's statistics"] = accuracy(partly_averaged(pair, permuted, names), pair)
    order = list(convolutions)
    for count in (1, 2, 3, 5, 9, 15, 27):
        merged = partly_averaged(pair, permuted, order[:count])
        found[f"first {count} convolutions averaged, A's statistics"] = accuracy(merged, pair)
    a, unscaled = (replace(subject, model=with_relu(subject.model)) for subject in (pair.a, permuted))
    scaled = replace(permuted, model=with_relu(scaled_like(pair, permuted, order)))
    found |= {"ReLU in place of ReLU6: A": accuracy(a, pair), "ReLU: B'": accuracy(unscaled, pair)}
    found["ReLU: B' with A's scales"] = accuracy(scaled, pair)
    for what, b in (("average, repaired", unscaled), ("average with B' at A's scales, repaired", scaled)):
        merged = average_of(a.model, b.model)
        repair_channels(merged, a, b, 0.5, pair.matched_on)
        found[f"ReLU: {what}"] = accuracy(merged, pair)
    return found


def with_relu(model: nn.Module) -> nn.Module:
    """A copy with ReLU in place of ReLU6."""
    changed = copy_of(model)
    for name, module in list(changed.named_modules()):
        if isinstance(module, nn.ReLU6):
            parent, _, child = name.rpartition(".")
            setattr(changed.get_submodule(parent), child, nn.ReLU())
    return changed


def average_of(a: nn.Module, b: nn.Module, names: Collection[str] | None = None) -> nn.Module:
    """A copy of A with the mean of both in the modules of these names (None: all)."""
    merged = copy_of(a)
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            if names is None or name.rpartition(".")[0] in names:
                parameter.lerp_(b.get_parameter(name), 0.5)
    return merged


def partly_averaged(pair: Pair, permuted: featviz.Subject, names: Collection[str]) -> nn.Module:
    """A with some layers averaged, brought back to A's statistics layer by layer."""
    merged = average_of(pair.a.model, permuted.model, names)
    repair_channels(merged, pair.a, permuted, 0.0, pair.matched_on)
    return merged


def deviations(pair: Pair, subject: featviz.Subject, layers: Collection[str]) -> dict[str, Tensor]:
    """Layer -> standard deviation of every output unit, on the images of the matching."""
    moments = {name: Moments() for name in layers}
    _observe(subject, layers, [x for x, _ in pair.matched_on], lambda name, x: moments[name].add(samples_of(x, 1)))
    return {name: own.variance().sqrt() for name, own in moments.items()}


def scaled_like(pair: Pair, permuted: featviz.Subject, order: Collection[str]) -> nn.Module:
    """B' with the outputs of every convolution at the deviation of A's, and the scale taken back where they are read.

    Args:
        order: the convolutions, each of which reads the one before it.
    """
    ours, theirs = (deviations(pair, subject, order) for subject in (pair.a, permuted))
    scaled = copy_of(permuted.model)
    read = torch.ones(1)  # by how much the units that the next layer reads are larger
    with torch.no_grad():
        for name in [*order, "classifier"]:
            module = scaled.get_submodule(name)
            weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
            depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
            weight.movedim(0 if depthwise else 1, -1).div_(read)
            if name in ours:
                alive = (ours[name] > 1e-6) & (theirs[name] > 1e-6)
                read = torch.where(alive, ours[name] / theirs[name], 1.0).to(weight)
                weight.movedim(0, -1).mul_(read)
                bias.mul_(read)
    return scaled


def table(records: list[Record]) -> str:
    rows = []
    for kind in KINDS:
        layers = [layer for layer in records[0]["layers"].values() if layer["kind"] == kind]
        figures = [np.median([layer["correlation"] for layer in layers])]
        figures += [np.median([layer[key][at] for layer in layers]) for key in ("variance", "cosine") for at in (0, 1)]
        clipped = ", ".join(f"{100 * np.mean([layer['clipped'][at] for layer in layers]):.1f}" for at in range(3))
        rows.append([kind, len(layers), *(f"{value:.2f}" for value in figures), clipped])
    accuracy_rows = [[what, f"{value:.1f}"] for what, value in records[0]["accuracy"].items()]
    return markdown(HEAD, rows) + "\n\n" + markdown(("network", "held-out images right, %"), accuracy_rows)
