"""The few templates whose mixtures are nearest to given layers, from inner products of the layers alone."""

from collections.abc import Sequence
import math

from jaxtyping import Float
import torch
from torch import Tensor

from weightshare.decoding import wide

CHUNK = 2**20
"""Numbers of each layer that are widened at a time."""


def nearest(tensors: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Templates and coefficients nearest to weights: `W ≈ A·T`, the singular value decomposition cut off at `k`.

    The mean of `‖α_i‖²` is 1, so templates are about as large as the weights. It is computed from the inner products of
    the layers, in float64, so the cost is `O(L²·d)` and nothing of the size of all layers is copied.

    Args:
        tensors: Weights of one shape.
        k: How many templates. Those past the number of layers are drawn, and start with coefficients of 0.

    Returns:
        Templates, `(k, *weight)`, and coefficients, `(layers, k)`, in the dtype of the weights. The sum of squares of
        `W − A·T` is the smallest that there is.

    Source: Wang 2024 (Basis Sharing), section 3: the decomposition of concatenated layers. Differs: layers are stacked
    as vectors, so that a layer's coefficient is a number and not a matrix.
    """
    count, found = len(tensors), min(k, len(tensors))
    vectors = torch.linalg.eigh(gram(tensors)).eigenvectors.flip(-1)[:, :found]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * (largest.abs() / largest)  # else a sign, or a phase, is the solver's
    scale = math.sqrt(count / found)
    like = tensors[0]
    coefficients = torch.zeros(count, k, dtype=vectors.dtype, device=vectors.device)
    coefficients[:, :found] = vectors * scale
    templates = like.new_zeros(k, like.numel())
    for at in range(0, like.numel(), CHUNK):
        columns = torch.stack([tensor.reshape(-1)[at : at + CHUNK].to(vectors.dtype) for tensor in tensors])
        templates[:found, at : at + CHUNK] = (vectors.mH @ columns / scale).to(like.dtype)
    if k > found:
        drawn = (
            torch.randn(k - found, like.numel()).to(like.device) * wide(templates[:found]).abs().square().mean().sqrt()
        )
        templates[found:] = drawn.to(like.dtype)
    return templates.view(k, *like.shape), coefficients.to(like.dtype)


def gram(tensors: Sequence[Tensor]) -> Float[Tensor, "layers layers"]:
    """Inner products of all pairs, `⟨W_j, W_i⟩` at row `i`, column `j`, in float64 (complex128)."""
    exact = torch.complex128 if tensors[0].is_complex() else torch.float64
    total = torch.zeros(len(tensors), len(tensors), dtype=exact, device=tensors[0].device)
    for at in range(0, tensors[0].numel(), CHUNK):
        rows = torch.stack([tensor.reshape(-1)[at : at + CHUNK].to(exact) for tensor in tensors])
        total += rows @ rows.mH
    return total


def orthonormal(rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """A random matrix with orthonormal columns, or orthonormal rows where these are fewer; float64, on the CPU."""
    tall, wide_one = max(rows, columns), min(rows, columns)
    found, upper = torch.linalg.qr(torch.randn(tall, wide_one, dtype=torch.float64))
    found = found * upper.diagonal().sign()  # else signs are the solver's, and the draw is not uniform
    return found if rows >= columns else found.mT
