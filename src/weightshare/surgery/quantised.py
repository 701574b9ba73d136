"""Quantised weights: integers that mean something only with a scale kept elsewhere, so no two layers can read one.

Share the model in floating point, and quantise it then: torch's and torchao's tools quantise a tied parameter as any.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from weightshare._typing import Where
from weightshare.errors import ModelChanged
from weightshare.surgery.shards import is_spread
from weightshare.surgery.sites import EXCLUDE, Site, plain, prefixes

PACKED = {"_packed_params", "_all_weight_values"}
ADVICE = "Share the model before it is quantised, or leave this out of the pattern"


def quantised(tensor: Tensor) -> str:
    """Why the numbers of a tensor are no weights by themselves, or nothing.

    Example:
        >>> import torch
        >>> quantised(torch.zeros(3, dtype=torch.int8))
        'its numbers are int8, which mean nothing without the scale of their own layer'
        >>> quantised(torch.zeros(3, dtype=torch.bfloat16))
        ''
    """
    # DTensor, as FSDP2 makes it, is a wrapper too, of plain numbers.
    if is_traceable_wrapper_subclass(tensor) and not is_spread(tensor):
        return f"it is a {type(tensor).__name__}, whose numbers lie elsewhere, as those of quantised weights do"
    narrow = tensor.is_floating_point() and tensor.element_size() < 2
    if tensor.is_quantized or narrow or not (tensor.is_floating_point() or tensor.is_complex()):
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"its numbers are {kind}, which mean nothing without the scale of their own layer"
    return ""


def refuse_wrapped(named: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Refuse to compare, count or write tensors that have their numbers elsewhere, which few operations are defined on.

    Args:
        named: Parameters by path.
        what: What cannot be done, such as `"be counted"`.

    Raises:
        ModelChanged: Naming the first such parameter.
    """
    for path, tensor in named:
        if is_traceable_wrapper_subclass(tensor) and quantised(tensor):
            raise ModelChanged(
                f"'{path}' cannot {what}: {quantised(tensor)}. Do that with the model before it is quantised. Then "
                "fold and quantise: weightshare.integrations.torchao.quantized does, and keeps each slot one tensor. "
                "torch.save(model.state_dict(), path) writes it."
            )


def beside_quantised(site: Site) -> str:
    """Why a site that is no quantised weight belongs to one, as its scale or its bias, or nothing."""
    for name, held in site.holder.named_parameters(recurse=False):
        if held is not site.tensor and quantised(held):
            return f"it belongs to a quantised layer ('{name}' is {str(held.dtype).removeprefix('torch.')})"
    return ""


def packed_layers(model: nn.Module, where: Where = None) -> dict[str, str]:
    """Layers of torch's own quantisation, whose weights are no parameters, so that no site stands for them.

    Args:
        model: Any module.
        where: Which of them, by the rule of `select`; predicates, which take sites, choose none.

    Returns:
        For the path of each the reason why it cannot share.

    Example:
        >>> from torch import nn
        >>> packed_layers(nn.Sequential(nn.Linear(2, 3)))
        {}
    """
    found = dict[str, str]()
    for path, module in plain(model).named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if _is_packed(module) and not inside and _chosen(model, path, where):
            library = type(module).__module__.partition(".modules")[0]
            found[path] = f"a {type(module).__name__} of {library} packs its weights, so it has no parameters"
    return found


def _is_packed(module: nn.Module) -> bool:
    """By where torch keeps the class, and by what it calls packed weights: not what only rounds activations."""
    quantising = type(module).__module__.startswith("torch.ao.nn.") and ".quantized." in type(module).__module__
    return quantising and bool(PACKED & {*vars(module), *module._modules})


def _chosen(model: nn.Module, path: str, where: Where) -> bool:
    if where is None:
        return True
    if isinstance(where, type):
        above = [plain(model).get_submodule(prefix) for prefix in prefixes(path)]
        return any(isinstance(module, where) for module in above)
    globs = [where] if isinstance(where, str) else where if isinstance(where, Sequence) else ()
    chosen = False
    for glob in (glob for glob in globs if isinstance(glob, str)):
        pattern = glob.removeprefix(EXCLUDE)
        names = [*prefixes(path), f"{path}.weight", f"{path}.bias"]
        if any(fnmatchcase(name, pattern) for name in names):
            chosen = pattern == glob
    return chosen
