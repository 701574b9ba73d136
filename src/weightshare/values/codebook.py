"""Hard sharing across values: the scalars of a weight read the values of a codebook, `W = C[I]`.

Where in the grid: items are the scalars of one weight, slots are its cluster values, and the assignment has one 1 in a
row. There are as many labels as numbers, so they are a buffer of the model, and the plan holds their count alone.

Torch's own parametrization makes the weight from the codebook at every read, so all that knows parametrized modules
knows these: state dicts, optimizers, compilers, autocast, copies. What torch refuses for them (pickling the module
itself) it refuses here too.

Source: Shakerinava 2023, retraining with fixed clusters; Han 2016 (Deep Compression), section 3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from weightshare.decoding import MOST_CLUSTERS, Clusters, Decoding, refuse_labels, sort_out, unreadable, wide
from weightshare.errors import ModelChanged, SpecError
from weightshare.kernels import followed, on
from weightshare.sharing import Assignment, Group, LeftOut
from weightshare.surgery import edit
from weightshare.surgery.blocks import in_norm
from weightshare.surgery.count import distinct, distinct_up_to
from weightshare.surgery.parametrized import foreign_parametrizations
from weightshare.surgery.sites import Site, decoded_names
from weightshare.values.choice import not_a_layer
from weightshare.values.clusters import Init, as_bits, find_clusters

Gradient = Literal["mean", "sum"]
Zeros = Literal["train", "keep"]


@dataclass(frozen=True, repr=False)
class Codebook(Decoding):
    """Each weight reads the values of a codebook of its own, by labels that stay as they are.

    Without a pattern: the weights of Linear and Conv layers, of torch or called so (as transformers' `Conv1D` is), and
    the input projections of `nn.MultiheadAttention`. With one: every weight of two or more dimensions that it matches,
    but for what torch cannot parametrize. Biases, norms and what several paths read stay as they are.

    A codebook is a vector, so `param_groups` gives it no weight decay: it would pull all members of a cluster at once.

    Args:
        clusters: Values of each weight, from 1 to 65,536; of a weight that has fewer, as many as it has. `None` takes
            those that the weight has, as the proximal step leaves them: no output changes.
        init: How values become so few: `"kmeans"`, by scikit-learn, or `"quantiles"`; see `find_clusters`.
        gradient: What a cluster's value steps by: the `"mean"` of its members' gradients, or their `"sum"`, which is
            the true gradient and thousands of times larger.
        zeros: Exact zeros are a cluster of their own. `"train"` trains it like any other, as the paper does; `"keep"`
            gives no gradient to a cluster while its value is 0, so pruned weights stay pruned.
        seed: Of k-means.

    Raises:
        SpecError: If a value is out of range.

    Source: Shakerinava 2023, retraining. Differs: nothing by default; `"keep"` and `"sum"` are ours.

    Example:
        >>> net = nn.Linear(13, 17)
        >>> plan = share_(net, Codebook(clusters=4))
        >>> plan.stored_before, plan.stored_after
        (238, 21)
        >>> net.weight.unique().numel()
        4
    """

    clusters: int | None = None
    init: Init = "kmeans"
    gradient: Gradient = "mean"
    zeros: Zeros = "train"
    seed: int = 0

    @property
    def kind(self) -> type[Group]:
        """Of all its groups."""
        return Clusters

    def __post_init__(self) -> None:
        whole = isinstance(self.clusters, int) and not isinstance(self.clusters, bool)
        if self.clusters is not None and not (whole and 1 <= self.clusters <= MOST_CLUSTERS):
            raise SpecError(
                f"Codebook(clusters={self.clusters!r}): need how many values a weight may have, from 1 to "
                f"{MOST_CLUSTERS:,}, or None for those that it has."
            )
        for name, choices in (("init", ("kmeans", "quantiles")), ("gradient", ("mean", "sum"))):
            _expect(name, getattr(self, name), choices)
        _expect("zeros", self.zeros, ("train", "keep"))
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise SpecError(f"Codebook(seed={self.seed!r}): need a whole number from 0 to 2**32 − 1.")

    def group(
        self, model_sites: Sequence[Site], chosen: Sequence[Site], explicit: bool
    ) -> tuple[list[Clusters], list[LeftOut]]:
        """Make each weight a group of its own; see `Spec.group`.

        Raises:
            AlreadyShared: If the pattern names a weight that several paths read.
            SpecError: If a weight has no finite numbers, or the pattern names one that a codebook would not make
                smaller.
        """
        return sort_out(
            *(chosen, explicit, lambda site: _unfit(site) or ("" if explicit else not_a_layer(site)), self._planned),
            verb="cluster",
            advice="Give fewer clusters, or make its values equal first.",
        )

    def find(self, model: nn.Module, group: Clusters) -> tuple[Tensor, Tensor]:
        """The clusters of a weight, and the label of each of its scalars."""
        (path,) = group.items
        codebook, index = find_clusters(edit.parameter_at(model, path).detach(), self.clusters, self.init, self.seed)
        if len(codebook) != group.clusters:
            raise ModelChanged(
                f"'{path}' gives {len(codebook):,} clusters, the plan was made for {group.clusters:,}: its numbers "
                "have changed. Plan again."
            )
        return codebook, index

    def read_(self, edits: edit.Transaction, group: Clusters, stored: Tensor, second: Tensor) -> None:
        """Make the weight read its codebook, with labels in its own memory format; see `Decoding.read_`."""
        weight = edit.parameter_at(edits.model, group.items[0])
        if second.shape == weight.shape:
            order = _order(weight)
            second = second.permute(order).contiguous().permute(_inverse(order))
        super().read_(edits, group, stored, second)

    def decoder(self, group: Clusters, second: Tensor) -> nn.Module:
        """What reads a codebook by labels."""
        return Decoder(second, self.gradient, self.zeros)

    def check_loading(self, group: Clusters, entries: Mapping[str, Any], prefix: str) -> None:
        """Refuse labels that point nowhere: a GPU would only say that its memory is broken."""
        refuse_labels(names(prefix + group.items[0]), entries, "its codebook has {slots} values")

    def _planned(self, site: Site) -> tuple[Clusters, str]:
        if site.tensor.is_meta:
            raise SpecError(f"'{site.path}' is on the meta device and has no numbers to cluster: load the model first.")
        if not bool(site.tensor.isfinite().all()):
            raise SpecError(f"Cannot cluster '{site.path}': it holds NaN or infinity. Find out why first.")
        if self.clusters is None:
            values = int(as_bits(site.tensor.detach().reshape(-1)).unique().numel())
        else:
            values = distinct_up_to(site.tensor, self.clusters)
            if values == 1 < distinct(site.tensor) and bool((site.tensor == 0).any()):
                raise SpecError(
                    f"Cannot cluster '{site.path}' into one value: it holds exact zeros, which stay zero. Take "
                    "clusters=2 or more."
                )
        group = Clusters(site.path, (site.path,), site.shape, site.dtype, Assignment.of([0]), values)
        codebook, packed, dense = group.on_file
        if codebook + packed < dense:
            return group, ""
        return group, (
            f"{group.clusters:,} values of {group.numel:,} numbers would save nothing: a codebook of {codebook:,} "
            f"bytes and labels of {packed:,} instead of {dense:,}"
        )


def names(path: str) -> tuple[str, str]:
    """What a shared weight's codebook and labels are called in a state dict.

    Example:
        >>> names("fc1.weight")
        ('fc1.parametrizations.weight.original', 'fc1.parametrizations.weight.0.index')
    """
    return decoded_names(path, Clusters.second)


class Decoder(nn.Module):
    """`C ↦ C[I]` with fixed labels `I`: what torch's parametrization calls at every read of the weight.

    Args:
        index: Labels in the shape of the weight, and in its memory format, which what is read has too.
        gradient: As for `Codebook`.
        zeros: As for `Codebook`.
    """

    index: Tensor

    def __init__(self, index: Tensor, gradient: Gradient, zeros: Zeros) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.gradient, self.zeros = gradient, zeros

    def forward(self, codebook: Tensor) -> Tensor:
        """The weight."""
        return _Read.apply(codebook, self.index, self.gradient == "mean", self.zeros == "keep")  # type: ignore[return]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The nearest codebook, as torch asks for on `layer.weight = weight`: the means of the clusters' members."""
        clusters = int(self.index.max()) + 1
        sums = by_cluster(weight.detach(), self.index, clusters)
        return (sums / by_cluster(torch.ones_like(sums[:1]).expand(weight.shape), self.index, clusters)).to(
            weight.dtype
        )

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"{tuple(self.index.shape)} from a codebook, gradient={self.gradient!r}, zeros={self.zeros!r}"


class _Read(torch.autograd.Function):
    """`C[I]`. Its backward gives each value the sum or the mean of its members' gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(codebook: Tensor, index: Tensor, mean: bool, keep: bool) -> Tensor:  # pyright: ignore
        kernels = on(None if followed(codebook, index) else codebook.device)
        if index.is_contiguous():
            return kernels.take(codebook, index.reshape(-1)).view(index.shape)
        order = _order(index)  # as in memory: convolutions compute otherwise, and faster, on channels last
        labels = index.permute(order)
        return kernels.take(codebook, labels.reshape(-1)).view(labels.shape).permute(_inverse(order))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        codebook, index, ctx.mean, ctx.keep = inputs
        ctx.save_for_backward(codebook, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore
        codebook, index = ctx.saved_tensors
        found = by_cluster(grad, index, len(codebook))
        if ctx.mean:
            members = by_cluster(torch.ones_like(found[:1]).expand(grad.shape), index, len(codebook))
            found = found / members.clamp(min=1)
        if ctx.keep:
            found = found.masked_fill(codebook == 0, 0)
        return found.to(codebook.dtype), None, None, None


def _order(tensor: Tensor) -> list[int]:
    """The axes of a tensor from the one with the longest steps in memory."""
    steps = tensor.stride()
    return sorted(range(tensor.ndim), key=lambda axis: -steps[axis])


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=lambda place: order[place])


def by_cluster(numbers: Tensor, index: Tensor, clusters: int) -> Tensor:
    """The sum of the numbers of each label, `(clusters,)`, in float32 or wider."""
    flat, labels = wide(numbers.reshape(-1)), index.reshape(-1)
    return on(None if followed(flat, labels) else flat.device).by_label(flat, labels, clusters)


def _unfit(site: Site) -> str:
    """Why a site cannot read a codebook, or nothing."""
    if site.tensor.ndim < 2:
        return "it has fewer than two dimensions: a bias, a norm, a gain"
    if in_norm(site):
        return "a norm holds it"
    if reason := unreadable(site):
        return reason
    module, name = site.holder, site.path.rpartition(".")[2]
    if isinstance(module, ParametrizationList) or foreign_parametrizations(module):
        return "its module is parametrized already: cluster first, or take that off (remove_parametrizations)"
    if isinstance(module, nn.RNNBase) or name.startswith(("weight_ih_l", "weight_hh_l")):
        return "recurrent layers keep a second list of their weights, which torch does not parametrize"
    base, _, last = name.rpartition("_")
    if last in ("orig", "g", "v") and isinstance(getattr(module, base, None), Tensor):
        return f"a hook makes '{base}' from it (the old weight_norm or spectral_norm, or pruning): take that off first"
    return ""


def _expect(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SpecError(f"Codebook({name}={value!r}): need {' or '.join(map(repr, choices))}.")
