"""Convex clustering of the filters of a trained network: how many are left, and what they are worth.

The filters are the depthwise kernels of a ConvMixer, many and small. Those of each layer are pulled together by
`argmin_z ½‖z − w‖² + s·R_C(z)`, `s` relative to how far the layer's filters are from their mean. Those that meet are
one filter, which is stored once with labels. A path of strengths goes from all filters to few. Batch norm's statistics
are taken again on training images after each fold, since merged filters are shorter; nothing is trained.

| row | couplings | where a cluster stands |
|---|---|---|
| `all-pairs` | all alike: filters far from each other meet all at once, or not at all | at the mean of its members |
| `neighbours` | of nearest filters, by a Gaussian of their distance | at the mean of its members |
| `as-solved` | as for neighbours | where the penalty leaves it, pulled towards the others |
| `kmeans` | none: as many clusters as neighbours gave, by k-means | at the mean of its members |

Source: Shakerinava 2023, open questions; Chi & Lange 2015 for couplings of near neighbours.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.experiments.jobs import Outcome, folder_of
from weightshare.experiments.table import Found
from weightshare.training.data import Data
from weightshare.training.loop import evaluate
from weightshare.training.run import trained
from weightshare.values.convex import convex_clustering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = "trained"
ROWS = {
    "all-pairs": "all pairs alike, at the means",
    "neighbours": "near filters, at the means",
    "as-solved": "near filters, where the penalty leaves them",
    "kmeans": "k-means, as many as near filters gave",
}
NEAREST = 2
"""How many neighbours a filter is coupled to at least: with few, clusters grow one by one."""
NETWORK, PART = "convmixer:256/8/2/5", ".depthwise"


def path(seed: int, row: str, strengths: Sequence[float], images: int, folder: Path, **data: Any) -> Outcome:
    """Cluster the filters of a run at each strength.

    Args:
        seed: Of the run.
        row: One of `ROWS`.
        strengths: Relative ones, rising.
        images: How many training images batch norm sees again.
        folder: Of the runs; `trained` lies there.
        data: Where it is read from; the run knows.

    Returns:
        Curves over strengths: `filters` that are left and `accuracy`, both in percent, `error` of the filters in
        percent of their size, and `gap`, the largest that the solver certifies, relative to `½‖w − mean‖²`. Metrics:
        the fewest filters at which accuracy is within a point of the trained network's (`within`), and the accuracy at
        the strength that leaves nearest to half of them (`half`), with how many these are (`half-filters`).
    """
    del data
    model, found = trained(folder_of(folder, BASE, "", seed))
    convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    weights = {name: conv.weight.detach().clone() for name, conv in convs.items() if name.endswith(PART)}
    total = sum(len(weight) for weight in weights.values())
    before = 100 * evaluate(model, found.test)[1]
    curves: dict[str, list[float]] = {"filters": [100.0], "accuracy": [before], "error": [0.0], "gap": [0.0]}
    for strength in strengths:
        small, clusters, off, size, gap = deepcopy(model), 0, 0.0, 0.0, 0.0
        for name, weight in weights.items():
            merged, count, certified = merge(weight, strength, row)
            with torch.no_grad():
                small.get_submodule(name).get_parameter("weight").copy_(merged)
            clusters += count
            off += float((merged - weight).double().square().sum())
            size += float(weight.double().square().sum())
            gap = max(gap, certified)
        recalibrate_(small, found, images)
        curves["filters"].append(100 * clusters / total)
        curves["accuracy"].append(100 * evaluate(small, found.test)[1])
        curves["error"].append(100 * (off / size) ** 0.5)
        curves["gap"].append(gap)
    good = [left for left, right in zip(curves["filters"], curves["accuracy"], strict=True) if right >= before - 1]
    half = min(range(len(curves["filters"])), key=lambda at: abs(curves["filters"][at] - 50))
    metrics = {"within": min(good), "half": curves["accuracy"][half], "half-filters": curves["filters"][half]}
    return Outcome(metrics, {"filters": total}, {key: [round(one, 6) for one in row] for key, row in curves.items()})


def merge(weight: Tensor, strength: float, row: str) -> tuple[Tensor, int, float]:
    """The filters of a layer pulled together.

    Args:
        weight: `(out, ...)`.
        strength: In units of the root mean square of the filters' distances to their mean.
        row: One of `ROWS`.

    Returns:
        The filters, how many differ, and the duality gap relative to `½‖w − mean‖²`; 0 of k-means.
    """
    flat = weight.flatten(1).double()
    spread = (flat - flat.mean(0)).square().sum()
    scale = float((spread / len(flat)).sqrt())
    couplings = None if row == "all-pairs" else near(flat)
    found = convex_clustering(flat, strength * scale, couplings, tolerance=1e-8)
    labels = found.labels
    if row == "kmeans":
        labels = kmeans(flat, int(labels.max()) + 1)
    if row == "as-solved":
        merged = found.z
    else:
        count = int(labels.max()) + 1
        sums = flat.new_zeros(count, flat.shape[1]).index_add(0, labels, flat)
        merged = (sums / labels.bincount(minlength=count)[:, None])[labels]
    gap = 0.0 if row == "kmeans" else found.gap / max(float(spread) / 2, 1e-300)
    return merged.to(weight.dtype).view(weight.shape), int(labels.max()) + 1, gap


def near(rows: Tensor) -> Tensor:
    """Couplings of near rows: `exp(−d²/m²)`, `m²` the mean squared distance to a nearest one, with a mean row sum of 1.

    Args:
        rows: `(n, numbers)`.

    Returns:
        `(n, n)`, symmetric: of each row with its nearest ones, and with those that have it among theirs.
    """
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    shortest, nearest = distances.topk(min(NEAREST, len(rows) - 1), largest=False)
    chosen = torch.zeros_like(distances).scatter_(1, nearest, 1.0)
    weights = torch.exp(-distances.square() / shortest.square().mean()) * torch.maximum(chosen, chosen.T)
    weights = (weights + weights.T) / 2  # to the bit
    return weights / weights.sum(1).mean()


def kmeans(rows: Tensor, clusters: int) -> Tensor:
    """Labels of k-means by scikit-learn, every label used."""
    from sklearn.cluster import KMeans

    solver = KMeans(clusters, n_init=10, random_state=0)  # pyright: ignore[reportArgumentType] - its stubs are wrong
    return torch.from_numpy(solver.fit_predict(rows.numpy())).long().unique(return_inverse=True)[1]


def recalibrate_(model: nn.Module, data: Data, images: int) -> None:
    """Take batch norm's statistics again, as plain means over some training images."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    rows = torch.linspace(0, len(data.train) - 1, min(images, len(data.train))).long()
    model.train()
    with torch.no_grad():
        for seen, _ in data.train.batches(rows.split(256)):
            model(data.train.normalised(seen))
    model.eval()


def picture(found: Found) -> "Figure":
    """Draw accuracy, and how far filters are from those that were trained, against the filters that are left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    for axes, curve, name in zip(
        figure.subplots(1, 2),
        ("accuracy", "error"),
        ("test accuracy, %", "distance from the trained filters, %"),
        strict=True,
    ):
        for row, colour in zip(ROWS, COLOURS, strict=False):
            for number, outcome in enumerate(found.get((row, ""), {}).values()):
                pairs = zip(outcome.curves["filters"], outcome.curves[curve], strict=True)
                dots = [(left, right) for left, right in pairs if left is not None and right is not None]
                label = None if number else ROWS[row]
                axes.plot(*zip(*dots, strict=True), ".-", color=colour, lw=1, markersize=4, alpha=0.8, label=label)
        axes.set(xlabel="filters that are left, %", ylabel=name)
        axes.invert_xaxis()
        axes.grid(color=INK, alpha=0.25, lw=0.6)
        quiet(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=9)
    return figure
