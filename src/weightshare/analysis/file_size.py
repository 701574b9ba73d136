"""How large a file of `save` would be, once a plan is applied: nothing is applied, written or even computed.

A file holds the parameters and persistent buffers, each once, and a header: an entry for each tensor, further names,
recipes for what is coded, the plans themselves, and a checksum. The header is put together here as `files.archive`
writes it, so that of a small model, where it counts, the size is right too. Names of banks are shorter or longer by
some letters; weights that happen to have few values, such as zeros, take less.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
import json
import math
from typing import Any

from torch import Tensor, nn

from weightshare.decoding import Clusters, Decoded
from weightshare.depth.templates import TemplateGroup
from weightshare.generating import BANKS, bank_stem
from weightshare.planning import Plan, applied_plans
from weightshare.sharing import Group
from weightshare.surgery.blocks import join

CHECKSUM = 64
"""Characters of the checksum."""
DTYPES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass
class _File:
    """What a file would hold.

    Args:
        tensors: By name: shape, dtype and bytes.
        aliases: Further names, each with that of the owner.
        recipes: Of what is coded.
    """

    tensors: dict[str, tuple[Sequence[int], str, int]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    recipes: dict[str, Any] = field(default_factory=dict)

    def size(self, plans: Iterable[tuple[str, str]]) -> int:
        """Bytes of the file, with these plans in it."""
        said = {"version": 1, "kind": "model", "plans": list(plans)} | (
            {"recipes": self.recipes} if self.recipes else {}
        )
        metadata = {**self.aliases, "weightshare": json.dumps(said), "weightshare.sha256": "0" * CHECKSUM}
        header: dict[str, Any] = {"__metadata__": metadata}
        at = 0
        for name, (shape, dtype, count) in self.tensors.items():
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + count]}
            at += count
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
        return 8 + -(-len(text) // 8) * 8 + at


def file_size(model: nn.Module, plan: Plan | None = None) -> int:
    """Bytes of a file that `save` would write of a model, shared by a plan or as it is.

    Args:
        model: Any module; it may lie on the meta device.
        plan: That would be applied first.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(*(nn.Linear(7, 7) for _ in range(4)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file_size(net) == save(net, f"{folder}/net.safetensors")
        True
    """
    file = _as_it_is(model)
    plans = list(applied_plans(model))
    for at, applied in plans:
        for group in (group.under(at) for group in applied.groups):
            if isinstance(group, Decoded):
                _code(file, group, group.keys)
            elif isinstance(group, TemplateGroup):
                _rows(file, group, f"{BANKS}.bank")
    said = [(at, applied.to_json()) for at, applied in plans]
    if plan is None:
        return file.size(said)
    for group in plan.groups:
        _share(file, group)
    return file.size([*said, ("", plan.to_json())])


def _as_it_is(model: nn.Module) -> _File:
    file, first = _File(), dict[int, str]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            continue  # `save` refuses it, and says why
        owner = first.setdefault(id(tensor), name)
        if owner == name:
            dtype = _dtype(str(tensor.dtype).removeprefix("torch."))
            file.tensors[name] = tuple(tensor.shape), dtype, tensor.numel() * tensor.element_size()
        else:
            file.aliases[name] = owner
    return file


def _share(file: _File, group: Group) -> None:
    if isinstance(group, Decoded):
        _code(file, group, group.items[:1])
    elif isinstance(group, TemplateGroup):
        for path in group.items:
            file.tensors.pop(path, None)
        bank = join(BANKS, bank_stem(group.name))
        shapes = (group.templates, *group.shape), (len(group.items), group.templates)
        for name, shape in zip(("templates", "coefficients"), shapes, strict=True):
            file.tensors[join(bank, name)] = shape, _dtype(group.dtype), math.prod(shape) * group.itemsize
        _rows(file, group, bank)
    else:
        for tie in group.ties:
            for path in tie[1:]:
                if file.tensors.pop(path, None) is not None:
                    file.aliases[path] = tie[0]


def _code(file: _File, group: Decoded, gone: Iterable[str]) -> None:
    """A weight as two tensors and a recipe, in place of what the model's state has for it."""
    for name in gone:
        file.tensors.pop(name, None)
    path = group.items[0]
    recipe = {"rule": group.rule, "shape": list(group.shape), "dtype": group.dtype}
    first, second = group.stored_shapes
    if isinstance(group, Clusters):
        packed = group.on_file[1]
        recipe["bits"] = group.bits
        parts = {"codebook": (first, _dtype(group.dtype), group.on_file[0]), "index": ((packed,), "U8", packed)}
    else:
        kinds = {"templates": first, "coefficients": second}
        parts = {n: (s, _dtype(group.dtype), math.prod(s) * group.itemsize) for n, s in kinds.items()}
    file.tensors |= {join(path, name): part for name, part in parts.items()}
    file.recipes[path] = recipe


def _rows(file: _File, group: TemplateGroup, bank: str) -> None:
    for number, path in enumerate(group.items):
        shape = list(group.shape_of(number))
        file.recipes[path] = {"rule": "W = A[i]·T", "bank": bank, "row": number, "shape": shape, "dtype": group.dtype}


def _dtype(name: str) -> str:
    """As safetensors calls it, of about as many letters at least."""
    return DTYPES.get(name, name[:1].upper() + "64")
