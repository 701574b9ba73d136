"""Counts of a network's numbers, named so that sharing cannot be misread.

| count | meaning |
|---|---|
| *stored* | parameters, each tensor once however many paths read it |
| *logical* | parameters, once for every path: what the network would store if nothing were shared |
| *distinct* | different values, tensor by tensor: what a codebook for each tensor would store |

Buffers are never in these three. MACs belong to a forward pass, so they are counted at every use: sharing does not
lower them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any
import warnings

import torch
from torch import Tensor, nn

from weightshare.errors import SpecError
from weightshare.surgery.compare import WORDS
from weightshare.surgery.shards import whole
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
        bytes=sum(site.tensor.nbytes for site in found),
        buffer_bytes=sum(buffer.nbytes for buffer in model.buffers()),
    )


def distinct(tensor: Tensor) -> int:
    """How many different values a tensor holds; `0.0` and `-0.0` are one (but in float8), and so are
    all NaNs of equal bits.

    Args:
        tensor: Any shape and dtype, on any device but `meta`. Costs one sort. Of one that is spread over processes
            all numbers count, and every process has to ask.
    """
    if tensor.is_meta:
        raise SpecError("A tensor on the meta device has no values to count: load the model first.")
    values = whole(tensor).detach().reshape(-1)
    if values.is_complex():
        return torch.unique(torch.view_as_real(values + 0), dim=0).shape[0]
    if values.is_floating_point() and values.element_size() >= 2:
        values = (values + 0).view(WORDS[values.element_size()])
    return torch.unique(values.view(torch.uint8) if values.element_size() == 1 else values).numel()


def distinct_up_to(tensor: Tensor, most: int) -> int:
    """How many different values a tensor holds, but not more than `most`: the first few numbers mostly tell.

    Example:
        >>> distinct_up_to(torch.arange(10.0), 3), distinct_up_to(torch.ones(10), 3)
        (3, 1)
    """
    if tensor.is_meta or most >= tensor.numel():
        return min(most, distinct(tensor))
    values = whole(tensor).detach().reshape(-1)
    return most if distinct(values[: 4 * most]) >= most else min(most, distinct(values))


def distinct_values(model: nn.Module) -> int:
    """Different values in a model, counted in each stored tensor and added up."""
    return sum(distinct(site.tensor) for site in sites(model))


def macs(model: nn.Module, example_input: Any) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode, by `torch.utils.flop_counter`.

    Args:
        model: Any module; its training flags are as before afterwards.
        example_input: A tensor, a sequence of positional arguments, or a mapping of keyword arguments.

    Returns:
        Half the floating-point operations of all matrix products, convolutions, local layers and attentions, at every
        use.

    Raises:
        SpecError: If the model cannot run on the example input.
    """
    from torch.utils.flop_counter import FlopCounterMode

    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = {}
    if isinstance(example_input, Mapping):
        keywords = example_input
    elif isinstance(example_input, Tensor):
        arguments = (example_input,)
    elif isinstance(example_input, Sequence):
        arguments = example_input
    else:
        raise SpecError(
            f"The example input is a {type(example_input).__name__}: need a tensor, a sequence of positional arguments "
            "or a mapping of keyword arguments."
        )
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        counting = FlopCounterMode(display=False, custom_mapping=_formulas())
        with torch.no_grad(), _spelled_out(), counting as counter:
            model(*arguments, **keywords)
    except Exception as error:
        raise SpecError(f"{type(model).__name__} cannot run on the example input: {error}") from error
    finally:
        for module in training:
            module.training = True
    return counter.get_total_flops() // 2


def _formulas() -> dict[Any, Callable[..., int]]:
    """Operations of our own operators, of those that are registered: this folder does not load what registers them."""
    by_name = {
        "local_forward": lambda x, w, *_, out_shape: 2 * x[0] * prod(w),
        "local_spread": lambda g, w, *_, out_shape: 2 * g[0] * prod(w),
        "local_correlate": lambda x, g, *_, out_shape: 2 * x[0] * prod(out_shape),
    }
    ours = torch.ops.weightshare
    return {getattr(ours, name): formula for name, formula in by_name.items() if hasattr(ours, name)}


@contextmanager
def _spelled_out() -> Iterator[None]:
    """Attention and recurrent layers as the products that they are: their fused operators would count as nothing."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration")  # said whenever mkldnn's flags are touched
            with (
                sdpa_kernel(SDPBackend.MATH),
                torch.backends.mkldnn.flags(enabled=False),
                torch.backends.cudnn.flags(enabled=False),
            ):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
