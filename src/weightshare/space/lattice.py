"""Assignments of positions: which positions of a layer read one kernel.

During sleep the input of a layer repeats with a period, so positions that are a period apart see the same, and can
find the same weights. Along an axis with stride `s` positions `i` and `i'` share when `s·i ≡ s·i' (mod k)`: there are
`k` classes where `s` and `k` have no common divisor, fewer where they have, and one for a kernel of one tap. A layer's
classes, the paper's *modules*, are the combinations over its axes.

`Sleep` pulls the kernels of a class together; `share_(model, Lattice())` stores one kernel for each class from then on,
and trains it by the sum of its positions' gradients, as convolutions do.

In the grid: items are positions, slots are kernels. Source: Pogodin 2021, section 4.1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weightshare.decoding import MOST_CLUSTERS, Decoding, index_dtype, refuse_labels, refuse_nonfinite, sort_out, wide
from weightshare.errors import ModelChanged, SpecError
from weightshare.sharing import Assignment, Group, LeftOut
from weightshare.space.layer import Axis, LocalLayer
from weightshare.space.positions import Positions, local_layer, unfit
from weightshare.surgery import edit
from weightshare.surgery.sites import Site

Index = tuple[slice, ...] | Tensor
"""Where the positions of one class are: one slice per spatial axis, or their numbers, positions counted in one axis."""


@dataclass(frozen=True, repr=False)
class Lattice(Decoding):
    """Which positions of a layer share: for `share_`, which stores one kernel a class, and for `Sleep`.

    As a spec it fits the weights of local layers, and biases of their positions. A slot starts as the mean of its
    class, and as a copy where the class is equal already.

    Args:
        period: Of the repeating input, one number or one for each axis. `None` is the paper's: the kernel's size, and
            with dilation the smallest that tells its taps apart. 1 is one class of all positions, a convolution.
        borders: Whether positions that see padding share with those that do not (`"together"`, as in the paper), or
            only with positions that see padding at the same taps (`"apart"`).
        labels: Instead: the class of each position, in the order of memory, for a layer of that many positions.

    Raises:
        SpecError: If a value is out of its range, or `labels` comes with other fields.

    Source: Pogodin 2021, section 4.1. Differs: dilation, `"apart"` and labels are not in the paper.

    Example:
        >>> from weightshare.space.local import LocallyConnected2d
        >>> Lattice().assignment(LocallyConnected2d(1, 1, 3, input_size=(4, 5), padding=1)).labels.view(4, 5)
        tensor([[0, 1, 2, 0, 1],
                [3, 4, 5, 3, 4],
                [6, 7, 8, 6, 7],
                [0, 1, 2, 0, 1]])
        >>> net = LocallyConnected2d(1, 2, 3, input_size=(4, 5), padding=1)
        >>> plan = share_(net, Lattice(period=1))
        >>> plan.stored_before, plan.stored_after
        (362, 20)
    """

    period: int | tuple[int, ...] | None = None
    borders: Literal["together", "apart"] = "together"
    labels: tuple[int, ...] | None = None

    @property
    def kind(self) -> type[Group]:
        """Of all its groups."""
        return Positions

    def __post_init__(self) -> None:
        periods = (1,) if self.period is None else (self.period,) if isinstance(self.period, int) else self.period
        if not isinstance(periods, tuple) or not periods or any(type(one) is not int or one < 1 for one in periods):
            raise SpecError(f"Lattice(period={self.period!r}): need whole numbers of at least 1, or None.")
        if self.borders not in ("together", "apart"):
            raise SpecError(f"Lattice(borders={self.borders!r}): need 'together' or 'apart'.")
        if self.labels is not None:
            if self.period is not None or self.borders != "together":
                raise SpecError("Lattice: labels say all; leave out period and borders.")
            object.__setattr__(self, "labels", tuple(self.labels))
            Assignment.of(self.labels)

    def group(
        self, model_sites: Sequence[Site], chosen: Sequence[Site], explicit: bool
    ) -> tuple[list[Positions], list[LeftOut]]:
        """Make each weight a group of its own; see `Spec.group`.

        Raises:
            AlreadyShared: If the pattern names a weight that several paths read.
            SpecError: If the lattice does not fit a layer, or the pattern names one whose positions are all apart.
        """
        return sort_out(
            *(chosen, explicit, lambda site: unfit(site, ("weight", "bias")), self._planned),
            verb="share positions of",
            advice="Give a smaller period, or leave it out of the pattern.",
        )

    def find(self, model: nn.Module, group: Positions) -> tuple[Tensor, Tensor]:
        """The mean of each class, and the class of each position."""
        layer, weight = local_layer(model, group.name), edit.parameter_at(model, group.name).detach()
        refuse_nonfinite(group.name, weight)
        assignment = self.assignment(layer)
        if assignment.slots != group.slots or layer.positions != group.positions:
            raise ModelChanged(
                f"'{group.name}' has {assignment.slots} classes of positions {layer.positions}, the plan was made for "
                f"{group.slots} of {group.positions}. Plan again."
            )
        kernels = weight.flatten(0, len(group.positions) - 1)
        labels = assignment.labels.to(weight.device)
        return _means(kernels, labels, group.slots), labels.view(group.positions).to(index_dtype(group.slots))

    def decoder(self, group: Positions, second: Tensor) -> nn.Module:
        """What reads slots by classes."""
        return Decoder(second)

    def check_loading(self, group: Positions, entries: Mapping[str, Any], prefix: str) -> None:
        """Refuse labels that point nowhere."""
        slots, index = group.keys
        refuse_labels((prefix + slots, prefix + index), entries, "there are {slots} kernels")

    def _planned(self, site: Site) -> tuple[Positions, str]:
        layer = site.holder
        assert isinstance(layer, LocalLayer)
        try:
            slots = self.assignment(layer).slots
        except SpecError as error:
            raise SpecError(f"'{site.path}': {error}") from error
        alone = slots == prod(layer.positions)
        reason = "each of its positions is a class of its own, which would save nothing" if alone else ""
        if slots > MOST_CLUSTERS:
            reason = f"its positions are in {slots:,} classes, and labels tell {MOST_CLUSTERS:,} apart"
        return Positions.of(site, slots), reason

    def assignment(self, layer: LocalLayer) -> Assignment:
        """The class of each position of a layer, positions in the order of memory.

        Raises:
            SpecError: If labels are for another number of positions, or periods for another number of axes.
        """
        if self.labels is not None:
            return Assignment.of(self._own_labels(layer.axes))
        codes = [self._codes(axis, period) for axis, period in zip(layer.axes, self.periods(layer.axes), strict=True)]
        mixed = codes[0]
        for code in codes[1:]:
            mixed = (mixed[..., None] * (int(code.max()) + 1) + code).flatten()
        return Assignment(mixed.unique(return_inverse=True)[1].to(torch.int64))

    def classes(self, layer: LocalLayer) -> Iterator[Index]:
        """Where the positions of each class are: as slices where classes are regular, which need no copies."""
        if self.labels is None and self.borders == "together":
            steps = [
                (period // gcd(axis.stride, period), axis.positions)
                for axis, period in zip(layer.axes, self.periods(layer.axes), strict=True)
            ]
            yield from product(*([slice(at, None, step) for at in range(min(step, n))] for step, n in steps))
        else:
            for readers in self.assignment(layer).readers:
                yield torch.tensor(readers)

    def periods(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        """The period along each axis."""
        if self.period is None:
            return tuple(period(axis.kernel, axis.dilation) for axis in axes)
        periods = (self.period,) * len(axes) if isinstance(self.period, int) else self.period
        if len(periods) != len(axes):
            raise SpecError(f"Lattice(period={self.period}): the layer has {len(axes)} axes of positions.")
        return periods

    def _codes(self, axis: Axis, period: int) -> Tensor:
        phase = torch.arange(axis.positions) * axis.stride % period
        if self.borders == "together":
            return phase
        seen = axis.inside().unique(dim=0, return_inverse=True)[1]
        return phase * (int(seen.max()) + 1) + seen

    def _own_labels(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        assert self.labels is not None
        needed = prod(axis.positions for axis in axes)
        if len(self.labels) != needed:
            raise SpecError(f"Lattice: {len(self.labels)} labels are given, the layer has {needed} positions.")
        return self.labels


def period(kernel: int, dilation: int = 1) -> int:
    """The smallest period, at least `kernel`, in which the taps of a dilated kernel see different inputs.

    Example:
        >>> period(3), period(3, 2), period(4, 2), period(1, 7)
        (3, 3, 5, 1)
    """
    found = kernel
    while len({dilation * tap % found for tap in range(kernel)}) < kernel:
        found += 1
    return found


class Decoder(nn.Module):
    """`S ↦ S[I]`, the kernel of each position, with fixed labels `I`: what torch's parametrization calls at every read.

    Args:
        index: The class of each position, in the shape of the positions.
    """

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, slots: Tensor) -> Tensor:
        """The weight."""
        return _Read.apply(slots, self.index)  # type: ignore[return]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The nearest slots, as torch asks for on `layer.weight = weight`: the means of the classes."""
        labels = self.index.reshape(-1).long()
        return _means(weight.detach().flatten(0, self.index.ndim - 1), labels, int(labels.max()) + 1)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"positions {tuple(self.index.shape)}"


class _Read(torch.autograd.Function):
    """`S[I]`. Its backward gives each slot the sum of its positions' gradients, in float32 or wider."""

    generate_vmap_rule = True

    @staticmethod
    def forward(slots: Tensor, index: Tensor) -> Tensor:  # pyright: ignore
        # Widened at each read, since uint8 would be a mask: int32 is the least that torch selects by.
        return slots.index_select(0, index.reshape(-1).int()).view(*index.shape, *slots.shape[1:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        slots, index = inputs
        ctx.slots, ctx.dtype = len(slots), slots.dtype
        ctx.save_for_backward(index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        (index,) = ctx.saved_tensors
        return _sums(grad.flatten(0, index.ndim - 1), index.reshape(-1), ctx.slots).to(ctx.dtype), None


def _sums(kernels: Tensor, labels: Tensor, slots: int) -> Tensor:
    """`(slots, ...)`: the sum of each class."""
    numbers = wide(kernels)
    return numbers.new_zeros(slots, *numbers.shape[1:]).index_add(0, labels.int(), numbers)


def _means(kernels: Tensor, labels: Tensor, slots: int) -> Tensor:
    """`(slots, ...)`: the mean of each class, or its first member where all are equal to the bit."""
    order = torch.arange(len(labels), device=labels.device)
    first = kernels[torch.full_like(order[:slots], len(labels)).scatter_reduce(0, labels, order, "amin")]
    off = _sums(wide(kernels) - wide(first)[labels], labels, slots)
    members = labels.bincount(minlength=slots).view(-1, *(1,) * (kernels.ndim - 1))
    return (wide(first) + off / members).to(kernels.dtype)
