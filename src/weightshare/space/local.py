"""Locally connected layers: the receptive fields of a convolution, with kernels of their own at every position.

`LocallyConnected2d(in, out, kernel, input_size, ...)` takes what `nn.Conv2d` takes, in the same order behind
`input_size`; with all kernels equal it is that convolution. Kernels lie as `(*positions, groups, taps·in/groups,
out/groups)`, so that the layer is one batched product over positions; see `weightshare.space.products`.

A Keras 2 layer of `implementation=1` holds the same numbers in the same order: `layer.weight` is its kernel, reshaped.

In the grid: across positions, nothing shared. Source: Pogodin 2021, section 3.1, equation 2; appendix B for the start.
"""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from weightshare.errors import ShapeMismatch, SpecError
from weightshare.hooks import expect_number
from weightshare.space.layer import Axis, LocalLayer, cast_for_autocast
from weightshare.space.products import Geometry, forward

Bias = bool | Literal["position"]
Sizes = int | Sequence[int]
MODES = ("zeros", "reflect", "replicate", "circular")


class LocallyConnected(LocalLayer):
    """What the layers of 1, 2 and 3 dimensions have in common; abstract by its class attributes."""

    spatial: ClassVar[int]
    conv: ClassVar[type[nn.modules.conv._ConvNd]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        input_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: Bias = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._describe(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        self._build(self._sizes("input_size", input_size, 1), {"device": device, "dtype": dtype})

    def _describe(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        padding: Sizes | str,
        dilation: Sizes,
        groups: int,
        bias: Bias,
        padding_mode: str,
    ) -> None:
        """Take and check all that does not depend on the size of the input."""
        for name, count in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            if isinstance(count, bool) or not isinstance(count, int) or count < (0 if name == "in_channels" else 1):
                raise SpecError(f"{type(self).__name__}: {name}={count!r}, need a whole number of at least 1.")
        if in_channels % groups or out_channels % groups:
            raise SpecError(
                f"{type(self).__name__}: groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}."
            )
        if padding_mode not in MODES:
            raise SpecError(f"{type(self).__name__}: padding_mode={padding_mode!r}, need one of {', '.join(MODES)}.")
        if bias not in (True, False, "position"):
            raise SpecError(f"{type(self).__name__}: bias={bias!r}, need True (per channel), False or 'position'.")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = self._sizes("kernel_size", kernel_size, 1)
        self.stride = self._sizes("stride", stride, 1)
        self.dilation = self._sizes("dilation", dilation, 1)
        self.padding_mode, self._bias = padding_mode, bias
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise SpecError(f"{type(self).__name__}: padding={padding!r}, need numbers, 'same' or 'valid'.")
            if padding == "same" and any(step != 1 for step in self.stride):
                raise SpecError(f"{type(self).__name__}: padding='same' goes with stride 1, got {self.stride}.")
            self.padding: tuple[int, ...] | str = padding
            spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            both = [(span // 2, span - span // 2) if padding == "same" else (0, 0) for span in spans]
        else:
            self.padding = self._sizes("padding", padding, 0)
            both = [(width, width) for width in self.padding]
        self._low, self._high = (tuple(side) for side in zip(*both, strict=True))

    def _build(self, size: tuple[int, ...], factory: dict[str, Any]) -> None:
        """Make the parameters for inputs of a size."""
        self.input_size = size
        shape = Geometry(self.kernel_size, self.stride, self.dilation, self._low, self._high, self.groups)
        self._positions = shape.positions(size)
        if any(count < 1 for count in self._positions):
            raise ShapeMismatch(
                f"{type(self).__name__}: a kernel of {self.kernel_size} with dilation {self.dilation} does not fit "
                f"into inputs of size {size} padded by {self._low} and {self._high}."
            )
        for width, count in zip((*self._low, *self._high), size * 2, strict=True):
            most = {"reflect": count - 1, "circular": count}.get(self.padding_mode, width)
            if width > most:
                raise ShapeMismatch(
                    f"{type(self).__name__}: padding_mode={self.padding_mode!r} can add at most {most} to an axis of "
                    f"{count}, got padding {width}."
                )
        if self.padding_mode != "zeros":  # then the padding is done by `pad`, before the product
            none = (0,) * self.spatial
            shape = shape._replace(low=none, high=none)
        self._geometry = shape.flat
        inner = prod(self.kernel_size) * (self.in_channels // self.groups)
        weight = (*self._positions, self.groups, inner, self.out_channels // self.groups)
        self.weight = nn.Parameter(torch.empty(weight, **factory))
        if self._bias is not False:
            at = self._positions if self._bias == "position" else ()
            self.bias = nn.Parameter(torch.empty(*at, self.out_channels, **factory))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self, eps: float | None = None) -> None:
        """Draw new kernels from `N(0, 2/(out·taps))`, and set biases to 0.

        Args:
            eps: `None` draws every position by itself. A number starts from one kernel for all positions, `K`, and
                makes that of each `(K + eps·noise)/√(1 + eps²)`, so that every weight keeps its variance.
        """
        deviation = sqrt(2 / (self.out_channels * prod(self.kernel_size)))
        with torch.no_grad():
            if eps is None:
                self.weight.normal_(0, deviation)
            else:
                kernel = torch.empty_like(self.weight[(0,) * self.spatial]).normal_(0, deviation)
                spread_with_noise(self.weight, kernel, eps, deviation)
            if self.bias is not None:
                self.bias.zero_()

    @classmethod
    def from_conv(cls, conv: nn.Module, input_size: Sizes, eps: float = 0.0, bias: Bias | None = None) -> Self:
        """A layer that computes what a convolution does, with a copy of its kernel at each position.

        Args:
            conv: `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`, as this class is. Its weights stay as they are.
            input_size: Of the images that it will see, along each spatial axis.
            eps: Noise, relative to the standard deviation of the kernel's numbers: a position reads
                `(K + eps·noise)/√(1 + eps²)`. 0 copies.
            bias: `"position"` gives each position a copy of the biases; `None` leaves them as the convolution has them.

        Returns:
            The layer, on the device and of the type of the convolution.

        Raises:
            SpecError: If `conv` is of another kind.
            ShapeMismatch: If the kernel does not fit into the input.

        Example:
            >>> conv, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 5, 5)
            >>> local = LocallyConnected2d.from_conv(conv, 5)
            >>> torch.allclose(local(x), conv(x), atol=1e-6), local.weight.shape
            (True, torch.Size([5, 5, 1, 18, 3]))
        """
        if not isinstance(conv, cls.conv) or isinstance(conv, nn.modules.conv._LazyConvXdMixin):
            raise SpecError(f"{cls.__name__}.from_conv: got {type(conv).__name__}, need {cls.conv.__name__}.")
        weight: Tensor = conv.weight
        per_position = bias if bias is not None else conv.bias is not None
        made = cls(
            *(conv.in_channels, conv.out_channels, conv.kernel_size, input_size),
            *(conv.stride, conv.padding, conv.dilation, conv.groups, per_position, conv.padding_mode),
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            kernel = made.as_kernel(weight)
            spread_with_noise(made.weight, kernel, eps, float(weight.float().std(correction=0)))
            if made.bias is not None and conv.bias is not None:
                made.bias.copy_(conv.bias.expand_as(made.bias))
        made.weight.requires_grad_(weight.requires_grad)
        if made.bias is not None and conv.bias is not None:
            made.bias.requires_grad_(conv.bias.requires_grad)
        return made.train(conv.training)

    def as_kernel(self, weight: Tensor) -> Tensor:
        """The weight of a convolution, `(out, in/groups, *kernel)`, as one kernel: `(groups, taps·in/groups, out/groups)`."""
        grouped = weight.unflatten(0, (self.groups, -1))  # groups, out/groups, in/groups, *kernel
        return grouped.movedim((1, 2), (-1, -2)).flatten(1, -2)

    def as_conv_weight(self, kernel: Tensor) -> Tensor:
        """The other way: kernels `(..., groups, taps·in/groups, out/groups)` as `(..., out, in/groups, *kernel)`."""
        taps = kernel.unflatten(-2, (*self.kernel_size, -1))
        at = kernel.ndim - 2  # the first axis of taps
        return taps.movedim((-1, -2), (at, at + 1)).flatten(at - 1, at)

    def shared(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        conv = self.conv(
            *(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation),
            *(self.groups, bias is not None, self.padding_mode),
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
        rows = zip(
            self._positions, self.input_size, self.kernel_size, self.stride, self.dilation, self._low, strict=True
        )
        return tuple(Axis(*row) for row in rows)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: `(batch, in, *input_size)`, or without the batch.

        Returns:
            `(batch, out, *positions)`, in the memory format of the input.

        Raises:
            ShapeMismatch: If the input has other channels or another size.
        """
        batched = x.ndim == self.spatial + 2
        if not batched and x.ndim != self.spatial + 1:
            raise ShapeMismatch(
                f"{type(self).__name__}: got an input of shape {tuple(x.shape)}, need (batch, {self.in_channels}, "
                f"{', '.join(map(str, self.input_size))})."
            )
        x = x if batched else x.unsqueeze(0)
        if x.shape[1] != self.in_channels:
            raise ShapeMismatch(f"{type(self).__name__}: got {x.shape[1]} channels, need {self.in_channels}.")
        self.expect_size(tuple(x.shape[2:]), self.input_size)
        channels_last = x.stride(1) == 1
        if self.padding_mode != "zeros":
            widths = [width for pair in zip(self._low[::-1], self._high[::-1], strict=True) for width in pair]
            x = pad(x, widths, mode=self.padding_mode)
        read, weight, bias = cast_for_autocast(x, self.weight, self.bias)
        assert read is not None
        assert weight is not None
        out = forward(read, weight, self._geometry, self.groups)
        if bias is not None:
            out = out + (bias.movedim(-1, 0) if bias.ndim > 1 else bias.view(-1, *(1,) * self.spatial))
        if not channels_last:
            out = out.contiguous()
        return out if batched else out.squeeze(0)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, input_size={self.input_size}"
        text += f", stride={self.stride}"
        none, one = (0,) * self.spatial, (1,) * self.spatial
        for name, default in (("padding", none), ("dilation", one), ("groups", 1), ("padding_mode", "zeros")):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)!r}"
        return text if self._bias is True else f"{text}, bias={self._bias!r}"

    @classmethod
    def _sizes(cls, name: str, given: object, least: int) -> tuple[int, ...]:
        """One whole number for each spatial axis."""
        row = (given,) * cls.spatial if isinstance(given, int) else tuple(given) if isinstance(given, Sequence) else ()
        if len(row) != cls.spatial or any(type(one) is not int or one < least for one in row):
            raise SpecError(
                f"{cls.__name__}: {name}={given!r}, need {cls.spatial} whole number{'s' * (cls.spatial > 1)} of at "
                f"least {least}."
            )
        return row


class LocallyConnected1d(LocallyConnected):
    """`nn.Conv1d` with kernels of its own at each position.

    `out[n, o, p] = Σ_{t, c} weight[p, g, (t, c), o] · x[n, c, s·p + d·t − padding]`, plus a bias; zeros, or what
    `padding_mode` says, outside the input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps; even numbers too.
        input_size: Length of the input. Other lengths are refused, since there is no kernel for them.
        stride: From one position to the next.
        padding: Zeros on both sides, `"same"` or `"valid"`.
        dilation: From one tap to the next.
        groups: Channels that see only their own.
        bias: `True` is one per channel, as of a convolution; `"position"` one per channel and position; or `False`.
        padding_mode: `zeros`, `reflect`, `replicate` or `circular`.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        SpecError: If an argument has a value that it cannot have.
        ShapeMismatch: If the kernel does not fit into the padded input.

    Source: Pogodin 2021, equation 2; start as in appendix B, `N(0, 2/(out·taps))`. Differs: has biases by default, as
    torch's layers do; the paper has none.

    Example:
        >>> LocallyConnected1d(2, 3, 5, input_size=11, stride=2)(torch.randn(7, 2, 11)).shape
        torch.Size([7, 3, 4])
    """

    spatial = 1
    conv = nn.Conv1d


class LocallyConnected2d(LocallyConnected):
    """`nn.Conv2d` with kernels of its own at each position; see `LocallyConnected1d`, whose numbers may be pairs here.

    Args:
        input_size: Height and width of the input, or one number for both.

    Example:
        >>> layer = LocallyConnected2d(2, 3, 3, input_size=(5, 7), padding=1, bias="position")
        >>> layer(torch.randn(11, 2, 5, 7)).shape, layer.weight.shape, layer.bias.shape
        (torch.Size([11, 3, 5, 7]), torch.Size([5, 7, 1, 18, 3]), torch.Size([5, 7, 3]))
    """

    spatial = 2
    conv = nn.Conv2d


class LocallyConnected3d(LocallyConnected):
    """`nn.Conv3d` with kernels of its own at each position; see `LocallyConnected1d`, whose numbers may be triples here.

    Args:
        input_size: Depth, height and width of the input, or one number for all.

    Example:
        >>> LocallyConnected3d(2, 3, 2, input_size=(3, 5, 7))(torch.randn(1, 2, 3, 5, 7)).shape
        torch.Size([1, 3, 2, 4, 6])
    """

    spatial = 3
    conv = nn.Conv3d


def spread_with_noise(weight: Tensor, kernel: Tensor, eps: float, deviation: float) -> None:
    """Give every position a kernel, with noise of a size relative to `deviation`; variances stay. 0 copies exactly.

    Raises:
        SpecError: If `eps` is no finite number of at least 0.
    """
    expect_number("eps", eps)
    if eps:
        weight.normal_(0, deviation).mul_(eps).add_(kernel).div_(sqrt(1 + eps * eps))
    else:
        weight.copy_(kernel.expand_as(weight))
