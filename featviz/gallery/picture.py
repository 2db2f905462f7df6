"""A result that is a picture and a record: it shows itself in a notebook, and is saved as PNG with JSON beside it."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from featviz.files import write_atomically
from featviz.gallery.grid import save_png
from featviz.version import __version__


class Picture:
    """A subclass gives `title`, `grid` and `record`."""

    @property
    def title(self) -> str:
        """What the picture is of; kept in the PNG."""
        raise NotImplementedError

    def grid(self, *, bands: Sequence[int] | None = None) -> Image.Image:
        """The captioned picture.

        Args:
            bands: channels that are shown as red, green and blue; None: gray tiles for other than 1 or 3 channels.
        """
        raise NotImplementedError

    def record(self) -> dict[str, object]:
        """What was measured and how it was made, ready for JSON."""
        raise NotImplementedError

    def save(self, path: str | Path, bands: Sequence[int] | None = None) -> Path:
        """Write the picture as PNG to `path` (its suffix becomes .png), and `record()` as JSON beside it; `bands` as in `grid`.

        Raises:
            OutputError: the path cannot be written.
        """
        path = Path(path).with_suffix(".png")
        text = json.dumps({"featviz": __version__, **self.record()}, indent=1) + "\n"
        save_png(self.grid(bands=bands), path, {"Title": self.title, "Software": f"featviz {__version__}"})
        write_atomically(path.with_suffix(".json"), lambda part: part.write_text(text, encoding="utf-8"))
        return path

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.grid().save(buffer, "PNG")
        return buffer.getvalue()


def finite(value: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return float(value) if math.isfinite(value) else None
