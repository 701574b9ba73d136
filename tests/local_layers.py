"""Local layers beside the convolutions that they are twins of, and the sums that define them, written as loops."""

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from weightshare.space.local import LocallyConnected, LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from weightshare.space.transposed import (
    LocallyConnectedTranspose,
    LocallyConnectedTranspose1d,
    LocallyConnectedTranspose2d,
    LocallyConnectedTranspose3d,
)

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
LOCALS = {1: LocallyConnected1d, 2: LocallyConnected2d, 3: LocallyConnected3d}
TRANSPOSED_CONVS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
TRANSPOSED = {1: LocallyConnectedTranspose1d, 2: LocallyConnectedTranspose2d, 3: LocallyConnectedTranspose3d}


def widths(layer: LocallyConnected) -> list[int]:
    """What `pad` takes to pad an input as a layer says, written from the documentation of `nn.Conv2d`."""
    if layer.padding == "valid":
        return [0, 0] * layer.spatial
    if layer.padding != "same":
        return [one for width in reversed(layer.padding) for one in (width, width)]
    totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [one for total in reversed(totals) for one in (total // 2, total - total // 2)]


def patches(layer: LocallyConnected, x: Tensor) -> Tensor:
    """`(batch, *positions, groups, taps·in/groups)`, taps first: what each position sees, one tap at a time."""
    x = pad(x, widths(layer), mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    rows = []
    for position in product(*map(range, layer.positions)):
        seen = [x[(..., *place(layer, position, tap))] for tap in product(*map(range, layer.kernel_size))]
        rows.append(torch.stack(seen, 1).unflatten(2, (layer.groups, -1)).transpose(1, 2).flatten(2))
    return torch.stack(rows, 1).unflatten(1, layer.positions)


def place(layer: LocallyConnected | LocallyConnectedTranspose, position: tuple[int, ...], tap: tuple[int, ...]) -> list:
    """Where a tap of a position lies on the padded map."""
    return [p * s + t * d for p, s, t, d in zip(position, layer.stride, tap, layer.dilation, strict=True)]


def slow_local(layer: LocallyConnected, x: Tensor) -> Tensor:
    """A local layer as its defining sum."""
    out = (patches(layer, x).unsqueeze(-1) * layer.weight).sum(-2).flatten(-2)  # batch, *positions, out
    return with_bias(layer, out.movedim(-1, 1))


def slow_transposed(layer: LocallyConnectedTranspose, x: Tensor) -> Tensor:
    """A transposed local layer: every position of the input adds its kernel to the output, one tap at a time."""
    sizes = [n + 2 * p for n, p in zip(layer.output_size, layer.padding, strict=True)]
    full = x.new_zeros(len(x), layer.out_channels, *sizes)
    for position in product(*map(range, layer.input_size)):
        given = x[(..., *position)].unflatten(1, (layer.groups, -1))
        sent = torch.einsum("gio,ngo->ngi", layer.weight[position], given)  # batch, groups, taps·out
        sent = sent.unflatten(2, (-1, layer.out_channels // layer.groups))
        for number, tap in enumerate(product(*map(range, layer.kernel_size))):
            at = (..., *place(layer, position, tap))
            full[at] = full[at] + sent[:, :, number].flatten(1)
    inside = [slice(p, p + n) for n, p in zip(layer.output_size, layer.padding, strict=True)]
    return with_bias(layer, full[(..., *inside)])


def with_bias(layer: LocallyConnected | LocallyConnectedTranspose, out: Tensor) -> Tensor:
    """Add the biases, one number at a time."""
    if layer.bias is None:
        return out
    if layer.bias.ndim == 1:
        return torch.stack([out[:, channel] + layer.bias[channel] for channel in range(layer.out_channels)], 1)
    return torch.stack([out[:, channel] + layer.bias[..., channel] for channel in range(layer.out_channels)], 1)


def gradients(module: nn.Module, x: Tensor, probe: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Those of a fixed sum of outputs, by the input and by each parameter."""
    x = x.detach().clone().requires_grad_()
    module.zero_grad()
    (module(x) * probe).sum().backward()
    assert x.grad is not None
    return x.grad, {name: one.grad for name, one in module.named_parameters() if one.grad is not None}
