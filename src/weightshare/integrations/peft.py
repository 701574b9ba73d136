"""PEFT: merge adapters of layers that share a weight.

Each layer has an adapter of its own, so layers that read one weight drift apart by it, which is "relaxed" sharing.
PEFT's `merge_and_unload` adds each layer's update to the weight in place: to a shared one it adds all, and every
reader then computes with the updates of all, without a word. `merged` gives adapted layers weights of their own first.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from weightshare.errors import ConfigError, ModelChanged
from weightshare.models.by_name import mend_torchvision
from weightshare.planning import applied_plans
from weightshare.surgery import edit
from weightshare.surgery.sites import Site, sites


def merged(model: Any, **options: Any) -> nn.Module:
    """Merge adapters into the network below them, shared weights included, and take the adapters off.

    Args:
        model: What `get_peft_model` made of a folded model. It is used up, as by PEFT's `merge_and_unload`.
        options: For `merge_and_unload`, such as `safe_merge=True`.

    Returns:
        The network without adapters. A weight that several adapted layers shared is one of each now; what no adapter
        touches stays shared.

    Raises:
        ConfigError: If PEFT is not installed.
        ModelChanged: If the model has plans (fold it before it gets adapters), has no adapters, or one module stands at
            several places of it, so that its adapter would reach all of them. Nothing is changed then.

    Example:
        >>> import torch, weightshare as ws
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(2)))
        >>> _ = ws.share_(net, ws.Tie(rate=2), "*.weight")
        >>> mend_torchvision()
        >>> from peft import LoraConfig, get_peft_model
        >>> lora = get_peft_model(ws.fold(net), LoraConfig(r=1, target_modules=["0", "1"], init_lora_weights=False))
        >>> wanted = lora(torch.ones(1, 3))
        >>> torch.allclose(merged(lora)(torch.ones(1, 3)), wanted)
        True
    """
    mend_torchvision()
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError as error:
        raise ConfigError(f"peft is not installed ({error}): pip install 'weightshare[peft]'.") from error
    if any(True for _ in applied_plans(model)):
        raise ModelChanged(
            "The model below the adapters still has the plans that shared it, whose paths PEFT has renamed. Fold "
            "first: get_peft_model(ws.fold(model), config)."
        )
    adapted = {path for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    if not adapted:
        raise ModelChanged(f"{type(model).__name__} has no adapter of PEFT to merge.")
    shared = [site for site in sites(model) if site.aliases and any(_under(site.names, adapted))]
    for site in shared:
        _refuse_one_module(site)
    with edit.transaction(model) as edits:
        for site in shared:
            for path in _under(site.names, adapted):
                edits.put(path, edit.like_parameter(site.tensor, site.tensor.detach().clone()))
    return model.merge_and_unload(**options)


def _under(paths: Iterable[str], adapted: set[str]) -> list[str]:
    """The paths of parameters that an adapter is put on."""
    return [path for path in paths if path.rpartition(".")[0].removesuffix(".base_layer") in adapted]


def _refuse_one_module(site: Site) -> None:
    modules = dict(site.modules)
    holders: dict[int, str] = {}
    for path in site.names:
        module = modules.get(path.rpartition(".")[0], site.holder)
        first = holders.setdefault(id(module), path)
        if first != path:
            raise ModelChanged(
                f"'{first}' and '{path}' are of one module, which PEFT adapts under the first name only: merged, its "
                "update would reach both. Give the second place a copy of the module before get_peft_model."
            )
