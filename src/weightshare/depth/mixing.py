"""Mixtures of templates for many layers, `W_i = Σ_j α_ij T_j`, each a tensor of its own.

One product makes all of them, in one piece of memory. Where that is large, the system gives it out anew in every step,
page by page, and so it does for the gradients that are put together for the backward pass: on a processor that takes
several times as long as the arithmetic. There the product goes over columns, a block at a time that stays in the cache,
and fills or reads one tensor a layer, which torch keeps from step to step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weightshare.decoding import mix, without_autocast
from weightshare.kernels import traced

LARGE = 1 << 24  # bytes of all weights from which on they are made block by block
BLOCK = 1 << 15  # columns of a block


def mixtures(coefficients: Tensor, templates: Tensor) -> Sequence[Tensor]:
    """The weight of each layer: `A·T` by rows, whatever autocast says.

    Args:
        coefficients: `(layers, templates)`.
        templates: `(templates, *weight)`.
    """
    if not _by_blocks(coefficients, templates):
        # Not rows by index: the gradient of each would be as large as all layers together.
        return mix(coefficients, templates).unbind()
    with without_autocast(coefficients.device.type):
        return _Mixtures.apply(coefficients, templates)  # pyright: ignore[reportReturnType]


def _by_blocks(coefficients: Tensor, templates: Tensor) -> bool:
    if templates.device.type != "cpu" or templates.dtype not in (torch.float32, torch.float64):
        return False
    size = len(coefficients) * templates[0].nbytes if len(templates) else 0
    usual = coefficients.dtype == templates.dtype and templates.is_contiguous()
    return size >= LARGE and usual and not traced(coefficients, templates)


class _Mixtures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, templates: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(coefficients, templates)
        flat = templates.flatten(1)
        made = [flat.new_empty(flat.shape[1]) for _ in coefficients]
        for start in range(0, flat.shape[1], BLOCK):
            block = coefficients @ flat[:, start : start + BLOCK]
            for whole, row in zip(made, block, strict=True):
                whole[start : start + BLOCK] = row
        return tuple(whole.view(templates.shape[1:]) for whole in made)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, Any]:
        coefficients, templates = ctx.saved_tensors
        if torch.is_grad_enabled():  # it is to be differentiated itself
            whole = torch.stack(gradients).flatten(1)
            return whole @ templates.flatten(1).T, (coefficients.T @ whole).view_as(templates)
        flat, rows = templates.flatten(1), [gradient.reshape(-1) for gradient in gradients]
        by_coefficient = torch.zeros_like(coefficients)
        by_template = torch.empty_like(flat) if ctx.needs_input_grad[1] else None
        for start in range(0, flat.shape[1], BLOCK):
            block = torch.stack([row[start : start + BLOCK] for row in rows])
            if ctx.needs_input_grad[0]:
                by_coefficient.addmm_(block, flat[:, start : start + BLOCK].T)
            if by_template is not None:
                torch.mm(coefficients.T, block, out=by_template[:, start : start + BLOCK])
        needed = by_coefficient if ctx.needs_input_grad[0] else None
        return needed, None if by_template is None else by_template.view_as(templates)
