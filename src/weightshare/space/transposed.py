"""Transposed locally connected layers: each position of the input spreads over the output by a kernel of its own.

The gradient of a locally connected layer by its input, as a layer; nothing else is needed than the product that
computes it. In the grid: across positions, nothing shared. Source: none of the papers; asked for in pytorch#15617.
"""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from weightshare.errors import ShapeMismatch, SpecError
from weightshare.space.layer import Axis, LocalLayer, cast_for_autocast
from weightshare.space.local import Bias, Sizes, spread_with_noise
from weightshare.space.products import Geometry, spread


class LocallyConnectedTranspose(LocalLayer):
    """What the layers of 1, 2 and 3 dimensions have in common; abstract by its class attributes."""

    spatial: ClassVar[int]
    conv: ClassVar[type[nn.modules.conv._ConvTransposeNd]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        input_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: Bias = True,
        dilation: Sizes = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, count in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            if type(count) is not int or count < 1:
                raise SpecError(f"{type(self).__name__}: {name}={count!r}, need a whole number of at least 1.")
        if in_channels % groups or out_channels % groups:
            raise SpecError(
                f"{type(self).__name__}: groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}."
            )
        if bias not in (True, False, "position"):
            raise SpecError(f"{type(self).__name__}: bias={bias!r}, need True (per channel), False or 'position'.")
        self.in_channels, self.out_channels, self.groups, self._bias = in_channels, out_channels, groups, bias
        given: dict[str, tuple[Any, int]] = {
            "kernel_size": (kernel_size, 1),
            "input_size": (input_size, 1),
            "stride": (stride, 1),
            "padding": (padding, 0),
            "output_padding": (output_padding, 0),
            "dilation": (dilation, 1),
        }
        rows = {name: self._sizes(name, *value) for name, value in given.items()}
        self.kernel_size, self.input_size, self.stride = rows["kernel_size"], rows["input_size"], rows["stride"]
        self.padding, self.output_padding, self.dilation = rows["padding"], rows["output_padding"], rows["dilation"]
        self.output_size = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + more + 1
            for n, s, p, d, k, more in zip(
                *(self.input_size, self.stride, self.padding, self.dilation, self.kernel_size, self.output_padding),
                strict=True,
            )
        )
        if any(more >= max(s, d) for more, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True)):
            raise SpecError(
                f"{type(self).__name__}: output_padding={self.output_padding} must be below the stride {self.stride} "
                f"or the dilation {self.dilation}."
            )
        if any(count < 1 for count in self.output_size):
            raise ShapeMismatch(
                f"{type(self).__name__}: an input of {self.input_size} would give an output of {self.output_size}."
            )
        geometry = (self.kernel_size, self.stride, self.dilation, self.padding, self.padding)
        self._geometry = Geometry(*geometry, groups).flat
        inner = prod(self.kernel_size) * (out_channels // groups)
        factory = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(*self.input_size, groups, inner, in_channels // groups, **factory))
        if bias is False:
            self.register_parameter("bias", None)
        else:
            at = self.output_size if bias == "position" else ()
            self.bias = nn.Parameter(torch.empty(*at, out_channels, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new kernels from `N(0, 2/(in·taps/stride))`, what spreads to one output, and set biases to 0."""
        seen = self.in_channels // self.groups * prod(self.kernel_size) / prod(self.stride)
        with torch.no_grad():
            self.weight.normal_(0, sqrt(2 / max(1.0, seen)))
            if self.bias is not None:
                self.bias.zero_()

    @classmethod
    def from_conv(cls, conv: nn.Module, input_size: Sizes, eps: float = 0.0, bias: Bias | None = None) -> Self:
        """A layer that computes what a transposed convolution does; see `LocallyConnected2d.from_conv`.

        Raises:
            SpecError: If `conv` is of another kind.
        """
        if not isinstance(conv, cls.conv) or isinstance(conv, nn.modules.conv._LazyConvXdMixin):
            raise SpecError(f"{cls.__name__}.from_conv: got {type(conv).__name__}, need {cls.conv.__name__}.")
        weight: Tensor = conv.weight
        wanted = bias if bias is not None else conv.bias is not None
        made = cls(
            *(conv.in_channels, conv.out_channels, conv.kernel_size, input_size, conv.stride, conv.padding),
            *(conv.output_padding, conv.groups, wanted, conv.dilation),
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            spread_with_noise(made.weight, made.as_kernel(weight), eps, float(weight.float().std(correction=0)))
            if made.bias is not None and conv.bias is not None:
                made.bias.copy_(conv.bias.expand_as(made.bias))
        made.weight.requires_grad_(weight.requires_grad)
        if made.bias is not None and conv.bias is not None:
            made.bias.requires_grad_(conv.bias.requires_grad)
        return made.train(conv.training)

    def as_kernel(self, weight: Tensor) -> Tensor:
        """The weight of a transposed convolution, `(in, out/groups, *kernel)`: `(groups, taps·out/groups, in/groups)`."""
        grouped = weight.unflatten(0, (self.groups, -1))  # groups, in/groups, out/groups, *kernel
        return grouped.movedim((1, 2), (-1, -2)).flatten(1, -2)

    def as_conv_weight(self, kernel: Tensor) -> Tensor:
        """The other way: kernels `(..., groups, taps·out/groups, in/groups)` as `(..., in, out/groups, *kernel)`."""
        taps = kernel.unflatten(-2, (*self.kernel_size, -1))
        at = kernel.ndim - 2
        return taps.movedim((-1, -2), (at, at + 1)).flatten(at - 1, at)

    def shared(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        conv = self.conv(
            *(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.output_padding),
            *(self.groups, bias is not None, self.dilation),
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            conv.weight.copy_(self.as_conv_weight(weight))
            if bias is not None and conv.bias is not None:
                conv.bias.copy_(bias)
        return conv

    @property
    def axes(self) -> tuple[Axis, ...]:
        rows = (self.input_size, self.output_size, self.kernel_size, self.stride, self.dilation, self.padding)
        return tuple(Axis(*row) for row in zip(*rows, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: `(batch, in, *input_size)`, or without the batch.

        Returns:
            `(batch, out, *output_size)`, in the memory format of the input.

        Raises:
            ShapeMismatch: If the input has other channels or another size.
        """
        batched = x.ndim == self.spatial + 2
        x = x if batched else x.unsqueeze(0)
        if x.ndim != self.spatial + 2 or x.shape[1] != self.in_channels:
            raise ShapeMismatch(
                f"{type(self).__name__}: got an input of shape {tuple(x.shape)}, need (batch, {self.in_channels}, "
                f"{', '.join(map(str, self.input_size))})."
            )
        self.expect_size(tuple(x.shape[2:]), self.input_size)
        channels_last = x.stride(1) == 1
        read, weight, bias = cast_for_autocast(x, self.weight, self.bias)
        assert read is not None
        assert weight is not None
        out = spread(read, weight, list(self.output_size), self._geometry, self.groups)
        if bias is not None:
            out = out + (bias.movedim(-1, 0) if bias.ndim > 1 else bias.view(-1, *(1,) * self.spatial))
        if not channels_last:
            out = out.contiguous()
        return out if batched else out.squeeze(0)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, input_size={self.input_size}"
        text += f", stride={self.stride}"
        none, one = (0,) * self.spatial, (1,) * self.spatial
        for name, default in (("padding", none), ("output_padding", none), ("dilation", one), ("groups", 1)):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)!r}"
        return text if self._bias is True else f"{text}, bias={self._bias!r}"

    @classmethod
    def _sizes(cls, name: str, given: object, least: int) -> tuple[int, ...]:
        row = (given,) * cls.spatial if isinstance(given, int) else tuple(given) if isinstance(given, Sequence) else ()
        if len(row) != cls.spatial or any(type(one) is not int or one < least for one in row):
            raise SpecError(f"{cls.__name__}: {name}={given!r}, need {cls.spatial} whole numbers of at least {least}.")
        return row


class LocallyConnectedTranspose1d(LocallyConnectedTranspose):
    """`nn.ConvTranspose1d` with kernels of its own at each position of the input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps.
        input_size: Length of the input, which has to be this one.
        stride: Of the output, from one position of the input to the next.
        padding: Taken off both sides of the output.
        output_padding: Added to one side of the output.
        groups: Channels that see only their own.
        bias: `True` is one per channel; `"position"` one per channel and position of the output; or `False`.
        dilation: From one tap to the next.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        SpecError: If an argument has a value that it cannot have.
        ShapeMismatch: If there would be no output.

    Example:
        >>> LocallyConnectedTranspose1d(2, 3, 4, input_size=5, stride=2)(torch.randn(7, 2, 5)).shape
        torch.Size([7, 3, 12])
    """

    spatial = 1
    conv = nn.ConvTranspose1d


class LocallyConnectedTranspose2d(LocallyConnectedTranspose):
    """`nn.ConvTranspose2d` with kernels of its own at each position of the input; see `LocallyConnectedTranspose1d`.

    Args:
        input_size: Height and width of the input, or one number for both.

    Example:
        >>> LocallyConnectedTranspose2d(2, 3, 2, input_size=5, stride=2)(torch.randn(7, 2, 5, 5)).shape
        torch.Size([7, 3, 10, 10])
    """

    spatial = 2
    conv = nn.ConvTranspose2d


class LocallyConnectedTranspose3d(LocallyConnectedTranspose):
    """`nn.ConvTranspose3d` with kernels of its own at each position of the input; see `LocallyConnectedTranspose1d`.

    Args:
        input_size: Depth, height and width of the input, or one number for all.

    Example:
        >>> LocallyConnectedTranspose3d(2, 3, 2, input_size=(2, 3, 5))(torch.randn(7, 2, 2, 3, 5)).shape
        torch.Size([7, 3, 3, 4, 6])
    """

    spatial = 3
    conv = nn.ConvTranspose3d
