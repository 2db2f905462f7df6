"""Networks with their weights: by the name of published weights, or an architecture and a checkpoint file.

load("torchvision:resnet50/IMAGENET1K_V1")
load("timm:resnet50.a1_in1k")                       # needs the extra `timm`, as does the next
load("hf-hub:timm/resnet50.a1_in1k")                # any repository of the Hugging Face hub that timm reads
load("runs/a.pth", arch="resnet20-x2", key="model_ema")

Every network comes in evaluation mode, on the CPU, with the input normalisation that its weights were trained with. Weights by
name are downloaded once, by torchvision or timm, into their own caches; they are read as tensors alone and never unpickled.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featviz.errors import CheckpointError, ModelError, near_names, summary
from featviz.isolation import copy_of
from featviz.networks.architectures import build, import_timm
from featviz.subjects import remember_normalization
from featviz.weights.checkpoints import load_into

log = logging.getLogger("featviz")
SOURCES = ("torchvision:", "timm:", "hf-hub:")
ACCEPTED = "torchvision:resnet50/IMAGENET1K_V2, timm:resnet50.a1_in1k or hf-hub:owner/name"
Say = Callable[[str], None]


def is_weights_name(source: str | Path) -> bool:
    """Whether `source` names published weights, and no file."""
    return str(source).startswith(SOURCES)


def load(
    source: str | Path,
    arch: str | Callable[..., nn.Module] | nn.Module | None = None,
    *,
    key: str | None = None,
    arguments: Mapping[str, object] | None = None,
    say: Say | None = None,
) -> nn.Module:
    """A network with trained weights, in evaluation mode.

    Args:
        source: the name of published weights, or the path of a checkpoint file.
        arch: of a checkpoint file: the name of an architecture (see `networks.build`), a callable that makes the network, or a
            network, of which a copy is loaded. Weights by name have their own.
        key: which of several sets of weights in a checkpoint file.
        arguments: of the architecture of a checkpoint file.
        say: called with a sentence for everything that was chosen, stripped or ignored; None: logged.

    Raises:
        ModelError: no such weights (with near names), no architecture for a file, or timm is missing.
        CheckpointError: the file does not fit, or the weights cannot be downloaded.
    """
    source = str(source)
    say = log.info if say is None else say
    if is_weights_name(source):
        if arch is not None or key is not None or arguments:
            raise ModelError(f"{source} has its own architecture and weights: leave out arch, its arguments, and key.")
        return (_load_torchvision if source.startswith("torchvision:") else _load_timm)(source, say).eval()
    if arch is None:
        what = "is a checkpoint file" if Path(source).exists() else "is no file, and no name of weights"
        raise ModelError(
            f"{source} {what}: give arch= with a checkpoint file, or a name of weights, such as {ACCEPTED}."
        )
    if isinstance(arch, nn.Module):
        model = copy_of(arch)
    elif isinstance(arch, str):
        model = build(arch, **dict(arguments or {}))
    else:
        model = arch(**dict(arguments or {}))
    for note in load_into(model, source, key):
        say(note)
    return model.eval()


def _load_torchvision(source: str, say: Say) -> nn.Module:
    """`torchvision:resnet50/IMAGENET1K_V1`; without weights' name torchvision's default ones."""
    import torchvision  # takes seconds

    name, _, wanted = source.removeprefix("torchvision:").partition("/")
    known = torchvision.models.list_models()
    if name not in known:
        raise ModelError(f"{source}: torchvision has no network {name!r}, {near_names(name, known)}")
    members = torchvision.models.get_model_weights(name).__members__
    if wanted not in (*members, ""):
        raise ModelError(f"{source}: {name} has no weights {wanted!r}, {near_names(wanted, members)}")
    weights: Any = members.get(wanted or "DEFAULT")
    if weights is None:
        raise ModelError(f"{source}: torchvision has no weights of {name}: give another network.")
    if wanted in ("", "DEFAULT"):
        say(f"{source}: took {weights.name}, the default weights.")
    try:
        weights.get_state_dict(progress=False, check_hash=True, weights_only=True)  # downloads, and unpickles nothing
        model = torchvision.models.get_model(name, weights=weights, progress=False)
    except Exception as error:
        place = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
        raise CheckpointError(
            f"{source} cannot be loaded ({summary(error)}): download {weights.url} to {place}, or remove that file if it is "
            "damaged."
        ) from error
    preset = weights.transforms()
    mean, std = (getattr(preset, part, None) for part in ("mean", "std"))
    if mean and std:
        remember_normalization(model, mean, std, f"torchvision's transforms of {weights}")
    return model


def _load_timm(source: str, say: Say) -> nn.Module:
    """`timm:resnet50.a1_in1k`, without a tag timm's default one, or `hf-hub:owner/name`."""
    timm = import_timm(source)
    name = source if source.startswith("hf-hub:") else source.removeprefix("timm:")
    if not source.startswith("hf-hub:"):
        architecture, _, tag = name.partition(".")
        published = timm.list_pretrained()
        if not timm.is_model(architecture):
            raise ModelError(f"{source}: timm has no network {architecture!r}, {near_names(name, published)}")
        tags = [other.partition(".")[2] for other in published if other.partition(".")[0] == architecture]
        if not tags:
            raise ModelError(f"{source}: timm has no weights of {architecture}, {near_names(name, published)}")
        if tag and tag not in tags:
            raise ModelError(f"{source}: {architecture} has no weights {tag!r}, {near_names(tag, tags)}")
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:
        raise CheckpointError(
            f"{source} cannot be loaded ({summary(error)}): check its name and the connection to huggingface.co, or give a "
            "downloaded file with its architecture, for example arch='timm:resnet50'."
        ) from error
    if "." not in name and not source.startswith("hf-hub:"):
        say(f"{source}: took {model.pretrained_cfg.get('tag')!r}, the default weights.")
    return model
