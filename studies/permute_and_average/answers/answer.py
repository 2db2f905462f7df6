"""The answer to a question: what is asked, what was found, what would refute it, and its figure."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """name: of the figure's file. text: Markdown. control: what it is compared with, and what would refute it.

    finding: one sentence for the head of the report. draw: makes the figure; None: there is none.
    """

    name: str
    question: str
    finding: str
    text: str
    control: str
    caption: str = ""
    draw: Callable[[Path], None] | None = None
