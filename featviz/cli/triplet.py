"""`featviz triplet`: units of A, B' and the merged network as pictures, side by side, and of further networks."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import also, arguments, rendering
from featviz.errors import DataError

DESCRIPTION = """\
Render units of A, of B permuted into A's order, and of the merged network, each row from one random start, into one
PNG (and a JSON of what was rendered) per layer. What is not given is computed: the alignment by weight matching, or
with --data by activation matching; the merge by averaging, repaired where there is --data.
"""

EXAMPLES = f"""\
examples:
  featviz triplet a.safetensors b.safetensors --arch resnet20-x2 --alignment ab.safetensors \\
      --merged merged.safetensors --units layer3.1.bn1:0-7 --size 64 --out pictures
  featviz triplet a.safetensors b.safetensors --arch resnet20-x2 --units layer2.1.bn1:3,17 --units fc \\
      --data cifar/train --data-size 32 --also unaligned --also unrepaired --size 64 --steps 256
  featviz triplet a.pth b.pth --arch resnet18 --units layer4.1.bn2:0-15 --device cuda --out pictures

{rendering.LOOK}"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "triplet", "render units of A, B' and the merge", DESCRIPTION, EXAMPLES)
    arguments.add_pair(parser)
    rendering.add_pictures(parser)
    parser.add_argument("--alignment", type=Path, metavar="FILE", help="made by featviz align")
    parser.add_argument("--merged", type=arguments.weights, metavar="FILE", help="checkpoint of the merged network")
    also.add(parser)
    parser.add_argument(
        "--exemplars", type=arguments.positive, metavar="K",
        help="show under each rendering the K images of --data that excite the unit most, and what became of the unit",
    )  # fmt: skip
    arguments.add_architecture(parser)
    rendering.add_rendering(parser, pair=True)
    data = arguments.add_data(parser, why="; for the matching and the repairs that are not given")
    data.add_argument(
        "--data-size", type=arguments.size, metavar="PIXELS", help="side that the networks were trained with"
    )
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    if args.data is not None and args.data_size is None:
        raise DataError("--data needs --data-size: give the side of the images that the networks were trained with.")
    if args.exemplars is not None and args.data is None:
        raise DataError("--exemplars shows images of --data: give --data FOLDER.")
    config = rendering.render_config(args)
    asked = rendering.units_by_layer(args.units)
    rendering.check_pictures(args.out, asked)
    from featviz.cli import inputs
    from featviz.matching.align import align
    from featviz.merging.merge import merge
    from featviz.triplet import MATCHED_ANEW, render_unit_triplet

    model_a, model_b = inputs.networks(args)
    inputs.check_bands(args, model_a, config)
    data = inputs.images(args, model_a, args.data_size)
    if args.alignment is None:
        method = "weights" if data is None else "activations"
        inputs.say(f"no --alignment: matching {method}.")
        if args.merged is not None:
            inputs.say(MATCHED_ANEW)
        with inputs.bar("aligning") as progress:
            example = inputs.example_input(args, model_a, config.input_hw)
            alignment = align(model_a, model_b, example, method, data, progress=progress)
    else:
        alignment = inputs.alignment(args, model_a, model_b, config.input_hw)
        alignment.check(model_a, model_b)
    for layer, units in asked.items():
        alignment.indexer.check(layer, units or [])
    repair = "none" if data is None else arguments.DEFAULTS.merge.repair
    head = alignment.head
    if args.merged is None:
        inputs.say(f"no --merged: averaging A and B', repair {repair}.")
        with inputs.bar("merging") as progress:
            merged = merge(model_a, model_b, alignment, repair=repair, data=data, progress=progress, head=head)
    else:
        merged = inputs.network(args, args.merged)
    further = also.networks(args, model_a, model_b, alignment, data, repair)
    with rendering.saving(args.bands) as save:
        for layer, units in asked.items():
            with inputs.bar(layer) as progress:
                triplets = render_unit_triplet(
                    model_a, model_b, layer, units, merged=merged, alignment=alignment, also=further, config=config,
                    progress=progress,
                )  # fmt: skip
            if args.exemplars is not None:
                triplets = _with_evidence(args, triplets, (model_a, model_b, merged), alignment, data)
            save(triplets, rendering.picture(args.out, layer))


def _with_evidence(args: Namespace, triplets: Any, models: tuple[Any, Any, Any], alignment: Any, data: Any) -> Any:
    """The triplets with exemplars of A, B' and merged, and with fates; both from one pass over the images."""
    from featviz.cli import inputs
    from featviz.evidence.exemplars.exemplar_picture import exemplar_picture
    from featviz.evidence.fates.fate import fate

    with inputs.bar("measuring") as progress:
        fates = fate(
            models[0], models[1], alignment, models[2], triplets.layer, data=data, controls=False,
            exemplars=args.exemplars, progress=progress,
        )  # fmt: skip
    assert fates.exemplars is not None
    shown = {unit for units in triplets.own_units.values() for unit in units if unit is not None}
    return triplets.with_evidence(exemplar_picture(fates.exemplars, data, triplets.layer, sorted(shown)), fates)
