"""`featviz demo`: the bundled pair, aligned and merged, as pictures; needs no data and no network access."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import arguments, rendering
from featviz.config import RenderConfig

DESCRIPTION = """\
Two ResNet-20 that were trained on CIFAR-10 from different seeds come with featviz, with their alignment and the
statistics of their repaired merge. Render some units of three layers in A, B' and the merge, and make a page of them.
"""

EXAMPLES = """\
examples:
  featviz demo                                  two minutes on two cores with AVX-512, several without; writes out/demo/
  featviz demo --steps 16 --size 32             a quick look
"""

NAME = "demo-{}"  # of a layer's picture
LOOK = """\
Each row is one unit: A's, the unit of B that was matched to it (in A's position), and their average's.
The three pictures of a row began with the same noise; what differs comes from the weights.
In each file the first {best} rows are the layer's best matched units and the last {worst} its worst: look for one
texture across a good row, and for what the merge made of two different ones in a bad row.
Below a merged unit stands what became of it on 10,000 images, measured beforehand: c, how alike A and B' answer, and f, how
well the merged unit answers as their mean. Open {page} in a browser to see all of it."""


def add(commands: Any) -> None:
    defaults = arguments.DEFAULTS.demo
    parser = arguments.add_command(commands, "demo", "render units of a bundled, trained pair", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--out",
        type=Path,
        default=rendering.OUT / "demo",
        metavar="FOLDER",
        help="of the pictures (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, help="steps of the ascent (default: until converged)")
    parser.add_argument(
        "--size", type=arguments.size, default=defaults.size, metavar="PIXELS",
        help="side of the pictures (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=arguments.DEFAULTS.render.seed, help="of the starts (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, mps (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    defaults = arguments.DEFAULTS.demo
    config = RenderConfig(size=args.size, steps=args.steps, seed=args.seed)
    rendering.check_pictures(args.out, map(NAME.format, defaults.layers))
    from featviz.atlases.page import page_of_panels
    from featviz.cli import inputs
    from featviz.evidence.fates.stored_fates import read_fates
    from featviz.gallery.page.write import write_page
    from featviz.matching.alignment import load_alignment
    from featviz.merging.merge import merge
    from featviz.rendering.render import resolve_device
    from featviz.triplet import render_unit_triplet
    from featviz.zoo import bundled_pair

    device = resolve_device(args.device)
    pair = bundled_pair()
    alignment = load_alignment(pair.alignment_path)
    alignment.check(pair.a, pair.b)
    fates = read_fates(pair.fates_path)
    merged = merge(pair.a, pair.b, alignment, repair="none")
    merged.load_state_dict(pair.merged_statistics, strict=False)
    shown = []
    with rendering.saving() as save:
        for layer in defaults.layers:
            units = _best_and_worst(alignment.indexer, layer, defaults.best, defaults.worst)
            with inputs.bar(layer) as progress:
                triplets = render_unit_triplet(
                    pair.a, pair.b, layer, units, merged=merged, alignment=alignment, config=config,
                    device=device, progress=progress,
                )  # fmt: skip
            shown.append(triplets.with_evidence(fates=fates))
            save(shown[-1], rendering.picture(args.out, NAME.format(layer)))
    page = write_page(page_of_panels("Two ResNet-20 and their merge", shown), args.out / "page")
    print(LOOK.format(best=defaults.best, worst=defaults.worst, page=page))


def _best_and_worst(indexer: Any, layer: str, best: int, worst: int) -> list[int]:
    """Units of A by match score, descending: the first `best` and the last `worst`."""
    ranked = sorted(range(indexer.layers[layer]), key=lambda unit: -indexer.match(layer, unit).score)
    return [*ranked[:best], *ranked[len(ranked) - worst :]]
