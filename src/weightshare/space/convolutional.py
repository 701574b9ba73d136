"""What local layers with the receptive fields of a convolution have in common, transposed or not."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from math import prod
from operator import index
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from weightshare.errors import ShapeMismatch, SpecError
from weightshare.space.layer import LocalLayer, cast_for_autocast, unfilled

Bias = bool | Literal["position"]
Sizes = int | Sequence[int]


class Convolutional(LocalLayer):
    """A local twin of one of torch's convolutions; abstract. Attributes have the names and meaning of the twin's."""

    spatial: ClassVar[int]
    conv: ClassVar[type[nn.modules.conv._ConvNd]]
    options: ClassVar[dict[str, object]]
    """What the twin's constructor takes besides channels, kernel and bias, with what goes without saying."""

    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    input_size: tuple[int, ...]
    _bias: Bias

    @abstractmethod
    def deviation(self) -> float:
        """The standard deviation of a new kernel's numbers."""

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer without its bias: a batch of the right shape in, channels last in memory out."""

    def reset_parameters(self, eps: float | None = None) -> None:
        """Draw new kernels from `N(0, deviation²)`, and set biases to 0.

        Args:
            eps: `None` draws every position by itself. A number starts from one kernel for all positions, `K`, and
                makes that of each `(K + eps·noise)/√(1 + eps²)`, so that every weight keeps its variance.
        """
        with torch.no_grad():
            if eps is None:
                self.weight.normal_(0, self.deviation())
            else:
                kernel = torch.empty_like(self.weight[(0,) * self.spatial]).normal_(0, self.deviation())
                self._fill(kernel, eps, self.deviation())
            if self.bias is not None:
                self.bias.zero_()

    @classmethod
    def from_conv(cls, conv: nn.Module, input_size: Sizes, eps: float = 0.0, bias: Bias | None = None) -> Self:
        """A layer that computes what a convolution does, with a copy of its kernel at each position.

        Args:
            conv: The convolution of torch that this class is the twin of. It stays as it is.
            input_size: Of the images that it will see, along each spatial axis.
            eps: Noise, relative to the standard deviation of the kernel's numbers: a position reads
                `(K + eps·noise)/√(1 + eps²)`. 0 copies.
            bias: `"position"` gives each position a copy of the biases, `False` drops them; `None` leaves them as the
                convolution has them.

        Returns:
            The layer, on the device and of the type of the convolution.

        Raises:
            SpecError: If `conv` is of another kind, or of a class of its own, which may compute something else.
            ShapeMismatch: If the kernel does not fit into the input.
        """
        if cls._lazy():
            raise SpecError(f"{cls.__name__} takes its size from its first input: use from_conv of the layer itself.")
        if type(conv) is not cls.conv:
            raise SpecError(f"{cls.__name__}.from_conv: got {type(conv).__name__}, need {cls.conv.__name__}.")
        assert isinstance(conv, nn.modules.conv._ConvNd)
        given: dict[str, Any] = {name: getattr(conv, name) for name in cls.options}
        given |= {"bias": conv.bias is not None if bias is None else bias, "groups": conv.groups}
        sizes: tuple[Any, ...] = (conv.in_channels, conv.out_channels, conv.kernel_size, input_size)
        made = unfilled(cls, *sizes, **given, device=conv.weight.device, dtype=conv.weight.dtype)
        with torch.no_grad():
            deviation = float(conv.weight.float().std(correction=0)) if eps and not conv.weight.is_meta else 0.0
            made._fill(made.as_kernel(conv.weight), eps, deviation)
            made.weight.requires_grad_(conv.weight.requires_grad)
            if made.bias is not None and conv.bias is not None:
                made.bias.copy_(conv.bias.expand_as(made.bias))
                made.bias.requires_grad_(conv.bias.requires_grad)
            elif made.bias is not None:
                made.bias.zero_()
        return made.train(conv.training)

    def shared(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        given: dict[str, Any] = {name: getattr(self, name) for name in self.options}
        given |= {"groups": self.groups, "bias": bias is not None}
        sizes: tuple[Any, ...] = (self.in_channels, self.out_channels, self.kernel_size)
        conv = unfilled(self.conv, *sizes, **given, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            conv.weight.copy_(self.as_conv_weight(weight))
            if bias is not None and conv.bias is not None:
                conv.bias.copy_(bias)
        return conv

    def as_kernel(self, weight: Tensor) -> Tensor:
        """The weight of the twin, `(outer·groups, inner/taps, *kernel)`, as one kernel, `(groups, inner, outer)`."""
        grouped = weight.unflatten(0, (self.groups, -1))  # groups, outer, inner/taps, *kernel
        return grouped.movedim((1, 2), (-1, -2)).flatten(1, -2)

    def as_conv_weight(self, kernel: Tensor) -> Tensor:
        """The other way: kernels `(..., groups, inner, outer)` as `(..., groups·outer, inner/taps, *kernel)`."""
        taps = kernel.unflatten(-2, (*self.kernel_size, -1))
        at = kernel.ndim - 2  # the first axis of taps
        return taps.movedim((-1, -2), (at, at + 1)).flatten(at - 1, at)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            input: `(batch, in, *input_size)`, or without the batch.

        Returns:
            `(batch, out, *size)`, in the memory format of the input.

        Raises:
            ShapeMismatch: If the input has other channels or another size.
        """
        x = input  # torch's convolutions take it by this name
        batched = x.ndim == self.spatial + 2
        if not batched and x.ndim != self.spatial + 1:
            needed = ", ".join(map(str, (self.in_channels, *self.input_size)))
            raise ShapeMismatch(
                f"{type(self).__name__}: got an input of shape {tuple(x.shape)}, need (batch, {needed}), or without "
                "the batch."
            )
        x = x if batched else x.unsqueeze(0)
        if x.shape[1] != self.in_channels:
            raise ShapeMismatch(f"{type(self).__name__}: got {x.shape[1]} channels, need {self.in_channels}.")
        self.expect_size(tuple(x.shape[2:]), self.input_size)
        channels_last = x.stride(1) == 1
        read, weight, bias = cast_for_autocast(x, self.weight, self.bias)
        assert read is not None
        assert weight is not None
        out = self.product(read, weight)
        if bias is not None:
            out = out + (bias.movedim(-1, 0) if bias.ndim > 1 else bias.view(-1, *(1,) * self.spatial))
        if not channels_last:
            out = out.contiguous()
        return out if batched else out.squeeze(0)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, input_size={self.input_size}"
        for name, default in (*self.options.items(), ("groups", 1)):
            value = getattr(self, name)
            if value != ((default,) * self.spatial if isinstance(default, int) and name != "groups" else default):
                text += f", {name}={value!r}"
        return text if self._bias is True else f"{text}, bias={self._bias!r}"

    def _take(self, in_channels: int, out_channels: int, groups: int, bias: Bias) -> None:
        """Check and keep what all twins have; `in_channels=0` is not known yet."""
        given, counts = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}, []
        for name, value in given.items():
            count = _whole(value)
            if count is None or count < (0 if name == "in_channels" and self._lazy() else 1):
                raise SpecError(f"{type(self).__name__}: {name}={value!r}, need a whole number of at least 1.")
            counts.append(count)
        in_channels, out_channels, groups = counts
        if in_channels % groups or out_channels % groups:
            raise SpecError(
                f"{type(self).__name__}: groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}."
            )
        if not isinstance(bias, bool) and not (isinstance(bias, str) and bias == "position"):
            raise SpecError(f"{type(self).__name__}: bias={bias!r}, need True (per channel), False or 'position'.")
        self.in_channels, self.out_channels, self.groups, self._bias = in_channels, out_channels, groups, bias

    def _make(self, positions: Sequence[int], inner: int, outer: int, biased: Sequence[int], **factory: Any) -> None:
        """Make and fill the parameters; `biased` is where a bias of its own can be."""
        shape = (*positions, self.groups, prod(self.kernel_size) * inner, outer)
        dtype = factory.get("dtype") or torch.get_default_dtype()
        if not dtype.is_floating_point:
            raise SpecError(f"{type(self).__name__}: dtype={dtype}, need floating-point numbers.")
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        if self._bias is False:
            self.register_parameter("bias", None)
        else:
            at = biased if self._bias == "position" else ()
            self.bias = nn.Parameter(torch.empty(*at, self.out_channels, **factory))
        self.reset_parameters()

    @classmethod
    def _lazy(cls) -> bool:
        return False

    @classmethod
    def _sizes(cls, name: str, given: object, least: int) -> tuple[int, ...]:
        """One whole number for each spatial axis."""
        one = _whole(given)
        several = tuple(map(_whole, given)) if one is None and isinstance(given, Iterable) else ()
        row = [number for number in ((one,) * cls.spatial if one is not None else several) if number is not None]
        if len(row) != cls.spatial or len(several) not in (0, cls.spatial) or min(row) < least:
            raise SpecError(
                f"{cls.__name__}: {name}={given!r}, need {cls.spatial} whole number{'s' * (cls.spatial > 1)} of at "
                f"least {least}."
            )
        return tuple(row)


def _whole(value: object) -> int | None:
    """A whole number of any kind, such as numpy's, as Python's; `None` for anything else, truth values too."""
    try:
        return None if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
