"""What became of each feature of the parents in their merge: measured on natural images, beside controls.

parents in one basis, their merge, images -> `Fates`: agreement, fidelity, identity and a verdict with its confidence, per unit
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from featviz.config import FateConfig
from featviz.data import Data
from featviz.errors import AlignmentError, ModelError
from featviz.evidence.exemplars.exemplars import ExemplarCollector
from featviz.evidence.fates.agreement import layer_figures, layer_pairs, unmatched_agreement
from featviz.evidence.fates.fates import MERGED, Fates, LayerFates
from featviz.evidence.fates.fold_sums import Floats, FoldMoments, FoldSums, correlation
from featviz.evidence.fates.verdicts import verdicts
from featviz.evidence.layer_names import measurable_layers
from featviz.evidence.layer_pass import FOLDS, LayerChunk, Progress, layer_pass
from featviz.matching.alignment import Alignment, LinearAlignment
from featviz.matching.linear.combination import layer_rows
from featviz.merging.merge import merge
from featviz.subjects import Subject, as_subject
from featviz.symmetry.permute import permute_module, random_permutations

CONTROLS = ("unaligned", "random")


def fate(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    alignment: Alignment,
    merged: nn.Module | Subject,
    layers: str | Sequence[str] | None = None,
    *,
    data: Data,
    weight: float = 0.5,
    controls: bool | Mapping[str, nn.Module] = True,
    repair: str = "auto",
    exemplars: int = 0,
    config: FateConfig = FateConfig(),  # noqa: B008 (frozen)
    memory: int | None = None,
    progress: Progress = None,
) -> Fates:
    """Tell for every unit of a merged network whether it kept the feature of its parents.

    >>> fates = fate(a, b, alignment, merged, layers=["layer3.*"], data=loader)  # doctest: +SKIP
    >>> print(fates)  # doctest: +SKIP
    >>> fates.save("fates.csv")  # doctest: +SKIP

    All subjects see the images in one pass. Correlations are over images and positions; products are summed in the networks'
    own precision for a few images at a time, and totals in float64.

    Args:
        model_a, model_b: the parents, as the alignment knows them (B in its own order).
        merged: the merged network, in A's basis.
        layers: module names, or patterns such as "layer3.*"; None: the outputs of all norms, or of all layers with weights
            where there is no norm.
        data: batches `x` or `(x, label)` of images in [0, 1], iterable more than once where controls are made. 1,000 images
            or more; at least 20.
        weight: of B in the merge. Where units are combined it does not count: a merged unit's row is its own combination.
        controls: whether two more averages of the parents are made and measured: without an alignment, and with a random one;
            or such networks by the names "unaligned" and "random".
        repair: of the two, as in `featviz.merge`; give what `merged` got.
        exemplars: of each unit of the parents and of merged, found in the same pass: `Fates.exemplars`.
        config: how sure the verdicts must be, and the seed.
        memory: MiB of layer outputs that may be held at once; None: 256 on a CPU.
        progress: called with (images done, 0).

    Raises:
        AlignmentError: the alignment belongs to other models. UnitError: a layer without units.
        DataError: no data, or fewer than 20 images. ModelError: an activation is not finite.
    """
    a, b, m = as_subject(model_a, "A"), as_subject(model_b, "B"), as_subject(merged, MERGED)
    alignment.check(a.model, b.model)
    groups = alignment.groups
    chosen = measurable_layers(a.model, layers, {name: units.axis for name, units in groups.layers.items()})
    mixing = alignment.combination if isinstance(alignment, LinearAlignment) else None
    rows: dict[str, list[Tensor]] = {}
    if mixing is not None:
        shares = (1.0, 1.0)
        parents = {"A": a, "B": b}
        for layer in chosen:
            matrices = [layer_rows(groups, mixing, groups.layers[layer], p) for p in (0, 1)]
            rows[layer] = [torch.from_numpy(matrix) for matrix in matrices]
    else:
        shares = (1 - weight, weight)
        parents = {"A": a, "B'": _with_model(b, alignment.permute(b.model))}
    others = _control_networks(a, b, alignment, controls, weight, repair, data, config.seed)
    indexer = alignment.indexer
    matches = {layer: [indexer.mix(layer, unit) for unit in range(indexer.units(layer).width)] for layer in chosen}
    scores = {layer: np.array([match.score for match in found]) for layer, found in matches.items()}
    partners = {
        layer: [-1] * len(found) if mixing is not None else indexer.a_to_b(layer, np.arange(len(found))).tolist()
        for layer, found in matches.items()
    }
    asked = _Asked(parents, m, shares, chosen, rows, others, scores, partners, alignment.method)
    return _measured(asked, data, exemplars, config, memory, progress)


def fate_of_parents(
    parents: Mapping[str, nn.Module | Subject],
    merged: nn.Module | Subject,
    layers: str | Sequence[str] | None = None,
    *,
    data: Data,
    shares: Sequence[float] | None = None,
    controls: Mapping[str, nn.Module] | None = None,
    exemplars: int = 0,
    config: FateConfig = FateConfig(),  # noqa: B008 (frozen)
    memory: int | None = None,
    progress: Progress = None,
) -> Fates:
    """The same for any number of parents that are in one basis already: fine-tuned copies, or networks that were permuted.

    Agreement is the mean over all pairs of parents. For the other arguments, and for errors, see `fate`.

    Args:
        parents: by name, at least one.
        shares: of every parent in the merge; None: equal.
        controls: further networks, by the names "unaligned" and "random", whose units are correlated with the first parent's.
    """
    if not parents:
        raise ModelError("there is no parent: give at least one network.")
    subjects = {name: as_subject(model, name) for name, model in parents.items()}
    first = next(iter(subjects.values()))
    chosen = measurable_layers(first.model, layers, {})
    equal = [1 / len(subjects)] * len(subjects)
    others = {name: as_subject(model, name) for name, model in (controls or {}).items()}
    asked = _Asked(
        subjects,
        as_subject(merged, MERGED),
        tuple(equal if shares is None else shares),
        chosen,
        {},
        others,
        {},
        {},
        "none",
    )
    return _measured(asked, data, exemplars, config, memory, progress)


@dataclass(frozen=True)
class _Asked:
    """What is measured. rows: per layer and parent the matrix that makes merged units' parts of the parent's units."""

    parents: Mapping[str, Subject]
    merged: Subject
    shares: tuple[float, ...]
    layers: Mapping[str, int | None]
    rows: Mapping[str, list[Tensor]]
    controls: Mapping[str, Subject]
    scores: Mapping[str, Floats]
    partners: Mapping[str, list[int]]
    method: str


def _measured(
    asked: _Asked,
    data: Data,
    exemplars: int,
    config: FateConfig,
    memory: int | None,
    progress: Progress,
) -> Fates:
    count = len(asked.parents)
    paired = [(0, count + 1 + number) for number in range(len(asked.controls))]
    moments = {layer: FoldMoments(paired, layer_pairs(count)) for layer in asked.layers}
    subjects = {**asked.parents, MERGED: asked.merged, **asked.controls}
    best = ExemplarCollector([*asked.parents, MERGED], exemplars) if exemplars else None

    def take(chunk: LayerChunk) -> None:
        if best is not None:
            best.take(chunk)
        _add_moments(asked, moments, chunk)

    report = layer_pass(subjects, asked.layers, data, take, memory=memory, progress=progress)
    if report.images < FOLDS:
        raise AlignmentError(f"{report.images} images are too few to measure fates on: give 20 or more, better 1,000.")
    fates = [_layer_fates(asked, layer, moments.pop(layer).sums(), config) for layer in asked.layers]
    parents = tuple(asked.parents)
    tops = None if best is None else best.result(subjects, report, data)
    told = (report.images, report.chunk_bytes, asked.method, config, report.normalizations)
    return Fates(tuple(fates), parents, *told, tops)


def _add_moments(asked: _Asked, moments: Mapping[str, FoldMoments], chunk: LayerChunk) -> None:
    """Samples (fold, sample, unit) of parents, merged and controls; of parents the units that the merged ones are made of."""
    sets = [values.flatten(2).mT for values in chunk.values.values()]
    for number, matrix in enumerate(asked.rows.get(chunk.layer, ())):
        rows = matrix.to(sets[number])
        sets[number] = (rows @ sets[number].mT).mT
    moments[chunk.layer].add(sets)


def _layer_fates(asked: _Asked, layer: str, sums: FoldSums, config: FateConfig) -> LayerFates:
    if not all(np.isfinite(squares).all() for squares in sums.squares):
        raise ModelError(f"an activation of {layer} is not finite: check the networks' weights and the data for NaN.")
    parents = tuple(asked.parents)
    whole, halves = (layer_figures(sums, asked.shares, weights) for weights in (sums.all_images(), sums.halves()))
    control = unmatched_agreement(sums, len(parents))
    drawn = layer_figures(sums, asked.shares, sums.resamples(config.resamples, config.seed))
    every = sums.all_images()
    with_a = {}
    for number, name in enumerate(asked.controls, len(parents) + 1):
        variances = [sums.variance(i, every) for i in (0, number)]
        with_a[name] = correlation(sums.covariance(0, number, every), *variances)[0]
    units = whole.fidelity.shape[1]
    return LayerFates(
        layer=layer,
        parents=parents,
        figures=whole,
        halves=halves,
        verdicts=verdicts(whole, drawn, control, parents, config.level),
        control=control,
        unaligned=with_a.get("unaligned"),
        random=with_a.get("random"),
        score=asked.scores.get(layer, np.full(units, np.nan)),
        partner=asked.partners.get(layer, [-1] * units),
    )


def _control_networks(
    a: Subject,
    b: Subject,
    alignment: Alignment,
    controls: bool | Mapping[str, nn.Module],
    weight: float,
    repair: str,
    data: Data,
    seed: int,
) -> dict[str, Subject]:
    """Averages of the parents without an alignment and with a random one, repaired alike."""
    if not isinstance(controls, bool):
        return {name: as_subject(controls[name], name) for name in CONTROLS if name in controls}
    if not controls:
        return {}
    perms = random_permutations(alignment.groups, np.random.default_rng(seed))
    images = data if repair != "none" else None
    made = {}
    for name, other in zip(CONTROLS, (b.model, permute_module(b.model, alignment.groups_b, perms)), strict=True):
        network = merge(a, _with_model(b, other), None, weight=weight, repair=repair, data=images, head=alignment.head)
        made[name] = as_subject(network, name)
    return made


def _with_model(subject: Subject, model: nn.Module) -> Subject:
    """A network that is fed as the subject is."""
    return Subject(model, subject.name, subject.mean, subject.std)
