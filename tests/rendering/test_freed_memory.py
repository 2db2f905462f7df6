"""What a render made is freed when it ends: a process may render for days, and a GPU's memory is not Python's to watch."""

import gc
import weakref
from dataclasses import replace

import torch
from networks import small_classifier as net

from featviz.config import RenderConfig
from featviz.rendering import render
from featviz.rendering.optimize.ascent import Ascent

CONFIG = RenderConfig(size=12, steps=6, precision="float32", sd=0.1)


def test_a_render_leaves_no_tensor_behind():
    """Neither the network's copy nor what its batch size was measured with; a process that renders for days would fill up."""

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    network = net()
    for config in (replace(CONFIG, backend="eager"), CONFIG):
        render(network, "2:0", config)
        before = tensors()
        render(network, "2:0", config)
        assert tensors() == before


def test_an_ascent_is_freed_when_it_ends_without_a_garbage_collection(monkeypatch):
    """Its memory and, on a GPU, that of its graph would else add up from batch to batch."""
    made = []
    create = Ascent.__init__

    def watched(self, *args, **kwargs):
        made.append(weakref.ref(self))
        create(self, *args, **kwargs)

    monkeypatch.setattr(Ascent, "__init__", watched)
    gc.disable()
    try:
        render(net(), "0:0-3", replace(CONFIG, batch=2))
        assert [reference() for reference in made] == [None, None]
    finally:
        gc.enable()
