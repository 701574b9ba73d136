"""Archives: safetensors files with one owner for each tensor, and a checksum over all that they say.

The header's metadata holds `{alias: owner}` for every further name of a tensor, which is the convention of
`safetensors.torch.save_model`, so its `load_model` reads our files too; one entry `weightshare`, JSON that says what
the file is; and one entry `weightshare.sha256`. Nothing in a file is ever executed: there is no pickle.

Weights of few values may be stored as codebook and labels, and mixtures as templates and coefficients, with recipes in
the JSON; `compact` and `mixture` say how. What layers read of a bank are rows of a product (`rows`). Such a file is of
version 2, so that a reader that knows no recipes refuses it; all others are of version 1, as they ever were.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
import torch
from torch import Tensor

from weightshare.errors import FileError
from weightshare.files.atomic import replacing
from weightshare.files.compact import Coded
from weightshare.files.mixture import Mixed
from weightshare.files.opening import parse_json
from weightshare.files.recipes import Recipe, decode
from weightshare.files.rows import ROW, Row, follow, read_rows, unfolded
from weightshare.files.stored import read_stored

VERSION, WITH_RECIPES = 1, 2
RECIPES = "recipes"
RULES: dict[str, type[Recipe]] = {kind.rule: kind for kind in (Coded, Mixed)}
CONTENT, CHECKSUM = "weightshare", "weightshare.sha256"


@dataclass(frozen=True)
class Archive:
    """What a file holds.

    Args:
        tensors: Each tensor that is stored as it is, on the CPU, by the name of its owner.
        aliases: Further names, each with the name of its owner.
        content: What the file says about itself; `kind` is always there. Empty for a file that is not ours.
        coded: Further tensors, which are stored as two smaller ones each.
        rows: Further weights, which layers read from banks whose tensors are among the others.
        size: Bytes of all that is stored.
    """

    tensors: dict[str, Tensor]
    aliases: dict[str, str]
    content: dict[str, Any]
    coded: dict[str, Recipe] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    size: int = 0

    @property
    def described(self) -> dict[str, Tensor]:
        """Each owner; those that are coded without their numbers (on the meta device), since these may be many."""
        return {**self.tensors, **{name: one.described for name, one in self.coded.items()}}

    @property
    def dense_size(self) -> int:
        """Bytes that `state` takes beyond what is stored."""
        return sum(one.described.nbytes for one in self.coded.values()) + unfolded(
            self.rows, self._named(self.described)
        )

    @property
    def state(self) -> dict[str, Tensor]:
        """Every name with its dense tensor: weights in place of the banks that they are read from."""
        named = self._named({**self.tensors, **{name: one.dense for name, one in self.coded.items()}})
        named |= follow(self.rows, named)
        inside = {part for row in self.rows.values() for part in row.parts}
        stored = {id(named[part]) for part in inside}
        return {name: tensor for name, tensor in named.items() if name not in inside and id(tensor) not in stored}

    def _named(self, owned: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**owned, **{alias: owned[owner] for alias, owner in self.aliases.items()}}


def write(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    aliases: Mapping[str, str],
    content: dict[str, Any],
    coded: Mapping[str, Recipe] | None = None,
    rows: Mapping[str, Row] | None = None,
) -> int:
    """Write an archive in one step.

    Args:
        path: Where to write; what was there is replaced once the new file is whole.
        tensors: Name and tensor, each tensor once; stored as they are.
        aliases: Further names, each with the name of a tensor above or below.
        content: JSON-able; needs `kind`.
        coded: Name and further tensors, to be stored as two smaller ones each, with a recipe.
        rows: Further names, whose weights are read from banks that are among the tensors; in the order in which they
            can be made.

    Returns:
        Size of the file in bytes.

    Raises:
        FileError: If a tensor has no numbers (meta) or a layout that safetensors lacks, if a name is one of ours, or
            if the disk refuses. A file that was there is then unchanged.
    """
    from safetensors.torch import save_file  # it imports numpy; `import weightshare` need not

    coded, rows = coded or {}, rows or {}
    own = {CONTENT, CHECKSUM, "__metadata__", *rows, *(part for name, one in coded.items() for part in one.parts(name))}
    taken = own & {*tensors, *aliases, *coded}
    if taken:
        raise FileError(f"Cannot save a tensor under the name {sorted(taken)[0]!r}: the file format uses it.")
    stored = {part: tensor for name, one in coded.items() for part, tensor in one.entries(name).items()}
    plain = {name: _plain(name, tensor) for name, tensor in {**tensors, **stored}.items()}
    recipes = {name: one.recipe() for name, one in {**coded, **rows}.items()}
    said = {"version": WITH_RECIPES if recipes else VERSION, **content, **({RECIPES: recipes} if recipes else {})}
    metadata = {**aliases, CONTENT: json.dumps(said)}
    metadata[CHECKSUM] = _checksum(plain, metadata)
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
            raise FileError(f"Cannot save to '{path}': {error}.") from error
    return Path(path).stat().st_size


def read(path: str | Path, kind: str) -> Archive:
    """Read an archive that `write` made.

    Raises:
        FileError: If the file is missing, cut, edited, of a later version, of another kind, or not ours.
    """
    archive = read_any(path)
    if not archive.content:
        raise FileError(
            f"'{path}' was not written by weightshare: it has no checksum. Read it with weightshare.tensors(path), "
            "which gives a state dict."
        )
    if archive.content.get("kind") != kind:
        raise FileError(f"'{path}' holds a {archive.content.get('kind')!r}, need a {kind!r}.")
    return archive


def read_any(path: str | Path) -> Archive:
    """Read any safetensors file; one of ours is checked, of another the metadata is searched for aliases."""
    tensors, metadata = read_stored(path)
    size = sum(tensor.nbytes for tensor in tensors.values())
    stated = metadata.pop(CHECKSUM, None)
    if stated is None and CONTENT not in metadata:
        aliases = {name: owner for name, owner in metadata.items() if owner in tensors and name not in tensors}
        return Archive(tensors, aliases, {}, size=size)
    if stated != _checksum(tensors, metadata):
        raise FileError(f"'{path}' does not match its checksum: it was edited or damaged after it was written.")
    content = _content(path, metadata.pop(CONTENT, ""))
    recipes = content.get(RECIPES, {})
    of_banks = {name: one for name, one in recipes.items() if _is_row(one)} if isinstance(recipes, dict) else {}
    others = {name: one for name, one in recipes.items() if name not in of_banks} if of_banks else recipes
    coded = decode(path, tensors, others, RULES)
    for part in [part for name, one in coded.items() for part in one.parts(name)]:
        del tensors[part]
    owners = tensors.keys() | coded.keys()
    dangling = sorted(name for name, owner in metadata.items() if owner not in owners or name in owners)
    if dangling:
        raise FileError(
            f"'{path}' names {dangling[0]!r} as an alias of {metadata[dangling[0]]!r}, which it does not hold."
        )
    held = Archive(tensors, metadata, content, coded, size=size)
    return replace(held, rows=read_rows(path, of_banks, held._named(held.described)))


def _is_row(recipe: object) -> bool:
    return isinstance(recipe, dict) and recipe.get("rule") == ROW


def _content(path: str | Path, text: str) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise FileError(f"'{path}' says nothing readable about itself: {error}.") from error
    if not isinstance(content, dict) or content.get("version") not in (VERSION, WITH_RECIPES):
        version = content.get("version") if isinstance(content, dict) else None
        raise FileError(
            f"'{path}' has format version {version!r}, this version of weightshare reads {VERSION} and {WITH_RECIPES}."
        )
    return content


def _plain(name: str, tensor: Tensor) -> Tensor:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        state = "on the meta device" if tensor.is_meta else f"of layout {tensor.layout}"
        raise FileError(f"Cannot save '{name}': it is {state}. Only dense tensors with numbers are stored.")
    plain = tensor.detach().cpu().contiguous()
    # A view of a larger storage (a flattened recurrent layer, a slice) would make safetensors refuse or store it all.
    return plain.clone() if plain.untyped_storage().nbytes() != plain.nbytes else plain


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
