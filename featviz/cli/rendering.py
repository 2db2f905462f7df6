"""What the commands that render share: options made from `RenderConfig`, unit specs, and files that are written meanwhile."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from featviz.cli import arguments
from featviz.config import RenderConfig
from featviz.files import check_writable
from featviz.units import parse_units

if TYPE_CHECKING:
    from featviz.panel import Panel

OUT = Path("out")  # where pictures go, which this project's .gitignore names

LOOK = """\
Images of twice the size that a small network was trained with show features of deep layers best; layers before
a ReLU (its norm or convolution) render more reliably than those after it.
"""


def add_pictures(parser: arguments.Parser) -> None:
    """Which units are rendered, and where their pictures go."""
    parser.add_argument(
        "--units", action="append", required=True, metavar="LAYER[:UNITS]",
        help="layer3.1.bn1:17, layer3.1.bn1:0-7,12 or fc (all its units); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="FOLDER", help="of the pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--bands", type=arguments.whole_numbers, metavar="R,G,B",
        help="of images of other than 3 channels those shown as red, green and blue, counted from 0 (default: a gray "
        "tile for each channel)",
    )  # fmt: skip


def add_rendering(parser: arguments.Parser, pair: bool = False) -> None:
    """Options of the rendering, and of the network's input."""
    group = parser.add_argument_group("rendering")
    arguments.add_options(group, arguments.DEFAULTS.render)
    arguments.add_channels(group, pair)


def render_config(args: Namespace) -> RenderConfig:
    """The RenderConfig of the arguments; mean and std come with each network.

    Raises:
        RenderError: a value is out of its range.
    """
    given = {one.name: getattr(args, one.name) for one in fields(RenderConfig) if "help" in one.metadata}
    return replace(arguments.DEFAULTS.render, **given)


def units_by_layer(specs: list[str]) -> dict[str, list[int] | None]:
    """Unit specs -> the units of each layer, in the order asked for; None is all of a layer's."""
    asked: dict[str, list[int] | None] = {}
    for spec in map(parse_units, specs):
        known = asked.get(spec.layer, [])
        if known is None or spec.channels is None:
            asked[spec.layer] = None
        else:
            asked[spec.layer] = list(dict.fromkeys([*known, *spec.channels]))
    return asked


def picture(folder: Path, layer: str) -> Path:
    """The PNG of a layer."""
    return folder / f"{layer.replace('/', '_')}.png"


def check_pictures(folder: Path, layers: Iterable[str]) -> None:
    """Find out before the first step that the pictures of these layers could be written.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    for layer in layers:
        check_writable(picture(folder, layer))


@contextmanager
def saving(bands: Sequence[int] | None = None) -> Iterator[Callable[["Panel", Path], None]]:
    """A function that writes a layer's panel and prints its path, while the next is rendered; all is written at the end.

    `bands` are those of `Panel.save`.

    Raises:
        OutputError: a file cannot be written; at the next call or at the end.
    """
    with ThreadPoolExecutor(1) as writer:
        under_way: list[Future[None]] = []

        def save(panel: "Panel", path: Path) -> None:
            finish()
            under_way.append(writer.submit(lambda: print(panel.save(path, bands))))

        def finish() -> None:
            while under_way:
                under_way.pop().result()

        yield save
        finish()
