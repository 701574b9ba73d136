"""What layers are given, as Gram matrices of their inputs, and the weight whose outputs are nearest to theirs.

A layer gives `Y_i = X_i W_iᵀ` on inputs `X_i`, `(rows, in)`; a kernel is the matrix `(out, in·k·k)` and its rows are
patches. One weight for several layers that changes their outputs least solves

    min_W  Σ_i ‖X_i (W - W_i)ᵀ‖²  +  λ ‖W - W̄‖²        (Σ_i G_i + λ) Wᵀ  =  Σ_i G_i W_iᵀ + λ W̄ᵀ

with `G_i = X_iᵀ X_i` and the mean `W̄`, which stands where inputs say nothing.

Source: Jin 2022 (RegMean, "Dataless Knowledge Fusion by Merging Weights"), equation 2, for layers of one network in
place of networks. Differs: a ridge towards the mean instead of smaller off-diagonals.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightshare.errors import SpecError
from weightshare.surgery.watch import run, watching


def grams(model: nn.Module, paths: Sequence[str], batches: Iterable[Any]) -> dict[str, Tensor]:
    """Gram matrices of the inputs of layers, over all batches.

    Args:
        model: Run once on each batch, in evaluation mode and without gradients.
        paths: Of weights; those of `nn.Linear`, `nn.Conv1d` and `nn.Conv2d` count, others have none.
        batches: Each a tensor, a sequence of positional arguments or a mapping of keyword arguments.

    Returns:
        For each path that has one `(groups, in, in)` in float32 or wider, on the layer's device; `in` is that of a
        group, times the size of the kernel. They are divided by the number of rows.

    Raises:
        SpecError: If there is no batch, the model cannot run on one, or a layer's inputs are not finite.

    Source: the `G_i` of Jin 2022, equation 2.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3, bias=False))
        >>> grams(net, ["0.weight"], [torch.tensor([[1.0, 2.0]])])["0.weight"].tolist()
        [[[1.0, 2.0], [2.0, 4.0]]]
    """
    layers: dict[str, nn.Module] = {}
    for path in paths:
        holder = model.get_submodule(path.rpartition(".")[0])
        if path.rpartition(".")[2] == "weight" and isinstance(holder, nn.Linear | nn.Conv1d | nn.Conv2d):
            layers[path] = holder
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(path: str, inputs: Sequence[Any], output: Any) -> None:
        rows = _rows(layers[path], inputs[0].detach())
        gram = rows.mH @ rows
        sums[path] = sums[path] + gram if path in sums else gram
        counts[path] = counts.get(path, 0) + rows.shape[1]

    ran = 0
    with watching(model, layers, add):
        for batch in batches:
            run(model, batch)
            ran += 1
    if not ran:
        raise SpecError("This fusion reads activations: give batches with at least one batch.")
    for path, total in sums.items():
        if not total.isfinite().all():
            raise SpecError(f"The inputs of '{path}' are not all finite on these batches: give others.")
    return {path: total / counts[path] for path, total in sums.items()}


def nearest(gram: Tensor, weights: Tensor, average: Tensor, ridge: float) -> Tensor:
    """The weight whose outputs are nearest to those of several layers.

    Args:
        gram: `(layers, groups, in, in)`.
        weights: `(layers, out, ...)`, of the layers.
        average: Their mean, `(out, ...)`.
        ridge: `λ` relative to the mean of the diagonal of `Σ_i G_i`.

    Returns:
        `(out, ...)`, of the dtype of the weights.

    Source: Jin 2022, equation 2.
    """
    layers, groups, width, _ = gram.shape
    gram = widened(gram)
    matrices = widened(weights).reshape(layers, groups, -1, width)
    total = gram.sum(0)
    size = total.diagonal(dim1=-2, dim2=-1).real.mean(-1, keepdim=True)
    held = (ridge * torch.where(size > 0, size, torch.ones_like(size)))[..., None]
    wanted = (gram @ matrices.mT).sum(0) + held * widened(average).reshape(groups, -1, width).mT
    identity = torch.eye(width, dtype=gram.dtype, device=gram.device)
    solved = torch.linalg.solve(total + held * identity, wanted)
    return solved.mT.reshape(average.shape).to(weights.dtype)


def widened(tensor: Tensor) -> Tensor:
    """The same numbers as wide as the device has them: in float64, or complex128."""
    if tensor.device.type == "mps":  # has no float64
        return tensor.float()
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """`(groups, rows, in)`: all that a layer multiplies its weight by."""
    inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1])
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    flat = isinstance(layer, nn.Conv1d)
    inputs = inputs if inputs.ndim == layer.weight.ndim else inputs[None]  # one image, without a batch
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    sizes: Mapping[str, tuple[int, ...]] = {
        "kernel_size": layer.kernel_size,
        "dilation": layer.dilation,
        "stride": layer.stride,
    }
    if flat:
        padded = padded[:, :, None]
    unfolded = F.unfold(padded, **{name: (1, *size) if flat else size for name, size in sizes.items()})
    split = unfolded.unflatten(1, (layer.groups, -1))  # (batch, groups, in, positions)
    return split.permute(1, 0, 3, 2).flatten(1, 2)
