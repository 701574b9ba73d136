"""Clusters of the scalars of one weight: its own distinct values, or k-means on the line.

In the grid: the assignment of the values axis, `W = C[I]`. Pure functions of tensors; `codebook` puts their results
into a model.
"""

from typing import Literal

from jaxtyping import Float, Int
import torch
from torch import Tensor

from weightshare.decoding import index_dtype
from weightshare.errors import SpecError
from weightshare.surgery.compare import WORDS
from weightshare.values import check

Init = Literal["kmeans", "quantiles"]
MOST_POINTS = 2**16
"""K-means runs on at most so many points: its time grows with points times clusters times rounds."""


def as_bits(tensor: Tensor) -> Tensor:
    """The same memory as integers, so that equal bits are equal numbers: NaN equals itself, and `-0.0` is not `0.0`."""
    return tensor.view(WORDS[tensor.element_size()])


def find_clusters(
    w: Float[Tensor, "*weight"], clusters: int | None = None, init: Init = "kmeans", seed: int = 0
) -> tuple[Float[Tensor, "clusters"], Int[Tensor, "*weight"]]:
    """Write a weight as `w ≈ codebook[index]`.

    Exact zeros stay exact: they are a cluster of their own.

    Args:
        w: Float tensor of any shape, without NaN and infinity.
        clusters: How many values. `None` takes all that the weight has, told apart by their bits: nothing is lost. Of
            a weight that has no more values than this, all are taken too, zeros of both signs as one.
        init: `"kmeans"`: least squares on the line, by scikit-learn, on the distinct values weighted by how often they
            occur. `"quantiles"`: neighbours in order, as many distinct values in each cluster; needs torch alone.
        seed: Of k-means' first centres.

    Returns:
        The codebook, ascending, in the dtype of `w`, each value the mean of its members; and the labels, in the
        smallest integers that serve. Every label is used.

    Raises:
        SpecError: If `w` is no dense float tensor or holds NaN or infinity, if `clusters` is no whole number of at
            least 1, if there is one cluster for zeros and others, or if scikit-learn is missing.

    Source: Han 2016 (Deep Compression), section 3, for k-means with shared centroids; Shakerinava 2023 for the
        weight's own values.
    Differs: Of more than 65,536 distinct values, k-means sees the means of 65,536 runs of neighbours.

    Example:
        >>> find_clusters(torch.tensor([0.5, 0.0, 0.5, -1.0]))
        (tensor([-1.0000,  0.0000,  0.5000]), tensor([2, 1, 2, 0], dtype=torch.uint8))
        >>> find_clusters(torch.tensor([[1.0, 2.0], [8.0, 0.0]]), clusters=3, init="quantiles")[0]
        tensor([0.0000, 1.5000, 8.0000])
    """
    check.tensor(w, "find_clusters")
    if clusters is not None and (type(clusters) is not int or clusters < 1):
        raise SpecError(f"find_clusters(clusters={clusters!r}): need a whole number of at least 1, or None.")
    flat = w.detach().reshape(-1)
    if not bool(flat.isfinite().all()):
        raise SpecError("A weight is NaN or infinite. Find out why before you share; nothing was changed.")
    if clusters is None:
        codebook, labels = torch.unique(as_bits(flat), return_inverse=True)
        codebook = codebook.view(w.dtype)
    else:
        codebook, labels = _few(flat.double() + 0.0, clusters, init, seed)
        codebook = codebook.to(w.dtype)
    order = torch.argsort(codebook, stable=True)
    labels = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))[labels]
    return codebook[order], labels.to(index_dtype(len(order))).view(w.shape)


def _few(flat: Tensor, clusters: int, init: Init, seed: int) -> tuple[Tensor, Tensor]:
    """Codebook and labels of float64 numbers, in no order."""
    values, inverse, counts = torch.unique(flat, return_inverse=True, return_counts=True)
    if len(values) <= clusters:
        return values, inverse
    zero = values == 0
    others = clusters - int(zero.any())
    if others < 1:
        raise SpecError("One cluster cannot hold exact zeros and other values: zeros stay zero. Take clusters=2.")
    points, masses = values[~zero], counts[~zero].double()
    split = _by_order(len(points), others) if init == "quantiles" else _by_kmeans(points, masses, others, seed)
    found = torch.zeros_like(points[:others]).index_add_(0, split.to(points.device), points * masses)
    found /= torch.zeros_like(found).index_add_(0, split.to(points.device), masses)
    labels = torch.full_like(inverse[: len(values)], others)
    labels[~zero] = split.to(labels.device)
    return torch.cat([found, found.new_zeros(int(zero.any()))]), labels[inverse]


def _by_order(points: int, clusters: int) -> Tensor:
    """Runs of neighbours, as equally long as can be, none empty."""
    return torch.arange(points) * clusters // points


def _by_kmeans(points: Tensor, masses: Tensor, clusters: int, seed: int) -> Tensor:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise SpecError(
            "Codebook(init='kmeans') needs scikit-learn: pip install 'weightshare[cluster]'. Or take "
            "init='quantiles', which needs nothing more."
        ) from error
    points, masses = points.cpu(), masses.cpu()
    runs = _by_order(len(points), min(len(points), MOST_POINTS))
    mass = torch.zeros(int(runs[-1]) + 1, dtype=torch.float64).index_add_(0, runs, masses)
    means = torch.zeros_like(mass).index_add_(0, runs, points * masses) / mass
    kmeans = KMeans(clusters, n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType] - its stubs are wrong
    found = kmeans.fit(means[:, None].numpy(), sample_weight=mass.numpy())
    used, labels = torch.unique(torch.from_numpy(found.labels_).long(), return_inverse=True)
    if len(used) < clusters:  # it never was seen to leave one empty where there are more points than clusters
        raise SpecError(f"k-means found {len(used)} clusters, {clusters} were asked for. Take another seed.")
    return labels[runs]
