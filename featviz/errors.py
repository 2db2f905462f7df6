"""What featviz says when it cannot go on: one sentence with the name of the thing and the remedy."""

import difflib
import reprlib
from collections.abc import Iterable

MOST_CHARACTERS = 1500  # of a sentence


class FeatvizError(Exception):
    """Root of all errors that a caller can cause and mend; the command line prints it and exits with code 2.

    Its text is one line that every terminal can show: what a file or a caller gave is quoted in it as it came, so control
    characters are escaped here, and the middle of a text that is too long is left out.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > MOST_CHARACTERS:
            text = f"{text[: MOST_CHARACTERS // 2]} ... {text[-MOST_CHARACTERS // 4 :]}"
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


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


class AtlasError(FeatvizError):
    """A folder that holds no atlas, another one, or a damaged file."""


_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = 4, 200, 200, 100
_repr.maxtuple = _repr.maxlist = _repr.maxdict = _repr.maxset = 20


def shown(value: object) -> str:
    """`repr(value)` for a sentence: of a few hundred characters at most, also of a value that has no repr.

    >>> shown("x" * 10_000) == "'" + "x" * 97 + "..." + "x" * 98 + "'"
    True
    >>> shown(10**5000)
    'a very large int'
    """
    if isinstance(value, int) and abs(value) > 10**100:  # Python refuses to write more than 4300 digits
        return f"a very {'large' if value > 0 else 'negative'} int"
    try:
        return _repr.repr(value)
    except Exception:  # whatever the repr of a value inside it raises
        return f"a {type(value).__name__}"


def summary(error: BaseException, most: int = 200) -> str:
    """Type and message of an error of other code, for a sentence: one line, without what torch adds of its own C++ code.

    Args:
        most: characters of the message.

    >>> summary(RuntimeError("sizes differ:\\n  3 and 4.\\nException raised from add at add.cpp:7"))
    'RuntimeError: sizes differ: 3 and 4'
    >>> summary(ValueError())
    'ValueError'
    """
    message = " ".join(str(error).partition("Exception raised from ")[0].split())[:most].rstrip(". ")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def near_names(name: str, known: Iterable[str], most: int = 3) -> str:
    """The end of a sentence, mark included: up to `most` known names, the nearest in spelling or else the first."""
    known = list(known)
    near = difflib.get_close_matches(
        name[:200], known, n=most, cutoff=0.4
    )  # its time grows with the square of the length
    if near:
        return "did you mean " + " or ".join(near) + "?"
    if not known:
        return "there are none."
    return "there are " + ", ".join(known[:most]) + (f" and {len(known) - most} more." if len(known) > most else ".")
