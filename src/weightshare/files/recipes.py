"""Recipes: how a file stores a weight as two smaller tensors, and what makes it of them again.

A weight `NAME` is `NAME.FIRST` and `NAME.SECOND` in the file, and a table in the metadata that names a rule. A recipe
is data: nothing that a file says is run, and one that does not fit its tensors is refused.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from weightshare.errors import FileError
from weightshare.files.stored import is_shape


class Recipe(ABC):
    """A weight as two stored tensors; abstract. Made of the two that a model holds for it."""

    rule: ClassVar[str]
    """What the metadata calls it."""
    fields: ClassVar[frozenset[str]]
    """What the metadata says of it."""
    suffixes: ClassVar[tuple[str, str]]
    """What the two tensors are called in a file, behind the weight's name."""

    @property
    @abstractmethod
    def in_memory(self) -> tuple[Tensor, Tensor]:
        """The two tensors, as a model holds them."""

    @property
    @abstractmethod
    def on_file(self) -> tuple[Tensor, Tensor]:
        """The two tensors, as a file holds them."""

    @property
    @abstractmethod
    def dense(self) -> Tensor:
        """The weight."""

    @property
    def described(self) -> Tensor:
        """The weight without its numbers: shape and dtype, on the meta device."""
        said = self.recipe()
        return torch.empty(said["shape"], dtype=getattr(torch, said["dtype"]), device="meta")

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int, int]:
        """Bytes on file of the two, and of the dense weight."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """What the metadata says of it: `rule`, `shape`, `dtype`, and what else is needed."""

    @classmethod
    @abstractmethod
    def read(cls, path: object, stored: Mapping[str, Tensor], name: str, recipe: Mapping[str, Any]) -> Self:
        """Make it of a file's tensors.

        Raises:
            FileError: If the recipe is malformed, or does not fit them.
        """

    @classmethod
    def parts(cls, name: str) -> tuple[str, str]:
        """What the two tensors of a weight are called in a file."""
        return f"{name}.{cls.suffixes[0]}", f"{name}.{cls.suffixes[1]}"

    def entries(self, name: str) -> dict[str, Tensor]:
        """The two tensors that are stored for a weight, by name."""
        return dict(zip(self.parts(name), self.on_file, strict=True))


def decode(
    path: object, stored: Mapping[str, Tensor], recipes: object, rules: Mapping[str, type[Recipe]]
) -> dict[str, Any]:
    """What recipes make of stored tensors.

    Args:
        path: Name of the file, for messages.
        stored: Every tensor of the file.
        recipes: What the metadata says, which is not to be trusted.
        rules: The kinds of recipe that are known, by rule.

    Returns:
        For each weight a `Recipe`.

    Raises:
        FileError: If a recipe is malformed, or does not fit its tensors.
    """
    if not isinstance(recipes, dict):
        raise FileError(f"'{path}' has recipes that are no table: {type(recipes).__name__}.")
    found = {}
    for name, recipe in recipes.items():
        rule = recipe.get("rule") if isinstance(recipe, dict) else None
        kind = rules.get(rule) if isinstance(rule, str) else None
        if kind is None or recipe.keys() != kind.fields:
            raise FileError(
                f"'{path}' has a recipe for '{name}' that this version cannot follow: {str(recipe)[:200]}. It reads "
                f"{' and '.join(map(repr, rules))}."
            )
        found[name] = kind.read(path, stored, name, recipe)
    return found


def shape_of(lead: str, recipe: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that a recipe gives.

    Args:
        lead: How messages begin.
        recipe: Of a file.
    """
    if not is_shape(recipe["shape"]):
        raise FileError(f"{lead} is damaged: {str(recipe['shape'])[:80]} is no shape.")
    return tuple(recipe["shape"])


def expect_stored(
    lead: str, stored: Mapping[str, Tensor], name: str, suffixes: tuple[str, str]
) -> tuple[Tensor, Tensor]:
    """The two tensors of a recipe."""
    parts = [f"{name}.{suffix}" for suffix in suffixes]
    first, second = (stored.get(part) for part in parts)
    if name in stored or first is None or second is None:
        raise FileError(f"{lead} does not fit: need {' and '.join(map(repr, parts))}, and not '{name}' itself.")
    return first, second


def dtype_name(tensor: Tensor) -> str:
    """Such as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")
