"""Counts of a network's numbers, named so that sharing cannot be misread.

| count | meaning |
|---|---|
| *stored* | parameters, each tensor once however many paths read it |
| *logical* | parameters, once for every path: what the network would store if nothing were shared |
| *distinct* | different values, tensor by tensor: what a codebook for each tensor would store |

Buffers are never in these three. MACs belong to a forward pass, so they are counted at every use: sharing does not
lower them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.surgery.sites import sites


@dataclass(frozen=True)
class Counts:
    """Numbers that a model stores; see the module's table.

    Args:
        stored: Parameters, each tensor once.
        logical: Parameters, once for every path that reads them.
        bytes: Memory of the stored parameters, in bytes.
        buffer_bytes: Memory of the buffers, each once, in bytes.
    """

    stored: int
    logical: int
    bytes: int
    buffer_bytes: int


def count(model: nn.Module) -> Counts:
    """Count a model's parameters and bytes.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> net[1].weight = net[0].weight
        >>> count(net)
        Counts(stored=4, logical=8, bytes=16, buffer_bytes=0)
    """
    found = sites(model)
    return Counts(
        stored=sum(site.tensor.numel() for site in found),
        logical=sum(site.tensor.numel() * len(site.names) for site in found),
        bytes=sum(_bytes(site.tensor) for site in found),
        buffer_bytes=sum(_bytes(buffer) for buffer in model.buffers()),
    )


def distinct(tensor: Tensor) -> int:
    """How many different values a tensor holds; `0.0` and `-0.0` are one, and so are all NaNs of equal bits.

    Args:
        tensor: Any shape and dtype, on any device but `meta`. Costs one sort.
    """
    values = tensor.detach().reshape(-1)
    if values.is_complex():
        return torch.unique(torch.view_as_real(values + 0), dim=0).shape[0]
    if values.is_floating_point() and values.element_size() >= 2:
        as_integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
        values = (values + 0).view(as_integer)
    return torch.unique(values.view(torch.uint8) if values.element_size() == 1 else values).numel()


def distinct_values(model: nn.Module) -> int:
    """Different values in a model, counted in each stored tensor and added up."""
    return sum(distinct(site.tensor) for site in sites(model))


def macs(model: nn.Module, example_input: Any) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode, by `torch.utils.flop_counter`.

    Args:
        model: Any module; its training flags are as before afterwards.
        example_input: A tensor, a sequence of positional arguments, or a mapping of keyword arguments.

    Returns:
        Half the floating-point operations of all matrix products, convolutions and attentions, at every use.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = {}
    if isinstance(example_input, Mapping):
        keywords = example_input
    else:
        arguments = (example_input,) if isinstance(example_input, Tensor) else tuple(example_input)
    training = [module for module in model.modules() if module.training]
    fused = torch.backends.mha.get_fastpath_enabled()  # one operator for a whole encoder layer, which counts as nothing
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        # The counter does not know every fused attention (the CPU's among them); spelled out as products, all count.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(*arguments, **keywords)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module in training:
            module.training = True
    return counter.get_total_flops() // 2


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
