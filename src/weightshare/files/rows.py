"""Weights of layers that read a bank of templates, on file: rows of a product, `W = A[i]·T`, rebuilt with torch alone.

A file stores a bank as a model does, once: `BANK.templates`, `(templates, *weight)`, and `BANK.coefficients`, `(layers,
templates)`. The weight `NAME` of each layer is a recipe in the metadata: `{"rule": "W = A[i]·T", "bank": "BANK", "row":
3, "shape": [16, 16, 3, 3], "dtype": "float32"}`. A weight that is narrower than the templates is the leading slice of
its mixture, in the first two dimensions.

Recipes are followed in their order: what a bank stores may be a row of another bank. A recipe is data: nothing that a
file says is run, and one that does not fit its bank is refused.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weightshare.decoding import mix
from weightshare.depth.widths import WIDTHS, leading
from weightshare.errors import FileError
from weightshare.files.recipes import dtype_name, shape_of

ROW = "W = A[i]·T"
FIELDS = frozenset({"rule", "bank", "row", "shape", "dtype"})


@dataclass(frozen=True)
class Row:
    """A weight as a row of a bank.

    Args:
        bank: Name of the bank; its tensors are `bank.templates` and `bank.coefficients`.
        row: Of the coefficients, from 0.
        shape: Of the weight.
        dtype: Such as `float32`.
    """

    bank: str
    row: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def parts(self) -> tuple[str, str]:
        """What the bank's tensors are called."""
        return f"{self.bank}.templates", f"{self.bank}.coefficients"

    def recipe(self) -> dict[str, Any]:
        """What the metadata says of it."""
        return {"rule": ROW, "bank": self.bank, "row": self.row, "shape": list(self.shape), "dtype": self.dtype}


def read_rows(path: object, recipes: Mapping[str, Any], stored: Mapping[str, Tensor]) -> dict[str, Row]:
    """Check what a file says of the weights of banks.

    Args:
        path: Name of the file, for messages.
        recipes: Those of rule `ROW`, in order, which are not to be trusted.
        stored: Every tensor of the file by each of its names, dense.

    Raises:
        FileError: If a recipe is malformed, or does not fit its bank.
    """
    known, rows = dict(stored), dict[str, Row]()
    for name, recipe in recipes.items():
        row = rows[name] = _row(f"'{path}' has a recipe for '{name}' that", recipe)
        if name in known:
            raise FileError(f"'{path}' has a recipe for '{name}', and stores it too.")
        _expect_fit(f"'{path}' has a recipe for '{name}' that does not fit", row, known)
        known[name] = torch.empty(row.shape, dtype=known[row.parts[0]].dtype, device="meta")
    return rows


def follow(rows: Mapping[str, Row], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, each dense: one product for each bank.

    Args:
        rows: From `read_rows`.
        stored: As given there.

    Returns:
        Each name with its weight; rows that say the same give the same tensor.
    """
    known, found = dict(stored), dict[str, Tensor]()
    asked = defaultdict[str, set[int]](set)
    for one in rows.values():
        asked[one.bank].add(one.row)
    products, made = dict[str, dict[int, Tensor]](), dict[Row, Tensor]()
    for name, one in rows.items():
        if one.bank not in products:
            templates, coefficients = (known[part] for part in one.parts)
            numbers = sorted(asked[one.bank])
            products[one.bank] = dict(zip(numbers, mix(coefficients[numbers], templates), strict=True))
        if one not in made:
            whole = products[one.bank][one.row]
            made[one] = leading(whole, one.shape).clone(memory_format=torch.contiguous_format)
        found[name] = known[name] = made[one]
    return found


def unfolded(rows: Mapping[str, Row], described: Mapping[str, Tensor]) -> int:
    """Bytes that `follow` takes at most: the product of each bank, and each weight that differs.

    Args:
        rows: From `read_rows`.
        described: As given there.
    """
    known, whole, made = dict(described), dict[tuple[str, int], int](), dict[Row, int]()
    for name, one in rows.items():
        templates = known[one.parts[0]]
        whole[one.bank, one.row] = templates[0].nbytes
        known[name] = torch.empty(one.shape, dtype=templates.dtype, device="meta")
        made[one] = known[name].nbytes
    return sum(whole.values()) + sum(made.values())


def _row(lead: str, recipe: Mapping[str, Any]) -> Row:
    if recipe.keys() != FIELDS:
        raise FileError(f"{lead} this version cannot follow: {str(recipe)[:200]}.")
    bank, row, dtype = recipe["bank"], recipe["row"], recipe["dtype"]
    if not isinstance(bank, str) or type(row) is not int or not isinstance(dtype, str):
        raise FileError(f"{lead} is damaged: need the name of a bank, a row and a dtype, got {str(recipe)[:200]}.")
    return Row(bank, row, shape_of(lead, recipe), dtype)


def _expect_fit(lead: str, row: Row, known: Mapping[str, Tensor]) -> None:
    templates, coefficients = (known.get(part) for part in row.parts)
    if templates is None or coefficients is None:
        raise FileError(f"{lead}: need {' and '.join(map(repr, row.parts))}.")
    count, whole = templates.shape[0] if templates.ndim > 1 else 0, tuple(templates.shape[1:])
    widths = all(0 < length <= most for length, most in zip(row.shape[:WIDTHS], whole[:WIDTHS], strict=False))
    shaped = len(row.shape) == len(whole) and row.shape[WIDTHS:] == whole[WIDTHS:] and widths
    there = coefficients.ndim == 2 and 0 <= row.row < len(coefficients) and 0 < count == coefficients.shape[1]
    numbers = templates.is_floating_point() or templates.is_complex()
    typed = numbers and dtype_name(templates) == row.dtype == dtype_name(coefficients)
    if not (shaped and there and typed):
        raise FileError(
            f"{lead}: row {row.row} of shape {row.shape} {row.dtype[:40]} is not made of templates "
            f"{tuple(templates.shape)} {templates.dtype} and coefficients {tuple(coefficients.shape)} "
            f"{coefficients.dtype}."
        )
