"""What featviz says when it cannot go on: one sentence with the name of the thing and the remedy."""

import difflib
from collections.abc import Iterable


class FeatvizError(Exception):
    """Root of all errors that a caller can cause and mend; the command line prints it and exits with code 2."""


class UnitError(FeatvizError):
    """A layer or unit that the network does not have."""


class ModelError(FeatvizError):
    """A network that cannot be used: other architecture, NaN weights, output without tensors."""


class CheckpointError(FeatvizError):
    """A checkpoint file that cannot be read or does not fit the network."""


class AlignmentError(FeatvizError):
    """An alignment that does not belong to the models at hand, or cannot be computed from what was given."""


class DataError(FeatvizError):
    """Images that are not there or cannot be read."""


class RenderError(FeatvizError):
    """A rendering that cannot be made as asked: image size, objective, configuration."""


class BatchError(DataError, AlignmentError, RenderError):
    """Batches that cannot serve: there is none, or one without the labels that are needed."""


class DeviceError(FeatvizError):
    """A device that is not there."""


class OutputError(FeatvizError):
    """A place that cannot be written."""


def near_names(name: str, known: Iterable[str], most: int = 3) -> str:
    """The end of a sentence, mark included: up to `most` known names, the nearest in spelling or else the first."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=most, cutoff=0.4)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    if not known:
        return "there are none."
    return "there are " + ", ".join(known[:most]) + (f" and {len(known) - most} more." if len(known) > most else ".")

class AtlasError(FeatvizError):
    """A folder that holds no atlas, another one, or a damaged file."""
