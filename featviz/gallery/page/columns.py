"""What the page knows of all units of a layer at once: the figures by which it sorts, filters and searches.

records of units -> one list per figure. About 100 bytes per unit; images, traces and all other figures stay in files of a few
units each, which are loaded when they are looked at.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

MATCH = ("score", "margin")
FATE = ("agreement", "fidelity", "confidence", "verdict", "likeliest")


class LayerColumns:
    """Figures of the units of one layer, in the order in which they were added.

    columns: key -> one value per unit: "unit", "b", "restart", "combined" (1 where it has members), "score", "margin",
    "agreement", "fidelity", "confidence", "verdict", "likeliest"; "own" and "activation" with one value per subject; "dead",
    the numbers of the subjects in which it is dead. What is not known is None.
    """

    def __init__(self, subjects: Sequence[str]) -> None:
        self.subjects = tuple(subjects)
        names = ("unit", "b", "restart", "combined", "own", "activation", "dead", *MATCH, *FATE)
        self.columns: dict[str, list[Any]] = {name: [] for name in names}

    def __len__(self) -> int:
        """The number of units."""
        return len(self.columns["unit"])

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a unit's record; see `PageBlock.records`. Only "unit" has to be in it."""
        unit = int(record["unit"])
        fate = _mapping(record.get("fate"))
        own, activation = _mapping(record.get("own_units")), _mapping(record.get("activation"))
        dead = record.get("dead") or ()
        reached = [_finite(activation.get(name)) for name in self.subjects]
        row: dict[str, Any] = {
            "unit": unit,
            "b": _whole(record.get("b")),
            "restart": _whole(record.get("restart")),
            "combined": 1 if record.get("members") else None,
            "own": [own.get(name, unit) for name in self.subjects],
            "activation": reached if any(value is not None for value in reached) else None,
            "dead": [number for number, name in enumerate(self.subjects) if name in dead],
            **{key: _finite(record.get(key)) for key in MATCH},
            **{key: _finite(fate.get(key)) for key in FATE[:3]},
            **{key: None if fate.get(key) is None else str(fate[key]) for key in FATE[3:]},
        }
        for key, value in row.items():
            self.columns[key].append(value)

    def stored(self) -> dict[str, Any]:
        """The columns for the page; a column without any value is left out, and so is "own" where it repeats "unit"."""
        columns = dict(self.columns)
        if all(set(own) <= {unit} for own, unit in zip(columns["own"], columns["unit"], strict=True)):
            del columns["own"]
        return {key: values for key, values in columns.items() if any(value not in (None, []) for value in values)}

    def summary(self) -> dict[str, Any]:
        """What the overview tells of the layer: units by verdict (a unit without one counts under ""), means of c and f."""
        return {
            "units": len(self),
            "verdicts": dict(Counter(verdict or "" for verdict in self.columns["verdict"])),
            "agreement": _mean(self.columns["agreement"]),
            "fidelity": _mean(self.columns["fidelity"]),
        }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
