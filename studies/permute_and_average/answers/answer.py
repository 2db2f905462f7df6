"""The answer to a question: what is asked, what was found on which pairs, its controls, and its figure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """A statement that each pair bears out or not.

    sentence: the statement, without its end. criterion: what is counted as bearing it out. holds: title of a pair -> whether.
    surprising: whether it was not expected before it was measured.
    """

    sentence: str
    criterion: str
    holds: Mapping[str, bool]
    surprising: bool = False

    def __str__(self) -> str:
        against = [title for title, holds in self.holds.items() if not holds]
        count = f"{len(self.holds) - len(against)} of {len(self.holds)} pairs"
        return f"{self.sentence} ({self.criterion}: {count}{'; not ' + ', '.join(against) if against else ''})."


@dataclass(frozen=True)
class Answer:
    """name: of the figure's file. text: Markdown. control: what it is compared with, and what would refute it.

    draw: makes the figure; None: there is none.
    """

    name: str
    question: str
    findings: tuple[Finding, ...]
    text: str
    control: str
    caption: str = ""
    draw: Callable[[Path], None] | None = None


def unanswered(name: str, question: str, needed: str) -> Answer:
    """Where no pair that was measured has what a question needs."""
    return Answer(name, question, (), f"Not answered: no pair that was measured has {needed}.", "none.")
