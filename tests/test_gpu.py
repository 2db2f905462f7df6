"""What holds on a CPU holds on a GPU: left out where there is none; `benchmarks/gpu.sh` runs these."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from networks import TinyResNet, planted, relative_difference, seeded

import featviz
from featviz.rendering.network.feature_extractor import FeatureExtractor

pytestmark = pytest.mark.cuda
CONFIG = featviz.RenderConfig(size=16, steps=12, precision="float64")


@pytest.fixture
def example() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_render_on_the_gpu_is_that_of_the_cpu(gpu):
    net = seeded(TinyResNet)
    expected = featviz.render(net, "conv3:0-5", CONFIG, device="cpu")
    found = featviz.render(net, "conv3:0-5", CONFIG, device=gpu)
    torch.testing.assert_close(found.images, expected.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.score, expected.score, atol=1e-6, rtol=1e-6)


def test_a_unit_does_not_depend_on_its_batch_mates_on_the_gpu(gpu):
    net = seeded(TinyResNet)
    together = featviz.render(net, "conv3:0-5", CONFIG, device=gpu)
    alone = featviz.render(net, "conv3:4", CONFIG, device=gpu)
    torch.testing.assert_close(alone.images[0], together.images[4], atol=1e-5, rtol=0)


def test_bfloat16_reaches_the_activation_of_float32_on_the_gpu(gpu):
    net = seeded(TinyResNet)
    half, full = (
        featviz.render(net, "conv3:0-5", replace(CONFIG, steps=32, precision=precision), device=gpu)
        for precision in ("bfloat16", "float32")
    )
    ratio = float(half.score.mean() / full.score.mean())
    assert 0.9 < ratio < 1.1


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-2), ("bfloat16", 5e-2)])
def test_the_traced_graph_on_the_gpu_is_that_of_torch(precision, tolerance, gpu):
    net = seeded(lambda: torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 1, 1, 1])).eval().to(gpu)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(gpu)
    found = []
    for backend in ("auto", "eager"):
        config = featviz.RenderConfig(size=64, precision=precision, backend=backend)
        extractor = FeatureExtractor(net, ("layer2",), config, gpu)
        y = x.clone().requires_grad_()
        output = extractor(y)["layer2"]
        found.append((output.detach().float(), *torch.autograd.grad(output[:, 0].float().sum(), y)))
        if backend == "auto":
            assert extractor.report.rewrites["cudnn_conv" if gpu.type == "cuda" else "onednn_conv"] >= 10
    for ours, theirs, allowed in zip(
        *found, (tolerance, 0.5), strict=True
    ):  # of the gradient: a ReLU may fall the other way
        assert float((ours - theirs).norm() / theirs.norm()) < allowed


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_a_planted_permutation_is_recovered_on_the_gpu(method, gpu, example):
    a = seeded(TinyResNet).to(gpu)
    b, groups, expected = planted(a, example.to(gpu))
    data = [3 * torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(gpu)]
    alignment = featviz.align(a, b, example.to(gpu), method, None if method == "weights" else data)
    for group in groups:
        np.testing.assert_array_equal(alignment.permutations[group.name], expected[group.name])
    assert relative_difference(alignment.permute(b), b, example.to(gpu)) < 1e-10


def test_a_repaired_merge_on_the_gpu_is_that_of_the_cpu(gpu, example):
    a, b = seeded(TinyResNet, 1), seeded(TinyResNet, 2)
    data = [torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(3))]
    alignment = featviz.align(a, b, example)
    expected = featviz.merge(a, b, alignment, repair="batchnorm", data=data)
    on_gpu = [copy.deepcopy(net).to(gpu) for net in (a, b)]
    found = featviz.merge(*on_gpu, alignment, repair="batchnorm", data=data)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name].cpu(), tensor, atol=1e-4, rtol=1e-3)


def test_triplets_of_one_network_are_three_times_the_same_on_the_gpu(gpu, example):
    net = seeded(TinyResNet).to(gpu)
    twin = copy.deepcopy(net)
    alignment = featviz.align(net, twin, example.to(gpu), "identity")
    triplets = featviz.render_unit_triplet(
        net, twin, "conv3", [0, 3], merged=copy.deepcopy(net), alignment=alignment, config=CONFIG
    )
    torch.testing.assert_close(triplets.a.images, triplets.b.images, atol=1e-6, rtol=0)
    torch.testing.assert_close(triplets.a.images, triplets.merged.images, atol=1e-6, rtol=0)


def test_auto_batches_stay_within_the_memory_given(gpu):
    if gpu.type == "cuda":
        torch.cuda.reset_peak_memory_stats(gpu)
    config = featviz.RenderConfig(size=128, steps=3, memory=0.25, restarts=0)
    net = seeded(lambda: TinyResNet(width=32))
    rendered = featviz.render(net, [f"conv3:{unit}" for unit in range(64)], config, device=gpu)
    assert len(rendered) == 64
    peak = torch.cuda.max_memory_allocated(gpu) if gpu.type == "cuda" else 0
    assert peak < 0.25 * 2**30
