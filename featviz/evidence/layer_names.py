"""Which layers are measured: names and patterns -> module names with the axis of their units."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from featviz.errors import UnitError, near_names

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
WITH_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def measurable_layers(
    model: nn.Module, layers: str | Sequence[str] | None, known: Mapping[str, int]
) -> dict[str, int | None]:
    """Module name -> axis of the units in its output, in the order of the network.

    Args:
        layers: names, or patterns with * and ? ("layer3.*" matches every module below); None: the outputs of all norms, or of
            all linear layers and convolutions where there is no norm.
        known: axes from an alignment; other modules have None, or the last axis for a linear layer and a LayerNorm. Where it is
            not empty only its layers are taken.

    Raises:
        UnitError: a name or pattern that no layer has.
    """
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    candidates = [name for name in modules if not known or name in known]
    if layers is None:
        chosen = [name for name in candidates if isinstance(modules[name], NORMS)]
        chosen = chosen or [name for name in candidates if isinstance(modules[name], WITH_WEIGHTS)]
    else:
        asked = [layers] if isinstance(layers, str) else list(layers)
        for pattern in asked:
            if not any(fnmatchcase(name, pattern) for name in candidates):
                raise UnitError(f"there is no layer {pattern!r} with units: {near_names(pattern, candidates)}")
        patterns = [name for name in asked if set(name) & set("*?[")]
        chosen = [
            name
            for name in candidates
            if name in asked
            or (
                any(fnmatchcase(name, pattern) for pattern in patterns)
                and isinstance(modules[name], NORMS + WITH_WEIGHTS)
            )
        ]
    if not chosen:
        raise UnitError("the network has no norm and no layer with weights to measure: name layers.")
    return {name: known.get(name, _axis(modules[name])) for name in chosen}


def _axis(module: nn.Module) -> int | None:
    return -1 if isinstance(module, (nn.Linear, nn.LayerNorm, nn.RMSNorm)) else None
