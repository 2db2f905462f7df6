"""`featviz triplet`: units of A, B' and the merged network as pictures, side by side."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featviz.cli import arguments
from featviz.config import RenderConfig
from featviz.errors import DataError
from featviz.files import check_writable
from featviz.units import parse_units

if TYPE_CHECKING:
    from featviz.triplet import Triplets

DESCRIPTION = """\
Render units of A, of B permuted into A's order, and of the merged network, each row from one random start, into one
PNG (and a JSON of what was rendered) per layer. What is not given is computed: the alignment by weight matching, or
with --data by activation matching; the merge by averaging, repaired where there is --data.
"""

EXAMPLES = """\
examples:
  featviz triplet a.safetensors b.safetensors --arch resnet20-x2 --alignment ab.safetensors \\
      --merged merged.safetensors --units layer3.1.bn1:0-7 --size 64 --out gallery
  featviz triplet a.safetensors b.safetensors --arch resnet20-x2 --units layer2.1.bn1:3,17 --units fc \\
      --data cifar/train --data-size 32 --size 64 --steps 256 --out gallery
  featviz triplet a.pth b.pth --arch resnet18 --units layer4.1.bn2:0-15 --device cuda --out gallery

A canvas of twice the size that a small network was trained with shows features of deep layers best; layers before
a ReLU (its norm or convolution) render more reliably than those after it.
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "triplet", "render units of A, B' and the merge", DESCRIPTION, EXAMPLES)
    arguments.add_pair(parser)
    parser.add_argument(
        "--units", action="append", required=True, metavar="LAYER[:UNITS]",
        help="layer3.1.bn1:17, layer3.1.bn1:0-7,12 or fc (all its units); may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("gallery"), metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--alignment", type=Path, metavar="FILE", help="made by featviz align")
    parser.add_argument("--merged", type=arguments.checkpoint, metavar="FILE", help="checkpoint of the merged network")
    arguments.add_architecture(parser)
    rendering = parser.add_argument_group("rendering")
    add_rendering(rendering, arguments.DEFAULTS.render)
    arguments.add_channels(rendering)
    data = arguments.add_data(parser, why="; for the matching and the repair that are not given")
    data.add_argument(
        "--data-size", type=arguments.size, metavar="PIXELS", help="side that the networks were trained with"
    )
    parser.set_defaults(run=run)


def add_rendering(group: Any, defaults: RenderConfig) -> None:
    """Options named after fields of RenderConfig, with their defaults."""
    group.add_argument(
        "--size", type=arguments.size, default=defaults.size, metavar="PIXELS",
        help="side of the pictures, or HEIGHTxWIDTH (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--input-size", type=arguments.size, default=defaults.input_size, metavar="PIXELS",
        help="side of what the network is fed (default: the pictures as they are)",
    )  # fmt: skip
    group.add_argument(
        "--memory", type=float, default=defaults.memory, metavar="GIB",
        help="what batch auto may fill (default: what is free)",
    )  # fmt: skip
    for name, kind, text in (
        ("steps", int, "steps of the ascent"),
        ("seed", int, "of the random starts and transformations"),
        ("lr", float, "step size of Adam"),
        ("beta1", float, "of Adam: its memory of gradients"),
        ("tolerance", float, "stop a unit whose score grew by less than this part in 16 steps (0: never)"),
        ("schedule", str, "of the step size: constant or cosine"),
        ("batch", arguments.batch, "pictures rendered together, or auto"),
        ("restarts", int, "other starts tried where a unit has no gradient"),
        ("precision", str, "of the network: auto, float32, bfloat16, float64"),
        ("parameterization", str, "fourier, pixel or maco"),
    ):
        default = getattr(defaults, name)
        group.add_argument(
            f"--{name}", type=kind, default=default, metavar=name.upper(), help=f"{text} (default: {default})"
        )
    group.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile of the networks where that is faster; for thousands of pictures",
    )


def render_config(args: Namespace) -> RenderConfig:
    """The RenderConfig of the arguments; RenderError where a value is out of range."""
    given = {f.name: getattr(args, f.name) for f in fields(RenderConfig) if hasattr(args, f.name)}
    return replace(arguments.DEFAULTS.render, **given)


def run(args: Namespace) -> None:
    if args.data is not None and args.data_size is None:
        raise DataError("--data needs --data-size: give the side of the images that the networks were trained with.")
    config = render_config(args)
    asked = _by_layer(args.units)
    for layer in asked:
        check_writable(picture(args.out, layer))
    from featviz.cli import inputs
    from featviz.matching.alignment import align
    from featviz.merging.average import merge
    from featviz.triplet import render_unit_triplet

    model_a, model_b = inputs.pair(args)
    data = inputs.images(args, model_a, args.data_size)
    if args.alignment is None:
        method = "weights" if data is None else "activations"
        inputs.say(f"no --alignment: matching {method}.")
        with inputs.bar("aligning") as progress:
            example = inputs.example_input(args, model_a, config.input_hw)
            alignment = align(model_a, model_b, example, method, data, progress=progress)
    else:
        alignment = inputs.alignment(args, model_a, model_b, config.input_hw)
        alignment.check(model_a, model_b)
    for layer, units in asked.items():
        alignment.indexer.check(layer, units or [])
    if args.merged is None:
        repair = "none" if data is None else arguments.DEFAULTS.merge.repair
        inputs.say(f"no --merged: averaging A and B', repair {repair}.")
        with inputs.bar("merging") as progress:
            merged = merge(model_a, model_b, alignment, repair=repair, data=data, progress=progress)
    else:
        merged = inputs.network(args, args.merged)
    with saving() as save:
        for layer, units in asked.items():
            with inputs.bar(layer) as progress:
                triplets = render_unit_triplet(
                    model_a, model_b, layer, units, merged=merged, alignment=alignment, config=config,
                    progress=progress,
                )  # fmt: skip
            save(triplets, picture(args.out, layer))


@contextmanager
def saving() -> Iterator[Callable[["Triplets", Path], None]]:
    """A function that writes a layer's triplets, and prints where, while the next layer is rendered; all is written at the end.

    Raises:
        OutputError: a place cannot be written; at the next call or at the end.
    """
    with ThreadPoolExecutor(1) as writer:
        under_way: list[Future[None]] = []

        def save(triplets: "Triplets", place: Path) -> None:
            finish()
            under_way.append(writer.submit(lambda: print(triplets.save(place))))

        def finish() -> None:
            while under_way:
                under_way.pop().result()

        yield save
        finish()


def picture(folder: Path, layer: str) -> Path:
    """Where the PNG of a layer goes."""
    return folder / f"{layer.replace('/', '_')}.png"


def _by_layer(specs: list[str]) -> dict[str, list[int] | None]:
    """Unit specs -> the units of each layer, in the order asked for; None is all of a layer's."""
    asked: dict[str, list[int] | None] = {}
    for spec in map(parse_units, specs):
        known = asked.get(spec.layer, [])
        if known is None or spec.channels is None:
            asked[spec.layer] = None
        else:
            asked[spec.layer] = list(dict.fromkeys([*known, *spec.channels]))
    return asked
