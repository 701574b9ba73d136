"""Weights that are mixtures, on file: templates and coefficients, `W = A·T`, rebuilt with torch alone.

A weight `NAME` is two tensors of its own dtype: `NAME.templates`, whose first axis counts them, and
`NAME.coefficients`, `(positions, templates)`. A recipe in the metadata says so: `{"rule": "W = A·T", "shape": [32, 32,
1, 27, 64], "dtype": "float32"}`; each template is one row of `T`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any, ClassVar, Self

from torch import Tensor

from weightshare.decoding import MIXTURE, mix
from weightshare.errors import FileError
from weightshare.files.recipes import Recipe, dtype_name, expect_stored, shape_of


@dataclass(frozen=True, eq=False)
class Mixed(Recipe):
    """A weight as templates and coefficients.

    Args:
        templates: `(rank, *kernel)`.
        coefficients: `(positions, rank)`.
        shape: Of the weight.
    """

    templates: Tensor
    coefficients: Tensor
    shape: tuple[int, ...]

    rule: ClassVar[str] = MIXTURE
    fields: ClassVar[frozenset[str]] = frozenset({"rule", "shape", "dtype"})
    suffixes: ClassVar[tuple[str, str]] = ("templates", "coefficients")

    @property
    def in_memory(self) -> tuple[Tensor, Tensor]:
        return self.templates, self.coefficients

    @property
    def on_file(self) -> tuple[Tensor, Tensor]:
        return self.templates, self.coefficients

    @property
    def dense(self) -> Tensor:
        """The weight."""
        return mix(self.coefficients, self.templates).view(self.shape)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Bytes on file of templates and coefficients, and of the dense weight."""
        dense = math.prod(self.shape) * self.templates.element_size()
        return self.templates.nbytes, self.coefficients.nbytes, dense

    def recipe(self) -> dict[str, Any]:
        """What the metadata says of it."""
        return {"rule": self.rule, "shape": list(self.shape), "dtype": dtype_name(self.templates)}

    @classmethod
    def read(cls, path: object, stored: Mapping[str, Tensor], name: str, recipe: Mapping[str, Any]) -> Self:
        lead = f"'{path}' has a recipe for '{name}' that"
        shape = shape_of(lead, recipe)
        templates, coefficients = expect_stored(lead, stored, name, cls.suffixes)
        rank, kernel = templates.shape[0] if templates.ndim else 0, tuple(templates.shape[1:])
        positions = math.prod(shape[: len(shape) - len(kernel)])
        fits = rank and shape[len(shape) - len(kernel) :] == kernel and tuple(coefficients.shape) == (positions, rank)
        if not fits or dtype_name(templates) != recipe["dtype"] or coefficients.dtype != templates.dtype:
            raise FileError(
                f"{lead} does not fit: a weight of {shape} {str(recipe['dtype'])[:40]} is not made of templates "
                f"{tuple(templates.shape)} {templates.dtype} and coefficients {tuple(coefficients.shape)} "
                f"{coefficients.dtype}."
            )
        if not templates.is_floating_point():
            raise FileError(f"{lead} does not fit: its templates are {templates.dtype}.")
        return cls(templates, coefficients, shape)
