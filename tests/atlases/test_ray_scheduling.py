"""How items are handed to workers that come, are lost, and find no place: with a cluster that is made up, so without Ray."""

from types import SimpleNamespace
from typing import Any

import pytest

import featviz
from featviz.atlases import ray_workers
from featviz.atlases.items import ItemRenderer
from featviz.atlases.plan import Item
from featviz.errors import AtlasError

ITEMS = [Item("conv", (unit,), str(unit)) for unit in range(4)]


class Lost(Exception):
    """In place of `RayActorError`."""


class MadeUpCluster:
    """Workers by number, in the order of their start. Loading comes first, then what is asked of the lowest number.

    Args:
        loses: calls of (worker, item's key) that end the worker.
        places: workers that find a place; the others never begin.
    """

    def __init__(self, loses: set[tuple[int, str]], places: int) -> None:
        self.loses, self.places, self.started = loses, places, 0
        self.exceptions = SimpleNamespace(RayActorError=Lost, ObjectLostError=Lost, RayTaskError=KeyError)

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, worker: Any) -> Any:
        def start(*arguments: Any) -> Any:
            number, self.started = self.started, self.started + 1
            call = lambda what: lambda given: (number, what, given.key if what == "render" else "")  # noqa: E731
            return SimpleNamespace(
                load=SimpleNamespace(remote=call("load")), render=SimpleNamespace(remote=call("render"))
            )

        return SimpleNamespace(options=lambda **share: SimpleNamespace(remote=start))

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        begun = sorted(
            (r for r in references if r[0] < self.places), key=lambda r: (r[1], r[0])
        )  # "load" before "render"
        assert begun, "everything waits for a worker that has no place"
        return begun[:1], []

    def get(self, reference: tuple[int, str, str]) -> bytes:
        number, what, key = reference
        if what == "render" and (number, key) in self.loses:
            raise Lost
        return key.encode()


def rendered(monkeypatch: pytest.MonkeyPatch, cluster: MadeUpCluster) -> dict[str, bytes]:
    monkeypatch.setattr(ray_workers, "_ray", lambda: cluster)
    render = ItemRenderer({}, None, featviz.RenderConfig(), "raw", None)  # type: ignore[arg-type]
    return {item.key: data for item, data in featviz.RayWorkers(workers=2, cpus=1)(render, ITEMS)}


@pytest.mark.parametrize("places", [2, 3])
def test_the_item_of_a_lost_worker_is_rendered_also_where_no_new_worker_finds_a_place(places, monkeypatch):
    cluster = MadeUpCluster({(1, "1")}, places)  # worker 0 has nothing left to do when worker 1 is lost
    assert rendered(monkeypatch, cluster) == {item.key: item.key.encode() for item in ITEMS}


def test_an_item_that_ends_every_worker_is_named(monkeypatch):
    cluster = MadeUpCluster({(number, "2") for number in range(20)}, 20)
    with pytest.raises(AtlasError, match=r"4 workers of Ray were lost at conv, units 2 to 2"):
        rendered(monkeypatch, cluster)


@pytest.mark.parametrize("numbers", [{"workers": 0}, {"cpus": 0}, {"workers": 1.5}])
def test_numbers_below_one_are_refused(numbers):
    with pytest.raises(AtlasError, match="give a whole number of 1 or more"):
        featviz.RayWorkers(**numbers)
