"""Locally connected layers that take channels and size from their first input, as torch's lazy convolutions do."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from weightshare.errors import ShapeMismatch
from weightshare.space.convolutional import Bias, Sizes
from weightshare.space.local import LocallyConnected, LocallyConnected1d, LocallyConnected2d, LocallyConnected3d


class LazyLocallyConnected(LazyModuleMixin, LocallyConnected):
    """A local layer that takes channels and size from its first input, and is an ordinary one afterwards; abstract."""

    def __init__(
        self,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: Bias = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        # What LazyModuleMixin.__init__ does, which would make the parameters too.
        self._load_hook: Any = self._register_load_state_dict_pre_hook(self._lazy_load_hook)  # pyright: ignore
        self._initialize_hook: Any = self.register_forward_pre_hook(self._infer_parameters, with_kwargs=True)  # pyright: ignore
        self._describe(0, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        made: Any = UninitializedParameter  # whose arguments torch does not declare
        self.weight = made(device=device, dtype=dtype)
        self.register_parameter("bias", None if bias is False else made(device=device, dtype=dtype))

    def initialize_parameters(self, x: Tensor) -> None:
        """Make the parameters for the first input; torch calls it."""
        shape = x.shape if x.ndim == self.spatial + 2 else x.unsqueeze(0).shape
        if len(shape) != self.spatial + 2:
            raise ShapeMismatch(
                f"{type(self).__name__}: got an input of shape {tuple(x.shape)}, need {self.spatial + 2} dimensions, "
                "or one less without the batch."
            )
        held = {name: one for name, one in self._parameters.items() if one is not None}
        loaded = {name: one for name, one in held.items() if not is_lazy(one)}  # from a state dict, before any input
        try:
            self._take(shape[1], self.out_channels, self.groups, self._bias)
            self._build(tuple(shape[2:]), device=self.weight.device, dtype=self.weight.dtype)
            for name, one in loaded.items():
                needed = self.get_parameter(name).shape
                if one.shape != needed:
                    raise ShapeMismatch(
                        f"{type(self).__name__}: the {name} that was loaded is {tuple(one.shape)}, and inputs of shape "
                        f"{tuple(x.shape)} need {tuple(needed)}. Give it inputs of the size that it was trained on."
                    )
        except ShapeMismatch:
            self._parameters.update(held)
            self.in_channels = 0
            raise
        self._parameters.update(loaded)

    def reset_parameters(self, eps: float | None = None) -> None:
        if not self.has_uninitialized_params():  # pyright: ignore
            super().reset_parameters(eps)

    def extra_repr(self) -> str:
        return f"{self.out_channels}, kernel_size={self.kernel_size}"

    @classmethod
    def _lazy(cls) -> bool:
        return True


class LazyLocallyConnected1d(LazyLocallyConnected):
    """`LocallyConnected1d` without `in_channels` and `input_size`, which the first input tells."""

    spatial = 1
    conv = nn.Conv1d
    cls_to_become = LocallyConnected1d  # type: ignore[assignment]


class LazyLocallyConnected2d(LazyLocallyConnected):
    """`LocallyConnected2d` without `in_channels` and `input_size`, which the first input tells.

    Example:
        >>> layer = LazyLocallyConnected2d(3, kernel_size=3, padding=1)
        >>> layer(torch.randn(2, 5, 7, 11)).shape, type(layer).__name__
        (torch.Size([2, 3, 7, 11]), 'LocallyConnected2d')
    """

    spatial = 2
    conv = nn.Conv2d
    cls_to_become = LocallyConnected2d  # type: ignore[assignment]


class LazyLocallyConnected3d(LazyLocallyConnected):
    """`LocallyConnected3d` without `in_channels` and `input_size`, which the first input tells."""

    spatial = 3
    conv = nn.Conv3d
    cls_to_become = LocallyConnected3d  # type: ignore[assignment]
