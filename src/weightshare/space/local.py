"""Locally connected layers: the receptive fields of a convolution, with kernels of their own at every position.

`LocallyConnected2d(in, out, kernel, input_size, ...)` takes what `nn.Conv2d` takes, in the same order behind
`input_size`; with all kernels equal it is that convolution. Kernels lie as `(*positions, groups, taps·in/groups,
out/groups)`, so that the layer is one batched product over positions; see `weightshare.space.products`.

A Keras 2 layer of `implementation=1` holds the same numbers in the same order: `layer.weight` is its kernel, reshaped.

In the grid: across positions, nothing shared. Source: Pogodin 2021, section 3.1, equation 2; appendix B for the start.
"""

from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from weightshare.errors import ShapeMismatch, SpecError
from weightshare.space.convolutional import Bias, Convolutional, Sizes
from weightshare.space.layer import Axis
from weightshare.space.products import Geometry, forward

MODES = ("zeros", "reflect", "replicate", "circular")


class LocallyConnected(Convolutional):
    """What the layers of 1, 2 and 3 dimensions have in common; abstract by its class attributes."""

    options = {"stride": 1, "padding": 0, "dilation": 1, "padding_mode": "zeros"}  # noqa: RUF012 - never changed

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
        self._build(self._sizes("input_size", input_size, 1), device=device, dtype=dtype)

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
        self._take(in_channels, out_channels, groups, bias)
        if padding_mode not in MODES:
            raise SpecError(f"{type(self).__name__}: padding_mode={padding_mode!r}, need one of {', '.join(MODES)}.")
        self.kernel_size = self._sizes("kernel_size", kernel_size, 1)
        self.stride = self._sizes("stride", stride, 1)
        self.dilation = self._sizes("dilation", dilation, 1)
        self.padding_mode = padding_mode
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

    def _build(self, size: tuple[int, ...], **factory: Any) -> None:
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
            shape = shape._replace(low=(0,) * self.spatial, high=(0,) * self.spatial)
        self._geometry = shape.flat
        inner, outer = self.in_channels // self.groups, self.out_channels // self.groups
        self._make(self._positions, inner, outer, self._positions, **factory)

    def deviation(self) -> float:
        """`√(2/(out·taps))`: Kaiming normal for rectifiers, by the numbers that a position sends to."""
        return sqrt(2 / (self.out_channels * prod(self.kernel_size)))

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.padding_mode != "zeros":
            widths = [width for pair in zip(self._low[::-1], self._high[::-1], strict=True) for width in pair]
            x = pad(x, widths, mode=self.padding_mode)
        return forward(x, weight, self._geometry, self.groups)

    @property
    def axes(self) -> tuple[Axis, ...]:
        rows = (self._positions, self.input_size, self.kernel_size, self.stride, self.dilation, self._low)
        return tuple(Axis(*row) for row in zip(*rows, strict=True))


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
        >>> conv, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 5, 5)
        >>> torch.allclose(LocallyConnected2d.from_conv(conv, 5)(x), conv(x), atol=1e-6)
        True
    """

    spatial = 2
    conv = nn.Conv2d


class LocallyConnected3d(LocallyConnected):
    """`nn.Conv3d` with kernels of its own at each position; see `LocallyConnected1d`, whose numbers may be triples.

    Args:
        input_size: Depth, height and width of the input, or one number for all.

    Example:
        >>> LocallyConnected3d(2, 3, 2, input_size=(3, 5, 7))(torch.randn(1, 2, 3, 5, 7)).shape
        torch.Size([1, 3, 2, 4, 6])
    """

    spatial = 3
    conv = nn.Conv3d
