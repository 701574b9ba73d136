"""torchao: quantise a folded model so that each slot stays one tensor.

`quantize_` gives every layer a quantised weight of its own: layers that read one parameter hold equal copies
afterwards, and what sharing saved is stored again. `quantized` puts them together.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from weightshare.errors import ConfigError, ModelChanged
from weightshare.surgery import edit
from weightshare.surgery.sites import sites
from weightshare.verbs import fold

Filter = Callable[[nn.Module, str], bool]


def quantized(model: nn.Module, config: Any, filter_fn: Filter | None = None) -> nn.Module:
    """Fold a model and quantise each weight that it stores once.

    Args:
        model: Shared or not. It is not changed.
        config: Of torchao, such as `Int8WeightOnlyConfig()`.
        filter_fn: From a module and its path to whether it is quantised; `None` is torchao's own choice, linear layers.

    Returns:
        A folded copy whose layers read quantised weights: those of one slot one object. `torch.save` of its
        `state_dict()` writes each once; `weightshare.report` and `save` are for models before.

    Raises:
        ConfigError: If torchao is not installed.
        ModelChanged: If the model cannot be folded; or only some of a slot's readers are quantised, as where an
            embedding is one parameter with a head: then the slot would be stored twice.

    Example:
        >>> import weightshare as ws
        >>> net = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
        >>> _ = ws.share_(net, ws.Tie(rate=2))
        >>> from torchao.quantization import Int8WeightOnlyConfig
        >>> small = quantized(net, Int8WeightOnlyConfig())
        >>> small[0].weight is small[1].weight, type(small[0].weight).__name__
        (True, 'Int8Tensor')
    """
    try:
        from torchao.quantization import quantize_
        from torchao.quantization.quant_api import _is_linear
    except ImportError as error:
        raise ConfigError(f"torchao is not installed ({error}): pip install 'weightshare[torchao]'.") from error
    chosen, done = filter_fn or _is_linear, set[int]()

    def once(module: nn.Module, path: str) -> bool:
        """A module that stands under several names is looked at under each."""
        new = id(module) not in done and chosen(module, path)
        done.update([id(module)] if new else [])
        return new

    small = fold(model)
    ties = [site.names for site in sites(small) if site.aliases]
    quantize_(small, config, once)
    with edit.transaction(small) as edits:
        for first, *others in ties:
            owner = small.get_parameter(first)
            for path in others:
                other = small.get_parameter(path)
                if other is not owner and not _same(other, owner):
                    raise ModelChanged(
                        f"'{first}' and '{path}' are one parameter, and would not be once the model is quantised: one "
                        f"is a {type(owner.data).__name__}, the other a {type(other.data).__name__}, or their scales "
                        "differ. Leave both out of filter_fn, or quantise both."
                    )
                if other is not owner:
                    edits.put(path, owner)
    return small


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one kind and hold the same numbers, scales included."""
    pair: list[Any] = [one.data, other.data]
    if type(pair[0]) is not type(pair[1]):
        return False
    if not is_traceable_wrapper_subclass(pair[0]):
        return torch.equal(*pair)
    names, others = (tensor.__tensor_flatten__()[0] for tensor in pair)
    return names == others and all(torch.equal(*(getattr(tensor, name) for tensor in pair)) for name in names)
