"""Does the picture tell? Transfer of renderings beside agreement on natural images, over all units of some layers.

    uv run python benchmarks/evidence.py transfer --data cifar/ --keep

All units of a layer are rendered in A, B' and the repaired merge of the bundled pair, twice, from two seeds. Transfer of two
networks is how strongly each one's image excites the other's unit, over the other's own image, the mean of both directions
(`featviz.picture_transfer`). Beside it: the floor (the same unit, another seed), the ceiling (other units of the layer), what
the best natural image does, and Spearman's rank correlation of the transfer with the two units' correlation on test images.
"""

import argparse

import numpy as np

import featviz
from measures.cifar import add_cifar, sample
from measures.evidence.fates import LAYERS, plain
from measures.rendering.cases import bundled_subjects
from measures.report import Record, markdown

NAME = "transfer"


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, None, 2000)
    parser.add_argument("--layers", nargs="+", default=LAYERS, metavar="LAYER")
    parser.add_argument("--units", type=int, metavar="N", help="the first N of each layer (default: all)")


def measure(args: argparse.Namespace) -> Record:
    pair = featviz.bundled_pair()
    alignment = featviz.load_alignment(pair.alignment_path)
    subjects = bundled_subjects()
    images = plain(sample(args.data, False, args.tested, pair.a))
    fates = featviz.fate(
        pair.a, pair.b, alignment, subjects["merged"], args.layers, data=images, controls=False, exemplars=1
    )
    found = {}
    for layer in args.layers:
        units = range(len(fates[layer]))[: args.units]
        once, again = (
            featviz.render_panel(subjects, layer, units, config=featviz.RenderConfig(size=64, seed=seed))
            for seed in (0, 1)
        )
        transfers = featviz.picture_transfer(once, subjects, again, fates.exemplars)
        rows = [fates[layer].row(unit) for unit in units]
        measured = {
            ("A", "B'"): [row["agreement"] for row in rows],
            ("A", "merged"): [row["correlation A"] for row in rows],
        }
        found[layer] = transfers.summary() | {
            "pairs": {
                f"{one}, {other}": {
                    "transfer": float(np.nanmedian(transfers.between(one, other))),
                    "correlation": float(np.median(values)),
                    "rank correlation": transfers.rank_correlation(one, other, values),
                }
                for (one, other), values in measured.items()
            }
        }
    return {"tested": args.tested, "layers": found}


def table(records: list[Record]) -> str:
    (record,) = records
    rows = []
    for layer, found in record["layers"].items():
        natural = np.array(found["over natural"])
        for names, values in found["pairs"].items():
            one, other = (found["subjects"].index(name) for name in names.split(", "))
            rows.append(
                (
                    layer,
                    names,
                    str(found["units"]),
                    f"{values['correlation']:.2f}",
                    f"{values['transfer']:.2f}",
                    f"{np.mean([found['floor'][one], found['floor'][other]]):.2f}",
                    f"{np.mean([found['ceiling'][one], found['ceiling'][other]]):.2f}",
                    f"{np.mean([natural[one, other], natural[other, one]]):.2f}",
                    f"{values['rank correlation']:.2f}",
                )
            )
    head = ("layer", "networks", "units", "corr. on images", "transfer", "same unit, other seed", "other units",
            "over best image", "rank corr. of transfer and corr.")  # fmt: skip
    return markdown(head, rows)
