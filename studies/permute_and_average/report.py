"""The report: records of pairs -> Markdown, with a figure for each question."""

import os
from pathlib import Path
from typing import Any

from answers import QUESTIONS
from answers.answer import Answer, Finding
from estimates import Record, table
from measures.report import sources

INTRODUCTION = """# What permuting and averaging does to features

Two networks are trained apart, one is permuted into the other's order of units, and their weights are averaged and repaired.
What becomes of the features? The question is that of *Understanding Permutation Based Model Merging with Feature
Visualizations* (UniReps 2024); here it is answered on several pairs, for all units of all layers, on natural images, beside
controls, and with pictures. Every sentence with a number here is written by a program from the records in `results`.

**Words.** *B'*: B in A's order. *Agreement* c of a unit: correlation of A's unit with its partner in B, over images and
positions. *Fidelity* f: correlation of the merged unit with the mean of the two. *Survival*: the largest correlation of a
parent's unit with any unit of the layer in the merge. Figures of a layer are over all its units, means are over layers, with
their standard errors; layers of one network are not independent, so that an error is a guide and no test. Each pair was trained
once: what holds on one pair is one observation."""


def write_report(records: list[Record], path: Path, figures: Path) -> Path:
    """Write the report, and its figures as `study-<question>.png` into the folder `figures`."""
    answers = [question.answer(records) for question in QUESTIONS]
    for answer in answers:
        if answer.draw is not None:
            answer.draw(figures / _file(answer))
    path.write_text(report(records, answers, os.path.relpath(figures, path.parent)))
    return path


def report(records: list[Record], answers: list[Answer], figures: str) -> str:
    """The text of the report; `figures`: their folder, seen from the report."""
    parts = [INTRODUCTION, "## Pairs", _pairs(records), "## What was found"]
    parts.append(_findings([finding for answer in answers for finding in answer.findings]))
    for number, answer in enumerate(answers, 1):
        parts += [f"## {number}. {answer.question}", answer.text]
        if answer.draw is not None:
            shown = Path(figures, _file(answer)).as_posix()
            parts.append(f"![{answer.caption}]({shown})\n\n*{answer.caption}*")
        parts.append(f"**Control.** {answer.control}")
    parts += ["## Where the figures come from", "\n".join(sources(records)), _seconds(records)]
    return "\n\n".join(parts) + "\n"


def _findings(findings: list[Finding]) -> str:
    """What holds everywhere, what holds in places, what was not expected."""
    groups = {
        "Holds on every pair:": [f for f in findings if all(f.holds.values()) and not f.surprising],
        "Holds on some pairs and not on others:": [
            f for f in findings if any(f.holds.values()) and not all(f.holds.values()) and not f.surprising
        ],
        "Holds on none:": [f for f in findings if not any(f.holds.values())],
        "Not expected:": [f for f in findings if f.surprising and any(f.holds.values())],
    }
    told = [head + "\n\n" + "\n".join(f"* {finding}" for finding in found) for head, found in groups.items() if found]
    return "\n\n".join(told)


def _file(answer: Answer) -> str:
    return f"study-{answer.name}.png"


def _pairs(records: list[Record]) -> str:
    rows = []
    for record in records:
        accuracy: dict[str, Any] = record["accuracy"]
        units = sum(len(found["agreement"]) for found in record["layers"].values())
        merges = [
            f"{accuracy[name]:.1f}" if name in accuracy else "-" for name in ("activations", "weights", "zipit", "cca")
        ]
        main = f"{accuracy[record['method']]:.1f}" if record["method"] == "identity" else "-"
        rows.append([
            record["title"], f"{accuracy['A']:.1f} / {accuracy['B']:.1f}", *merges, main, f"{accuracy['unrepaired']:.1f}",
            str(len(record["layers"])), str(units), str(record["images"]),
        ])  # fmt: skip
    head = [
        "pair",
        "A / B, %",
        "activations",
        "weights",
        "ZipIt",
        "CCA",
        "not permuted",
        "unrepaired",
        "layers",
        "units",
        "images",
    ]
    return "Accuracy of the parents and of the repaired merges at 1/2, and what was measured.\n\n" + table(head, rows)


def _seconds(records: list[Record]) -> str:
    rows = [[record["title"], *(f"{seconds:.0f}" for seconds in record["seconds"].values())] for record in records]
    names = list(records[0]["seconds"])
    names = ["matching, merging and accuracy" if name == "accuracy" else name for name in names]
    return "Seconds of the steps:\n\n" + table(["pair", *names], rows)
