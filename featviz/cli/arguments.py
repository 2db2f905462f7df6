"""Arguments that several commands share. Imports no torch: help is answered at once."""

import argparse
import ast
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

from featviz.config import Defaults
from featviz.errors import CheckpointError, FeatvizError

DEFAULTS = Defaults()


class UsageError(FeatvizError):
    """Arguments that the command line does not take."""


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one sentence, raised as UsageError, and whose examples keep their lines."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.rstrip('.')}: see {self.prog} --help.")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)


def add_command(commands: Any, name: str, summary: str, description: str, examples: str) -> Parser:
    """A command with what it does, in a line and in full, and examples at the end of its help."""
    return commands.add_parser(name, help=summary, description=description, epilog=examples)


def add_architecture(parser: Parser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--arch", metavar="NAME",
        help="of checkpoint files: resnet20-x2, vgg11_bn-x1 (zoo), resnet18 (torchvision), timm:resnet18, or yours as "
        "package.module:callable; weights by name have their own",
    )  # fmt: skip
    group.add_argument(
        "--arch-arg", action="append", default=[], type=_key_value, metavar="KEY=VALUE", dest="arch_args",
        help="argument of the architecture, for example num_classes=10; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--key", metavar="NAME", help="which of several sets of weights in a checkpoint file, for example model_ema"
    )
    group.add_argument(
        "--device", default="cpu", metavar="DEVICE", help="cpu, cuda, cuda:1, mps (default: %(default)s)"
    )


def add_pair(parser: Parser, aligned: bool = False, optional: bool = False) -> None:
    """The arguments A and B, which may be left out where they are optional; `aligned`: and --alignment, which must be given."""
    count = "?" if optional else None
    parser.add_argument(
        "a", type=weights, metavar="A", nargs=count,
        help="network A: a checkpoint (.safetensors, .pt, .pth), or published weights by name: torchvision:NAME/WEIGHTS, "
        "timm:NAME.WEIGHTS, hf-hub:OWNER/NAME",
    )  # fmt: skip
    parser.add_argument("b", type=weights, metavar="B", nargs=count, help="network B, likewise")
    if aligned:
        parser.add_argument("--alignment", type=Path, required=True, metavar="FILE", help="made by featviz align")
    group = parser.add_argument_group("network B, where it differs from A")
    group.add_argument("--arch-b", metavar="NAME", help="architecture of B's checkpoint file (default: that of --arch)")
    group.add_argument(
        "--arch-arg-b", action="append", default=[], type=_key_value, metavar="KEY=VALUE", dest="arch_args_b",
        help="argument of B's architecture, in place of --arch-arg, for example num_classes=7; may be repeated",
    )  # fmt: skip


def add_input(parser: Parser, pair: bool = False) -> None:
    """What the network is fed, where no rendering asks for it."""
    group = parser.add_argument_group("input of the network")
    group.add_argument(
        "--size", type=size, default=DEFAULTS.render.size, metavar="PIXELS",
        help="side of the images that it takes, or HEIGHTxWIDTH (default: %(default)s)",
    )  # fmt: skip
    add_channels(group, pair)


def add_channels(group: Any, pair: bool = False) -> None:
    """What the input has and how it is normalized; of a pair also how that of B is."""
    group.add_argument(
        "--channels", type=positive, default=None, metavar="N",
        help="color channels (default: what its first layer takes)",
    )  # fmt: skip
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        group.add_argument(
            f"--{name}", type=numbers, default=None, metavar="X,Y,Z",
            help=f"{what} per channel of images in [0, 1] that the input is normalized with (default: the network's own, "
            "else ImageNet's)",
        )  # fmt: skip
    for name in ("mean", "std") if pair else ():
        group.add_argument(
            f"--{name}-b",
            type=numbers,
            default=None,
            metavar="X,Y,Z",
            help=f"of B, where it differs (default: --{name})",
        )


def add_data(parser: Parser, required: bool = False, why: str = "") -> Any:
    group = parser.add_argument_group("images")
    group.add_argument(
        "--data", type=Path, required=required, metavar="FOLDER",
        help=f"images in one folder per class, or images alone{why}",
    )  # fmt: skip
    group.add_argument(
        "--limit", type=positive, default=DEFAULTS.data.limit, metavar="N",
        help="images at most, taken evenly from all (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--data-batch", type=positive, default=DEFAULTS.data.batch, metavar="N",
        help="images fed together (default: %(default)s)",
    )  # fmt: skip
    return group


def add_options(group: Any, config: Any) -> None:
    """An option for every field of a configuration that has a help text, with the value that it has in `config`."""
    hints = get_type_hints(type(config))
    for one in fields(config):
        if "help" not in one.metadata:
            continue
        flag, default = f"--{one.name.replace('_', '-')}", getattr(config, one.name)
        if hints[one.name] is bool:
            group.add_argument(flag, action="store_true", default=default, help=one.metadata["help"])
            continue
        shown = f"{default:.4g}" if isinstance(default, float) else default
        text = one.metadata["help"] + ("" if default is None else f" (default: {shown})")
        read, metavar = _reader(hints[one.name])
        group.add_argument(flag, type=read, default=default, metavar=metavar, help=text)


def _reader(kind: Any) -> tuple[Callable[[str], Any], str]:
    """What reads a value of this type from text, and what stands for the value in the help."""
    kinds = set(get_args(kind)) - {NoneType} or {kind}
    if kinds == {int, tuple[int, int]}:
        return size, "PIXELS"
    if kinds == {int, str}:
        return batch, "N"
    (one,) = kinds
    return one, {int: "N", float: "X", str: "NAME"}[one]


def weights(text: str) -> str | Path:
    """The name of published weights, or the path of a checkpoint."""
    return text if text.startswith(("torchvision:", "timm:", "hf-hub:")) else checkpoint(text)


def checkpoint(text: str) -> Path:
    """A path that exists: a mistyped name is found before torch is imported."""
    path = Path(text)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give a .safetensors or .pt file.")
    return path


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too small, give 1 or more")
    return number


def batch(text: str) -> int | str:
    """A number, or `auto`."""
    return text if text == "auto" else positive(text)


def size(text: str) -> int | tuple[int, int]:
    """`64` or `48x64` (height x width)."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size, write 64 or 48x64 (height x width)")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, write 0.5,0.5,0.5") from None


def whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, write 3,2,1") from None


def renaming(text: str) -> tuple[str, str]:
    """`layers=features`: a name in B and the same in A."""
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f"{text!r} renames nothing, write NAME_IN_B=NAME_IN_A")
    return old, new


def _key_value(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no argument, write key=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return key, value
