"""From arguments to what the commands work on: networks, example inputs, images, alignments, progress bars."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.config import RenderConfig
from featviz.data import ImageFolderBatches
from featviz.errors import DataError, ModelError, UnitError
from featviz.gallery import bands
from featviz.matching.alignment import Alignment, load_alignment
from featviz.matching.exchange.permutation_files import read_permutations
from featviz.networks.architectures import build
from featviz.networks.pretrained import is_weights_name, load
from featviz.rendering import layer_width, resolve_device, resolve_layer
from featviz.subjects import Subject, input_channels, input_normalization, remember_normalization
from featviz.weights.checks import check_same_architecture


def network(args: Namespace, source: str | Path | None, of_b: bool = False) -> nn.Module:
    """A network on the device: published weights by name, or --arch with the weights of a file (None: fresh ones).

    It remembers the normalization of --mean and --std, of --mean-b and --std-b with `of_b`, where they are given.

    Raises:
        ModelError: no --arch where one is needed; and what `featviz.load` raises.
        RenderError: mean and std that are not usable.
    """
    model = _loaded(args, source, of_b)
    mean, std = (getattr(args, f"{name}_b", None) if of_b else None for name in ("mean", "std"))
    mean, std = mean or args.mean, std or args.std
    if mean is not None or std is not None:
        subject = Subject(model, mean=mean, std=std)
        input_normalization(subject, channels=args.channels or input_channels(model))
        remember_normalization(model, subject.mean or (), subject.std or (), "given on the command line")
    return model


def _loaded(args: Namespace, source: str | Path | None, of_b: bool) -> nn.Module:
    device = resolve_device(args.device)
    arch, arguments = args.arch, dict(args.arch_args)
    if of_b:
        arch, arguments = args.arch_b or arch, dict(args.arch_args_b) or ({} if args.arch_b else arguments)
    if source is None:
        if arch is None:
            raise ModelError(
                "there is no network: give a checkpoint with --arch, published weights by name, or --arch alone."
            )
        return build(arch, **arguments).eval().to(device)
    if is_weights_name(source):
        return load(source, say=say).to(device)
    if arch is None:
        raise ModelError(f"{source} is a checkpoint file: give the network that it belongs to, --arch NAME.")
    return load(source, arch, key=args.key, arguments=arguments, say=say).to(device)


def networks(args: Namespace) -> tuple[nn.Module, nn.Module]:
    """Networks A and B, which may differ."""
    return network(args, args.a), network(args, args.b, of_b=True)


def pair(args: Namespace) -> tuple[nn.Module, nn.Module]:
    """Networks A and B, of one architecture."""
    model_a, model_b = networks(args)
    check_same_architecture(model_a, model_b)
    return model_a, model_b


def example_input(args: Namespace, model: nn.Module, size: int | tuple[int, int]) -> Tensor:
    """One image of the size and channels that the network takes, (1, channels, h, w)."""
    height, width = size if isinstance(size, tuple) else (size, size)
    channels = args.channels or input_channels(model, _config(size))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, height, width, generator=generator).to(resolve_device(args.device))


def alignment(args: Namespace, model_a: nn.Module, model_b: nn.Module, size: int | tuple[int, int]) -> Alignment:
    """The file of --alignment: featviz's own, or what `write_permutations` wrote (.json)."""
    if args.alignment.suffix == ".json":
        return read_permutations(args.alignment, model_a, model_b, example_input(args, model_a, size))
    return load_alignment(args.alignment)


def images(args: Namespace, model: nn.Module, size: int | tuple[int, int]) -> ImageFolderBatches | None:
    """The images of --data in [0, 1], with as many channels as the network takes; None without --data."""
    if args.data is None:
        return None
    channels = args.channels or input_channels(model, _config(size))
    return ImageFolderBatches(args.data, size, channels=channels, batch=args.data_batch, limit=args.limit)


def labelled(args: Namespace, model: nn.Module, size: int | tuple[int, int]) -> ImageFolderBatches:
    """The images of --data where they have labels.

    Raises:
        DataError: no folder per class.
    """
    data = images(args, model, size)
    if data is None or data.labels is None:
        raise DataError(f"{args.data} has no labels: give a folder with one folder per class.")
    return data


def check_units(networks: Mapping[str, nn.Module], layer: str, units: list[int] | None, config: RenderConfig) -> None:
    """Find out before the first step that every network has the layer and its units.

    Raises:
        UnitError: one has not.
    """
    for name, model in networks.items():
        width, _ = layer_width(model, resolve_layer(model, layer), config)
        for unit in units or []:
            if unit >= width:
                raise UnitError(f"{layer} has no unit {unit} in {name}: its {width} units are 0 to {width - 1}.")


def check_bands(args: Namespace, model: nn.Module, config: RenderConfig) -> None:
    """Find out before the first step that --bands are bands of the network's images.

    Raises:
        OutputError: they are not.
    """
    bands.check_bands(args.bands, input_channels(model, config))


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal's stderr, moved by calls of (done, to do); 0 to do is not known."""
    with tqdm(desc=label, disable=None, leave=False, file=sys.stderr) as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total or None
            shown.update(done - shown.n)

        yield progress


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """What is done at present, on a terminal's stderr."""
    with tqdm(disable=None, leave=False, file=sys.stderr, bar_format="{desc} ({elapsed})") as shown:
        yield shown.set_description_str


def say(text: str) -> None:
    """A line for the person, apart from a command's results on stdout."""
    print(f"featviz: {text}", file=sys.stderr)


def _config(size: int | tuple[int, int]) -> RenderConfig:
    return RenderConfig(size=size)
