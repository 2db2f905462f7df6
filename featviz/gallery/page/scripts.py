"""Data of a page as JavaScript files, which a page that is opened from disk can load by <script> elements.

value -> `featviz.receive("units/0", {...});`
"""

import base64
import io
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_FROM = 48  # pixels: natural images of this side or more are stored as JPEG
JPEG_QUALITY = 92
DIGITS = 5

# Characters that could end a <script> element or a line of JavaScript, as JSON escapes.
ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def script(name: str, value: Any) -> str:
    """A JavaScript file, in ASCII, that hands a value to the page under a name.

    >>> script("units/0", {"name": "</script>"})
    'featviz.receive("units/0", {"name":"\\\\u003c/script\\\\u003e"});\\n'
    """
    return f"featviz.receive({_json(name)}, {_json(plain(value))});\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def plain(value: Any) -> Any:
    """The value in types of JSON: numbers of numpy as Python's with `DIGITS` digits, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value)


def rendering_url(image: NDArray[np.uint8]) -> str:
    """An image (height, width, 3 or 1) as the data URL of a PNG, which loses nothing."""
    return _url(image, "PNG", {})


def photograph_url(image: NDArray[np.uint8]) -> str:
    """A natural image as a data URL: a JPEG where its longer side has `JPEG_FROM` pixels or more, else a PNG."""
    if max(image.shape[:2]) >= JPEG_FROM:
        return _url(image, "JPEG", {"quality": JPEG_QUALITY, "subsampling": 0})
    return _url(image, "PNG", {})


def _url(image: NDArray[np.uint8], kind: str, options: dict[str, Any]) -> str:
    data = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(data, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
