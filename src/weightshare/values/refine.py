"""What comes after a regression with a penalty: rewinding takes most of the pull off, and a refit takes all of it.

In the grid: sharing across values, made hard. The penalty that holds a cluster together also pulls the clusters towards
one another, and where columns of `x` are correlated that pull differs within a cluster and tears it apart. With
rewinding the clusters stick as under `α` and are pulled as under `(1 − ρ) α`: where a step changes nothing any more,
the mean gradient over a cluster is `−(1 − ρ) α` times its mean rank. There is no objective that this minimises, so
there is no certificate either; where one ends is decided by the start, and the convex answer is a good one.

Source: Shakerinava 2023, rewinding and retraining, for linear regression.
"""

from jaxtyping import Float, Int
import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.values import check
from weightshare.values.prox import prox_clusters, rewound
from weightshare.values.solve import check_count, check_data, check_start, greatest_eigenvalue, merged, soft


@torch.no_grad()
def regress_rewound(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, " n"],
    strength: float,
    start: Float[Tensor, " d"],
    l1: float = 0.0,
    rewind: float = 0.98,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
) -> tuple[Float[Tensor, " d"], Int[Tensor, " d"], float]:
    """Go down `½/n ‖Xw − y‖²` and after each step merge coefficients as under `strength`, but pull them less.

    Args:
        x: (n, d).
        y: (n).
        strength: α, at least 0.
        start: (d), such as the coefficients of `regress_shared`, or those found with a smaller strength.
        l1: λ, at least 0; clusters within its threshold become exactly 0, the others move by `1 − rewind` of it.
        rewind: ρ, from 0 to 1. With 0 this is `regress_shared`, plain.
        tolerance: Stop when no coefficient moves by more.
        max_iterations: Steps at most; at least 1.

    Returns:
        Coefficients in the dtype of `x`; their clusters, from 0, ascending with the value; and the last step's greatest
        move, which says whether it has come to rest.

    Raises:
        SpecError: As `regress_shared`.

    Source: Shakerinava 2023, rewinding; METHODS.md says what happens to the ℓ1 part.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([0.0, 3.0, 1.0])
        >>> regress_rewound(x, y, strength=0.5, start=y, rewind=1.0)
        (tensor([0.5000, 3.0000, 0.5000]), tensor([0, 1, 0]), 0.0)
    """
    what = "regress_rewound"
    check_data(x, y, what, targets=False)
    strength, l1 = check.strength(strength, f"{what}'s strength"), check.strength(l1, f"{what}'s l1")
    rewind, tolerance = check.strength(rewind, f"{what}'s rewind"), check.strength(tolerance, f"{what}'s tolerance")
    if rewind > 1:
        raise SpecError(f"{what}: rewind is the part of a cluster's way that is taken back, from 0 to 1, got {rewind}.")
    check_count(max_iterations, what)
    w = check_start(start, x, y, what)[0]
    n, dtype, x, y = len(x), x.dtype, x.detach().double(), y.detach().double()
    curvature = greatest_eigenvalue(x)
    labels, change = torch.zeros_like(w, dtype=torch.int64), torch.inf
    for _ in range(max_iterations):
        point = w + (y - x @ w) @ x / (n * curvature)
        z, labels = prox_clusters(point, strength / curvature)
        pulled = soft(z, l1 / curvature)
        after = torch.where(pulled == 0, 0.0, rewound(point, pulled, labels, rewind))
        change, w = float((after - w).abs().max()), after
        if change <= tolerance:
            break
    return w.to(dtype), merged(labels, w == 0), change


def regress_clusters(
    x: Float[Tensor, "n d"], y: Float[Tensor, " n"], labels: Int[Tensor, " d"], zeros: Tensor | None = None
) -> Float[Tensor, " d"]:
    """Fit one coefficient for each cluster by least squares: what takes the penalty's pull off what it found.

    Args:
        x: (n, d).
        y: (n).
        labels: (d), the cluster of each coefficient; any integers.
        zeros: (d) of bool: coefficients that stay 0.

    Returns:
        Coefficients in the dtype of `x`. Where observations do not decide, the shortest vector of cluster values.

    Raises:
        SpecError: As `regress_shared`, or if there is not one integer label for each column of `x`.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([1.0, 2.0, 6.0])
        >>> regress_clusters(x, y, torch.tensor([0, 0, 1]))
        tensor([1.5000, 1.5000, 6.0000])
    """
    what = "regress_clusters"
    check_data(x, y, what, targets=False)
    d = x.shape[1]
    if labels.shape != (d,) or labels.is_floating_point() or labels.is_complex():
        raise SpecError(
            f"{what} needs {d} integer labels, one for each column of x, got {labels.dtype} of {tuple(labels.shape)}."
        )
    if zeros is not None and (zeros.shape != (d,) or zeros.dtype != torch.bool):
        raise SpecError(f"{what}: zeros are {d} booleans, got {zeros.dtype} of shape {tuple(zeros.shape)}.")
    cluster = labels.unique(return_inverse=True)[1]
    free = torch.ones(d, dtype=torch.float64, device=x.device) if zeros is None else (~zeros).double()
    sums = x.new_zeros(x.shape[0], int(cluster.max()) + 1, dtype=torch.float64)
    sums.index_add_(1, cluster, x.detach().double() * free)
    values = torch.linalg.pinv(sums) @ y.detach().double()
    return (values[cluster] * free).to(x.dtype)
