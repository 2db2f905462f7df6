"""Fates in a file: measured once, read where there are no images. The bundled pair carries its own.

`Fates.save` writes a record of every unit, `pack` a smaller one in columns. `StoredFates` answers from either as `Fates` does:
`caption`, and the record of a unit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featviz.errors import CheckpointError, UnitError, near_names, shown
from featviz.evidence.fates.fates import Fates, caption_of
from featviz.reading import read_json

FORMAT = "featviz.fates"
DIGITS = 3
IN_CAPTION = {"verdict": str, "likeliest": str, "agreement": float | int | None, "fidelity": float | int | None}


@dataclass(frozen=True)
class StoredLayer:
    """The units of one layer: `columns` key -> one value per unit, keys as in `LayerFates.row`."""

    layer: str
    columns: Mapping[str, list[Any]]

    def __len__(self) -> int:
        """The number of units."""
        return len(self.columns["verdict"])

    def row(self, unit: int) -> dict[str, Any]:
        """The record of a unit; `exemplars` are the numbers of its best images, by subject.

        Raises:
            UnitError: there is no such unit.
        """
        if not 0 <= unit < len(self):
            raise UnitError(f"{self.layer} has no unit {unit}: its {len(self)} units are 0 to {len(self) - 1}.")
        return {"layer": self.layer, "unit": unit, **{key: values[unit] for key, values in self.columns.items()}}


@dataclass(frozen=True)
class StoredFates:
    """What `pack` wrote. about: what was measured on which images; images: what the numbers of exemplars mean."""

    about: Mapping[str, Any]
    layers: Mapping[str, StoredLayer]

    def __iter__(self) -> Iterator[StoredLayer]:
        return iter(self.layers.values())

    def __getitem__(self, layer: str) -> StoredLayer:
        """One layer by its name.

        Raises:
            UnitError: it was not measured.
        """
        if layer not in self.layers:
            raise UnitError(f"the fates of {layer!r} were not measured: {near_names(layer, self.layers)}")
        return self.layers[layer]

    def caption(self, layer: str, unit: int) -> list[str]:
        """Verdict, agreement and fidelity of a unit in two lines; see `Fates.caption`."""
        return caption_of(self[layer].row(unit))


def pack(fates: Fates, about: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of every layer with `DIGITS` digits, and the numbers of the exemplars where there are any.

    Args:
        about: said with it, such as the images and what their numbers mean.
    """
    layers: dict[str, dict[str, list[Any]]] = {}
    for found in fates:
        columns = {key: _short(values) for key, values in _columns(found.rows())[found.layer].items()}
        if fates.exemplars is not None:
            tops = fates.exemplars
            columns["exemplars"] = [
                {name: [one.image for one in tops.found(found.layer, unit, name)] for name in tops.layers[found.layer]}
                for unit in range(len(found))
            ]
        layers[found.layer] = columns
    general = {"format": FORMAT, "parents": list(fates.parents), "images": fates.images, "matching": fates.method}
    return {**general, **about, "layers": layers}


def read_fates(path: str | Path) -> StoredFates:
    """Read a JSON that `Fates.save` or `featviz fate --out` wrote, or what `pack` made.

    Raises:
        CheckpointError: there is no such file, it is another, or the record of a unit in it is damaged.
    """
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the fates {path} cannot be read ({error}): measure them with `featviz fate --out FILE.json`."
        ) from error
    long = isinstance(record, dict) and {"resamples", "units"} <= record.keys()
    if not long and not (isinstance(record, dict) and record.get("format") == FORMAT):
        raise CheckpointError(f"{path} holds no fates: measure them with `featviz fate --out FILE.json`.")
    try:
        found = _columns(_checked_rows(record.pop("units"))) if long else record.pop("layers", None)
        _check_columns(found)
    except ValueError as error:
        raise CheckpointError(
            f"the fates {path} are damaged ({error}): measure them again with `featviz fate --out FILE.json`."
        ) from error
    return StoredFates(record, {name: StoredLayer(name, columns) for name, columns in found.items()})


def _checked_rows(rows: Any) -> list[dict[str, Any]]:
    """Records of units as they were read, once each is known to say its layer; ValueError otherwise."""
    if not isinstance(rows, list):
        raise ValueError(f"units is {shown(rows)} and no list of records")
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("layer"), str):
            raise ValueError(f"{shown(row)} is no record of a unit")
    return rows


def _check_columns(layers: Any) -> None:
    """Make sure that every layer has columns of one length, and what a caption is made of; ValueError otherwise."""
    if not isinstance(layers, dict):
        raise ValueError(f"layers is {shown(layers)} and no dictionary")
    for layer, columns in layers.items():
        if not isinstance(columns, dict) or not all(isinstance(values, list) for values in columns.values()):
            raise ValueError(f"layer {shown(layer)} has no columns")
        if missing := [key for key in IN_CAPTION if key not in columns]:
            raise ValueError(f"layer {shown(layer)} lacks {missing[0]}")
        if len({len(values) for values in columns.values()}) > 1:
            raise ValueError(f"the columns of layer {shown(layer)} differ in length")
        for key, kind in IN_CAPTION.items():
            for unit, value in enumerate(columns[key]):
                if (
                    not isinstance(value, kind)
                    or isinstance(value, bool)
                    or not (isinstance(value, str) or _is_finite(value))
                ):
                    raise ValueError(f"{key} of unit {unit} of layer {shown(layer)} is {shown(value)}")


def _is_finite(value: Any) -> bool:
    """Whether it is None or a number that a caption can show; NaN is none, nor is an int that no float can hold."""
    return value is None or abs(value) < 1e300


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Records of units in their order -> layer -> key -> values."""
    layers: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        columns = layers.setdefault(row["layer"], {})
        for key, value in row.items():
            if key not in ("layer", "unit"):
                columns.setdefault(key, []).append(value)
    return layers


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    return [_short(one) for one in value] if isinstance(value, list) else value
