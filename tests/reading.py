"""Files with codebooks read by safetensors and torch alone: the slow twin of `weightshare.files.compact`."""

import json
from pathlib import Path

from safetensors import safe_open
import torch
from torch import Tensor


def unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    """Labels bit by bit: `bits` of them each, the lowest first, from a stream of bytes, the lowest bit first."""
    stream = (packed.long()[:, None] >> torch.arange(8)) & 1
    return (stream.reshape(-1)[: count * bits].view(count, bits) << torch.arange(bits)).sum(1)


def rebuilt(path: str | Path) -> dict[str, Tensor]:
    """Every tensor that is stored, dense; weights in place of the banks that make them. Aliases are left out."""
    with safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        recipes = json.loads(file.metadata()["weightshare"]).get("recipes", {})
    banks = set()
    for name, recipe in recipes.items():
        if recipe["rule"] == "W = A[i]·T":  # these are the last
            parts = [f"{recipe['bank']}.{part}" for part in ("coefficients", "templates")]
            row, templates = held[parts[0]][recipe["row"]], held[parts[1]]
            whole = sum(number * template for number, template in zip(row, templates, strict=True))
            assert isinstance(whole, Tensor)
            held[name] = whole[: recipe["shape"][0], : recipe["shape"][1]]
            banks |= {*parts}
            continue
        if recipe["rule"] == "W = A·T":
            templates, coefficients = held.pop(f"{name}.templates"), held.pop(f"{name}.coefficients")
            held[name] = (coefficients @ templates.flatten(1)).view(recipe["shape"])
            continue
        codebook, packed = held.pop(f"{name}.codebook"), held.pop(f"{name}.index")
        count = torch.Size(recipe["shape"]).numel() // codebook[0].numel()
        held[name] = codebook[unpacked(packed, recipe["bits"], count)].view(recipe["shape"])
    return {name: tensor for name, tensor in held.items() if name not in banks}
