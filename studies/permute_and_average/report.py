"""The report: records of pairs -> Markdown, with a figure for each question."""

import os
from pathlib import Path
from typing import Any

from answers import QUESTIONS
from answers.answer import Answer, Finding
from estimates import Record
from measures.report import markdown, sources
from pairs import ABOUT

INTRODUCTION = """# What permuting and averaging does to features

Two networks are trained apart, one is permuted into the other's order of units, and their weights are averaged and repaired.
What becomes of the features? The question is that of *Understanding Permutation Based Model Merging with Feature
Visualizations* (UniReps 2024); here it is answered on several pairs, for all units of all layers, on natural images, beside
controls, and with pictures. Every sentence with a number here is written by a program from the records in `results`.

**Words.** *B'*: B in A's order. *Agreement* c of a unit: correlation of A's unit with its partner in B, over images and
positions. *Fidelity* f: correlation of the merged unit with the mean of its two parents' outputs, as they are. *Survival*: the
largest correlation of a parent's unit with any unit of the layer in the merge. *Layers* are the outputs of norms, before a
residual addition and before the ReLU, and of convolutions and linear layers where there is no norm.

**How to read the figures.** Where nothing else is said the merge is at weight 1/2, matched by activations, and repaired
(BatchNorm statistics measured afresh; REPAIR where there is no BatchNorm). Figures of a layer are over all its units, means are
over layers, with their standard errors. Layers of one network are not independent, so that an error is a guide and no test:
*above 0* and *below 0* mean by more than two standard errors, and count pairs. Each pair was trained once, and is one
observation."""


UNITS_FILE = "study-units.png"
UNITS = (
    "Units of layer2.1.bn1 of ResNet-20 x2 in A, in B', in the merge, in the merge without repair, and in the "
    "average of networks that were not permuted. Above: the three units whose parents agree most; below: the "
    "three whose parents agree least, whose merged unit blends two features. (`portraits.py`)"
)


def write_report(records: list[Record], path: Path, figures: Path) -> Path:
    """Write the report, and its figures as `study-<question>.png` into the folder `figures`."""
    answers = [question.answer(records) for question in QUESTIONS]
    for answer in answers:
        if answer.draw is not None:
            answer.draw(figures / _file(answer))
    units = (figures / UNITS_FILE).exists()
    path.write_text(report(records, answers, os.path.relpath(figures, path.parent), units))
    return path


def report(records: list[Record], answers: list[Answer], figures: str, units: bool = False) -> str:
    """The text of the report.

    Args:
        figures: their folder, seen from the report. units: whether the picture of `portraits.py` is there.
    """
    parts = [INTRODUCTION, "## Pairs", _pairs(records), "## What was found"]
    if units:
        parts.insert(1, f"![{UNITS}]({Path(figures, UNITS_FILE).as_posix()})\n\n*{UNITS}*")
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
        "No pair bears out:": [f for f in findings if not any(f.holds.values())],
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
    about = "\n".join(f"* **{record['title']}**: {ABOUT[record['pair']]}" for record in records)
    return (
        f"{about}\n\n"
        "Accuracy of the parents and of the repaired merges at 1/2 by four methods of matching, and what was "
        "measured. *Not permuted*: where both come from one base there is nothing to match. *Unrepaired*: the "
        "main merge.\n\n"
    ) + markdown(head, rows)


STEPS = {
    "accuracy": "matching, merging, accuracy",
    "fates": "agreement and fidelity",
    "nearest": "survival",
    "kinds": "properties of units",
    "pictures": "pictures",
}


def _seconds(records: list[Record]) -> str:
    rows = [[record["title"], *(f"{seconds:.0f}" for seconds in record["seconds"].values())] for record in records]
    return "Seconds of the steps:\n\n" + markdown(["pair", *(STEPS[name] for name in records[0]["seconds"])], rows)
