"""Transposed locally connected layers: each position of the input spreads over the output by a kernel of its own.

The gradient of a locally connected layer by its input, as a layer; nothing else is needed than the product that
computes it. In the grid: across positions, nothing shared. Source: none of the papers; asked for in pytorch#15617.
"""

from collections.abc import Sequence
from math import prod, sqrt

import torch
from torch import Tensor, nn

from weightshare.errors import ShapeMismatch, SpecError
from weightshare.space.convolutional import Bias, Convolutional, Sizes
from weightshare.space.layer import Axis
from weightshare.space.products import Geometry, spread


class LocallyConnectedTranspose(Convolutional):
    """What the layers of 1, 2 and 3 dimensions have in common; abstract by its class attributes."""

    options = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}  # noqa: RUF012 - never changed

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
        self._take(in_channels, out_channels, groups, bias)
        self.kernel_size = self._sizes("kernel_size", kernel_size, 1)
        self.input_size = self._sizes("input_size", input_size, 1)
        self.stride = self._sizes("stride", stride, 1)
        self.padding = self._sizes("padding", padding, 0)
        self.output_padding = self._sizes("output_padding", output_padding, 0)
        self.dilation = self._sizes("dilation", dilation, 1)
        if any(more >= max(s, d) for more, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True)):
            raise SpecError(
                f"{type(self).__name__}: output_padding={self.output_padding} must be below the stride {self.stride} "
                f"or the dilation {self.dilation}."
            )
        rows = (self.input_size, self.stride, self.padding, self.dilation, self.kernel_size, self.output_padding)
        self.output_size = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, s, p, d, k, more in zip(*rows, strict=True)
        )
        if any(count < 1 for count in self.output_size):
            raise ShapeMismatch(
                f"{type(self).__name__}: an input of {self.input_size} would give an output of {self.output_size}."
            )
        shape = (self.kernel_size, self.stride, self.dilation, self.padding, self.padding)
        self._geometry = Geometry(*shape, groups).flat
        inner, outer = out_channels // groups, in_channels // groups
        self._make(self.input_size, inner, outer, self.output_size, device=device, dtype=dtype)

    def deviation(self) -> float:
        """`√(2·strides/(in·taps/groups))`: Kaiming normal for rectifiers, by the numbers that reach one output."""
        return sqrt(2 / max(1.0, self.in_channels / self.groups * prod(self.kernel_size) / prod(self.stride)))

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Apply the layer.

        Args:
            input: `(batch, in, *input_size)`, or without the batch.
            output_size: As torch's layer takes it; the layer was made for one, so only that.

        Returns:
            `(batch, out, *output_size)`, in the memory format of the input.

        Raises:
            ShapeMismatch: If the input has other channels or another size, or the output is to have another size.
        """
        if output_size is not None and tuple(output_size[-self.spatial :]) != self.output_size:
            raise ShapeMismatch(
                f"{type(self).__name__}: output_size={tuple(output_size)}, and it was made for {self.output_size}. "
                "Give output_padding when it is made."
            )
        return super().forward(input)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return spread(x, weight, list(self.output_size), self._geometry, self.groups)

    @property
    def axes(self) -> tuple[Axis, ...]:
        rows = (self.input_size, self.output_size, self.kernel_size, self.stride, self.dilation, self.padding)
        return tuple(Axis(*row) for row in zip(*rows, strict=True))


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
