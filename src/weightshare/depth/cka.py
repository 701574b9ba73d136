"""Linear CKA: how alike the representations of two layers are, whatever basis each has.

    K = X Xᵀ,  L = Y Yᵀ,    CKA(K, L) = HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L))

for activations `X`, `Y` of the same `n` examples. It is 1 where one is an orthogonal map and a scale of the other. The
HSIC of a batch is biased, and worst where batches are small and layers wide, so its unbiased estimator is taken and
averaged over batches; then CKA does not depend on the size of the batches, and a batch is all that is held.

Source: Kornblith 2019 (CKA); Song 2012 (unbiased HSIC); Nguyen 2021 (the mean over batches).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtyping import Float
import torch
from torch import Tensor, nn

from weightshare.depth.measure import Similarity, blocks_of
from weightshare.errors import SpecError
from weightshare.surgery.sites import plain
from weightshare.surgery.watch import Layers, first_tensor, modules_at, run, watching

FEWEST = 4
"""Examples that the unbiased estimator needs."""


def cka(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    layers: Layers | None = None,
    layers_b: Layers | None = None,
) -> Similarity:
    """Compare what every layer of one network computes with every layer of another one.

    An example is an entry of the first axis of an output; all else of it is flattened, so positions are features. Of a
    layer that runs several times in a pass each run is a layer of its own.

    Args:
        model_a: The network whose layers are the rows. Run in evaluation mode, without gradients, and left as it was.
        model_b: The network whose layers are the columns; it may be the same one.
        batches: Inputs of both networks, each a tensor, a sequence of positional arguments or a mapping of keywords,
            on the networks' devices, of 4 examples or more. Memory is `batch²` numbers for each layer.
        layers: Globs on paths of modules, or a type; by default all blocks of what repeats.
        layers_b: The same for the second network, if its layers have other paths.

    Returns:
        The matrix, and the paths of its rows and columns. Estimates may lie slightly below 0 or above 1. It is NaN
        where a layer's own HSIC is not above 0: its outputs are equal for all examples, or the examples are too few.

    Raises:
        SpecError: If a network cannot run on a batch, there is no batch, a batch has fewer than 4 examples, a layer
            gives no tensor with one entry for each, or the layers that ran change from batch to batch.
        NoMatch: If a pattern matches no module.

    Source: Nguyen 2021, eqs. 2 and 3; Song 2012, eq. 5. Differs: nothing.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7))
        >>> found = cka(net, net, [torch.randn(11, 5) for _ in range(3)], layers="*")
        >>> found.rows, found.values.diagonal().round(decimals=6).tolist()
        (('0', '1', '2'), [1.0, 1.0, 1.0])
    """
    rows = _Grams(model_a, layers)
    same = model_b is model_a and layers_b is None
    columns = rows if same else _Grams(model_b, layers if layers_b is None else layers_b)
    cross, own_a, own_b = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for number, batch in enumerate(batches):
        a = rows.of(batch, number)
        b = a if same else columns.of(batch, number)
        if a.shape[1] != b.shape[1]:
            raise SpecError(f"On batch {number} the two networks give {a.shape[1]} and {b.shape[1]} examples.")
        scale = a.shape[1] * (a.shape[1] - 3)
        a, b = a.flatten(1), b.flatten(1)
        cross = cross + a @ b.T / scale
        own_a, own_b = own_a + a.square().sum(1) / scale, own_b + b.square().sum(1) / scale
    if not cross.ndim:
        raise SpecError("cka was given no batch.")
    norms = own_a[:, None] * own_b
    positive = (own_a > 0)[:, None] & (own_b > 0)
    values = torch.where(positive, cross / norms.clamp_min(torch.finfo(norms.dtype).tiny).sqrt(), torch.nan)
    return Similarity("linear CKA", rows.names, columns.names, values)


def centred(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Centre a Gram matrix so that products of two are unbiased: `⟨Ã, B̃⟩ / (n(n-3)) = HSIC₁(A, B)`.

    With `K` the matrix with zeros on its diagonal, `r` its row sums and `s` their sum, the entries off the diagonal are
    `K_ij − (r_i + r_j)/(n−2) + s/((n−1)(n−2))`, and those on it 0.

    Args:
        gram: Symmetric, of 4 examples or more.

    Returns:
        A new matrix; each of its rows sums to 0.

    Source: Song 2012, eq. 5, written as one product as in Székely 2014 (U-centring). Differs: nothing.

    Example:
        >>> centred(torch.tensor([[9.0, 1, 0, 0], [1, 9, 0, 0], [0, 0, 9, 1], [0, 0, 1, 9]])).round(decimals=3)[0]
        tensor([ 0.0000,  0.6670, -0.3330, -0.3330])
    """
    n = len(gram)
    hollow = gram - torch.diag(gram.diagonal())
    rows = hollow.sum(1)
    out = hollow - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return out.fill_diagonal_(0.0)


class _Grams:
    """Centred Gram matrices of a network's layers, batch by batch."""

    def __init__(self, model: nn.Module, layers: Layers | None) -> None:
        self.model = plain(model)
        chosen = blocks_of(self.model) if layers is None else modules_at(self.model, layers)
        self._modules = chosen
        self._paths = defaultdict[int, list[str]](list)
        for path, module in self.model.named_modules(remove_duplicate=False):
            self._paths[id(module)].append(path)
        self.names: tuple[str, ...] = ()

    def of(self, batch: Any, number: int) -> Float[Tensor, "layers n n"]:
        """Run the network on a batch."""
        grams: dict[str, Tensor] = {}
        runs = dict.fromkeys(self._modules, 0)

        def keep(path: str, _: object, output: object) -> None:
            paths = self._paths[id(self._modules[path])]
            name = paths[runs[path]] if runs[path] < len(paths) else f"{paths[-1]} (run {runs[path] + 1})"
            runs[path] += 1
            grams[name] = _gram(name, output, grams)

        with watching(self.model, self._modules, keep):
            run(self.model, batch, f"batch {number}")
        idle = [path for path, times in runs.items() if not times]
        if idle:
            raise SpecError(f"'{idle[0]}' does not run on batch {number}: leave it out of the layers.")
        order = {path: place for place, path in enumerate(dict(self.model.named_modules(remove_duplicate=False)))}
        names = tuple(sorted(grams, key=lambda name: order.get(name, len(order))))
        if self.names and names != self.names:
            raise SpecError(f"On batch {number} other layers run than before: {sorted({*names} ^ {*self.names})}.")
        self.names = names
        return torch.stack([grams[name] for name in names])


def _gram(name: str, output: object, others: Mapping[str, Tensor]) -> Float[Tensor, "n n"]:
    """The centred Gram matrix of one output, in double precision on the CPU."""
    first = first_tensor(output)
    if first is None or not first.is_floating_point() or first.ndim < 1:
        got = type(output).__name__ if first is None else f"{first.dtype} of shape {tuple(first.shape)}"
        raise SpecError(f"'{name}' gives {got}: need floating-point numbers for each example.")
    count = len(next(iter(others.values()), first))
    if len(first) != count:
        raise SpecError(f"'{name}' gives {len(first)} examples where others give {count}: leave it out of the layers.")
    if count < FEWEST:
        raise SpecError(f"The unbiased estimator needs batches of {FEWEST} examples or more, '{name}' gives {count}.")
    features = first.detach().flatten(1)
    features = features if features.dtype == torch.float64 else features.float()
    mean = features.mean(0)
    apart = features - mean  # changes no result, and keeps digits
    # What rounding leaves of equal numbers is no difference between examples.
    features = apart.masked_fill(apart.abs() <= 8 * torch.finfo(apart.dtype).eps * mean.abs(), 0.0)
    return centred((features @ features.T).cpu().double())
