"""Sixteen values for a weight, against k-means elsewhere."""

import torch
from torch import Tensor, nn

from benchmarks.contest import Contest, Task, Way
from weightshare.values.clusters import find_clusters

CLUSTERS = 16


def weight(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(0)).view(-1, 10) * 0.05


def ours(init: str):
    def find(w: Tensor) -> Tensor:
        codebook, index = find_clusters(w, CLUSTERS, init=init)
        return codebook[index.int()]

    return find


def by_sklearn(w: Tensor) -> Tensor:
    from sklearn.cluster import KMeans

    found = KMeans(CLUSTERS, n_init=1, random_state=0).fit(w.reshape(-1, 1).numpy())
    return torch.from_numpy(found.cluster_centers_[found.labels_, 0]).view_as(w)


def by_batches(w: Tensor) -> Tensor:
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(CLUSTERS, n_init=1, random_state=0).fit(w.reshape(-1, 1).numpy())
    return torch.from_numpy(found.cluster_centers_[found.labels_, 0]).view_as(w)


def by_scipy(w: Tensor) -> Tensor:
    from scipy.cluster.vq import kmeans2

    centres, labels = kmeans2(w.reshape(-1, 1).numpy(), CLUSTERS, minit="++", seed=0)
    return torch.from_numpy(centres[labels, 0]).view_as(w)


def by_coremltools(w: Tensor) -> Tensor:
    from coremltools.optimize.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig

    layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data.copy_(w)
    settings = {"n_bits": 4, "granularity": "per_tensor"}
    config = PostTrainingPalettizerConfig.from_dict({"global_config": settings})
    return PostTrainingPalettizer(nn.Sequential(layer), config).compress()[0].weight.detach()


def by_torchao(w: Tensor) -> Tensor:
    from torchao.prototype.quantization.codebook.codebook_ops import (
        choose_qparams_codebook,
        dequantize_codebook,
        quantize_codebook,
    )

    held = w.reshape(1, -1)
    codebook, scales = choose_qparams_codebook(held, (1, 1), held.shape[1], torch.uint4)
    codes = quantize_codebook(held, codebook, scales)
    # Its own `dequantize` takes labels of 8 bits for a mask.
    return dequantize_codebook(codes.long(), codebook, scales).view_as(w)


def error(n: int, found: Tensor) -> float:
    w = weight(n)
    return float((found - w).norm() / w.norm())


def task(find):
    def make(n: int) -> Task:
        w, found = weight(n), []

        def run() -> None:
            found[:] = [find(w)]

        return Task(run, lambda: found[0])

    return make


CONTEST = Contest(
    title="Sixteen values for a weight",
    text=(
        "Codebook and labels of float32 weights of `N(0, 0.05²)`, and the weight that they make; size is how "
        "many. The error is `‖Ŵ − W‖ / ‖W‖`, so that time can be read beside what it buys; the optimum for a "
        "normal distribution is 0.0979."
    ),
    unit="weights",
    sizes=(1_000, 10_000, 100_000, 1_000_000),
    shown=(10_000, 1_000_000),
    tiny=1000,
    error=error,
    off="relative error",
    ways={
        "find_clusters": Way(task(ours("kmeans")), ours=True),
        "find_clusters, quantiles": Way(task(ours("quantiles")), "no k-means: cheap, and coarse", ours=True),
        "scikit-learn KMeans": Way(task(by_sklearn), "all weights are its points", goal=0.8),
        "scikit-learn MiniBatchKMeans": Way(task(by_batches), "sees parts of the weights: faster or coarser"),
        "scipy kmeans2": Way(task(by_scipy), "ten rounds whatever comes of them", most=1e6),
        "coremltools, post-training": Way(
            task(by_coremltools), "the optimum itself, compiled: on a line it can be had", needs="coremltools"
        ),
        "torchao, codebook": Way(
            task(by_torchao),
            "a prototype for vectors: greedy start, every distance in memory",
            needs="torchao",
            most=1e5,
        ),
    },
)
