"""Text measured before it is drawn: lines that fit a width in pixels.

>>> Lettering(14).wrap("layer3.1.conv2:17", 60, most=4)
['layer3.1.', 'conv2:17']
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import ImageFont

PLAIN = str.maketrans({
    "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "→": "->", "×": "x",
    "μ": "mu", "σ": "sigma", "≈": "~", "≤": "<=", "≥": ">=",
})  # fmt: skip
ELLIPSIS = "..."


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def printable(text: str) -> str:
    """The text in characters that the font has: typography made plain, accents dropped, the rest `?`."""
    text = unicodedata.normalize("NFKD", " ".join(str(text).split()).translate(PLAIN))
    text = "".join(c for c in text if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" or c in "±·°" else "?" for c in text)


@dataclass(frozen=True)
class Lettering:
    """The font of Pillow (Aileron) at `size` pixels."""

    size: int

    @property
    def font(self) -> Any:
        return _font(self.size)

    @property
    def leading(self) -> int:
        """Pixels from one baseline to the next."""
        return round(self.size * 1.3)

    def width(self, text: str) -> int:
        """Pixels that the text takes."""
        return -int(-self.font.getlength(printable(text)) // 1)

    def wrap(self, text: str, width: int, most: int) -> list[str]:
        """Lines of at most `width` pixels, broken at spaces; a longer word after . _ / : or where it must.

        At most `most` lines; what does not fit ends in an ellipsis.
        """
        rest, lines = printable(text).strip(), []
        while rest and len(lines) < most - 1:
            end = self._line_end(rest, width)
            lines.append(rest[:end].rstrip())
            rest = rest[end:].lstrip()
        return [*lines, self.shorten(rest, width)] if rest else lines

    def _line_end(self, text: str, width: int) -> int:
        """Where the first line of the text ends, in characters: always at least one."""
        if self.width(text) <= width:
            return len(text)
        fitting = max(1, self._fitting(text, width))
        for breaks in (r" ", r"(?<=[._/:,;|-])"):
            ends = [found.end() for found in re.finditer(breaks, text[: fitting + 1]) if found.start() <= fitting]
            ends = [end for end in ends if 0 < self.width(text[:end].rstrip()) <= width]
            if ends:
                return ends[-1]
        return fitting

    def shorten(self, text: str, width: int) -> str:
        """The text where it fits into `width` pixels, else its beginning and an ellipsis."""
        text = printable(text)
        if self.width(text) <= width:
            return text
        fitting = self._fitting(text, width - self.width(ELLIPSIS))
        return text[:fitting].rstrip(" .") + ELLIPSIS

    def _fitting(self, text: str, width: int) -> int:
        """How many characters of the beginning fit."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle]) <= width else (low, middle - 1)
        return low
