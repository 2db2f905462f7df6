"""What an atlas is made of: its identity, the layers asked for, and the items that they are cut into.

    identity (networks, alignment, configuration) -> digest
    (digest, layer, units) -> key of an item, the name of its file

Two processes that are given the same networks, alignment and configuration agree on every key without a word between them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featviz.config import IMAGES, AtlasConfig
from featviz.errors import AtlasError
from featviz.reading import json_value

FORMAT = "featviz.atlas"
VERSION = 1  # of the files; another one is not read


def digest_of(value: Any) -> str:
    """BLAKE2b (32 hex digits) of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Item:
    """A few units of one layer, rendered in all subjects and written as one file.

    key: 32 hex digits, of the atlas's identity, the layer and the units.
    """

    layer: str
    units: tuple[int, ...]
    key: str


@dataclass(frozen=True)
class PlannedLayer:
    """Units of a layer that were asked for.

    position: of the layer in the network, for the order on a page.
    """

    name: str
    units: tuple[int, ...]
    position: int

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"format": FORMAT, "layer": self.name, "units": list(self.units), "position": self.position}

    @property
    def key(self) -> str:
        """Of its file."""
        return digest_of([self.name, list(self.units)])

    def items(self, identity: str, units_per_item: int) -> list[Item]:
        """Of its units in order.

        Args:
            identity: the atlas's digest.
        """
        parts = [self.units[first : first + units_per_item] for first in range(0, len(self.units), units_per_item)]
        return [Item(self.name, part, digest_of([identity, self.name, list(part)])) for part in parts]


@dataclass(frozen=True)
class Identity:
    """What all files of an atlas depend on; atlases of one identity have equal items.

    subjects: name -> digest of its weights. normalizations: name -> mean and std. alignment: digest of its
    arrays. config: of the rendering, as plain values. images: of `IMAGES`.
    """

    subjects: Mapping[str, str]
    normalizations: Mapping[str, Any]
    alignment: str
    method: str
    config: Mapping[str, Any]
    units_per_item: int = AtlasConfig.units_per_item
    images: str = AtlasConfig.images

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "subjects": [[name, self.subjects[name], self.normalizations[name]] for name in self.subjects],
            "alignment": self.alignment,
            "method": self.method,
            "config": dict(self.config),
            "units_per_item": self.units_per_item,
            "images": self.images,
        }

    @property
    def digest(self) -> str:
        """Of the record."""
        return digest_of(self.record())

    @classmethod
    def read(cls, text: str) -> "Identity":
        """From the JSON of `record`.

        Raises:
            AtlasError: it is something else, or of another version.
        """
        record = json_object(text, "atlas.json")
        if record.get("format") != FORMAT:
            raise AtlasError("atlas.json does not describe an atlas: give a folder that featviz atlas has written.")
        if record.get("version") != VERSION:
            raise AtlasError(
                f"the atlas has version {record.get('version')!r} of the files, this featviz reads {VERSION}: use the "
                "featviz that wrote it."
            )
        try:
            rows = [(str(name), str(weights), normalization) for name, weights, normalization in record["subjects"]]
            made = cls(
                {name: weights for name, weights, _ in rows},
                {name: normalization for name, _, normalization in rows},
                str(record["alignment"]),
                str(record["method"]),
                dict(record["config"]),
                int(record["units_per_item"]),
                str(record["images"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise AtlasError(f"atlas.json is damaged ({error!r}): start anew in another folder.") from error
        if not made.subjects or made.units_per_item < 1 or made.images not in IMAGES:
            raise AtlasError("atlas.json is damaged: start anew in another folder.")
        return made

    def differences(self, other: "Identity") -> list[str]:
        """What two identities differ in, by the words of the record."""
        own, others = self.record(), other.record()
        found = []
        for key in own:
            if own[key] == others[key]:
                continue
            if isinstance(own[key], dict) and isinstance(others[key], dict):
                names = [n for n in {**own[key], **others[key]} if own[key].get(n) != others[key].get(n)]
                found += [f"{n} ({others[key].get(n)!r}, there {own[key].get(n)!r})" for n in names]
            else:
                found.append("the networks" if key == "subjects" else key)
        return found


def read_planned_layer(text: str) -> PlannedLayer:
    """From the JSON of `PlannedLayer.record`.

    Raises:
        AtlasError: it is something else.
    """
    record = json_object(text, "a file of layers/")
    units, position, name = record.get("units"), record.get("position"), record.get("layer")
    if (
        record.get("format") == FORMAT
        and isinstance(name, str)
        and isinstance(position, int)
        and isinstance(units, list)
        and all(type(unit) is int and 0 <= unit < 2**31 for unit in units)
    ):
        return PlannedLayer(name, tuple(units), position)
    raise AtlasError("a file of layers/ is damaged: remove it and start the atlas again.")


def json_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        AtlasError: it is none.
    """
    try:
        found = json_value(text)
    except ValueError as error:
        raise AtlasError(f"{what} is no JSON ({str(error)[:80]}): it is damaged.") from error
    if not isinstance(found, dict):
        raise AtlasError(f"{what} holds no JSON object: it is damaged.")
    return found


def plain(value: Any) -> Any:
    """Tuples as lists, as JSON reads them back."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def shard_of(items: Sequence[Item], shard: tuple[int, int]) -> list[Item]:
    """The items of shard i of n: every n-th.

    Raises:
        AtlasError: no shard of that number.
    """
    index, count = shard
    if count < 1 or not 0 <= index < count:
        raise AtlasError(
            f"there is no shard {index}/{count}: write 0/{max(count, 1)} to {max(count, 1) - 1}/{max(count, 1)}."
        )
    return list(items[index::count])
