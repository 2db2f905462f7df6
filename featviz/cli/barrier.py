"""`featviz barrier`: loss and accuracy of the weighted averages of A and B'."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any, cast

from featviz.cli import arguments
from featviz.config import REPAIRS
from featviz.errors import DataError
from featviz.files import check_writable, write_atomically

DESCRIPTION = """\
Measure loss and accuracy of the averages of A and the permuted B at evenly spaced weights.
The barrier is the most that the loss lies above the linear interpolation of its two ends, and the accuracy below.
"""

EXAMPLES = """\
examples:
  featviz barrier a.safetensors b.safetensors --arch resnet20-x2 --size 32 --alignment ab.safetensors \\
      --data cifar/test --out barrier.json
  featviz barrier a.safetensors b.safetensors --arch vgg11-x1 --size 32 --alignment ab.safetensors \\
      --data cifar/test --repair repair --repair-data cifar/train --ensemble --plot barrier.png
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "barrier", "loss and accuracy from A to B'", DESCRIPTION, EXAMPLES)
    arguments.add_pair(parser, aligned=True)
    parser.add_argument(
        "--points", type=arguments.positive, default=arguments.DEFAULTS.merge.points, metavar="N",
        help="networks on the line, both ends included (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--repair", choices=REPAIRS, default="none",
        help="how the networks between the ends are corrected, as in featviz merge (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--repair-data", type=Path, metavar="FOLDER", help="images for the repair, other than those that are tested on"
    )
    parser.add_argument("--head", choices=("a", "b"), help="where A and B differ: whose own parts are evaluated")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw loss and accuracy as .png or .svg")
    parser.add_argument(
        "--ensemble", action="store_true", help="measure A and B together: mean logits, mean probabilities"
    )
    arguments.add_architecture(parser)
    arguments.add_input(parser, pair=True)
    arguments.add_data(parser, required=True, why="; labels are the class folders in alphabetical order")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    if args.repair != "none" and args.repair_data is None:
        raise DataError(
            f"--repair {args.repair} measures statistics on images: give --repair-data FOLDER, or --repair none."
        )
    from featviz.gallery.plots import check_plottable, plot_barriers

    if args.out is not None:
        check_writable(args.out)
    if args.plot is not None:
        check_plottable(args.plot)
    from featviz.cli import inputs
    from featviz.merging.barrier import loss_barrier
    from featviz.merging.ensemble import MEANS, evaluate_ensemble
    from featviz.subjects import input_normalization

    model_a, model_b = inputs.networks(args)
    alignment = inputs.alignment(args, model_a, model_b, args.size)
    data = inputs.labelled(args, model_a, args.size)
    pairs = cast("Any", data)
    repair_data = None
    if args.repair != "none":
        repair_data = inputs.images(Namespace(**vars(args) | {"data": args.repair_data}), model_a, args.size)
    with inputs.bar("measuring") as progress:
        curve = loss_barrier(
            model_a, model_b, alignment, pairs, args.points, args.repair, repair_data, progress=progress, head=args.head
        )
    ensembles = {mean: evaluate_ensemble(model_a, model_b, pairs, mean) for mean in MEANS if args.ensemble}
    print(f"{'weight of B':>11} {'loss':>9} {'accuracy':>9}")
    for weight, loss, accuracy in zip(curve.weights, curve.losses, curve.accuracies, strict=True):
        print(f"{weight:11.3f} {loss:9.4f} {accuracy:7.2f} %")
    for mean, (loss, accuracy) in ensembles.items():
        print(f"{'ensemble':>11} {loss:9.4f} {accuracy:7.2f} %  (mean {mean})")
    print(f"barrier {curve.barrier:.4f}, of the accuracy {curve.accuracy_barrier:.2f} points")
    if args.plot is not None:
        label = alignment.method if args.repair == "none" else f"{alignment.method}, repair {args.repair}"
        print(plot_barriers({label: curve}, args.plot, f"{Path(args.a).stem} to {Path(args.b).stem}"))
    if args.out is not None:
        numbers = {
            "weights": list(curve.weights), "losses": list(curve.losses), "accuracies": list(curve.accuracies),
            "barrier": curve.barrier, "accuracy_barrier": curve.accuracy_barrier, "repair": args.repair,
            "repair_data": None if repair_data is None else str(args.repair_data), "ensembles": ensembles,
            "a": str(args.a), "b": str(args.b), "alignment": str(args.alignment),
            "data": str(args.data), "images": len(data.paths),
            "normalization": {
                name: input_normalization(model).record() for name, model in (("A", model_a), ("B", model_b))
            },
        }  # fmt: skip
        write_atomically(args.out, lambda part: part.write_text(json.dumps(numbers, indent=1) + "\n"))
