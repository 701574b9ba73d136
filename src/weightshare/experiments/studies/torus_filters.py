"""What is read off a network trained on the torus: how far its weights share, and whether its filters are copies.

The rows of the first layer are images of 14×14 positions on a torus. Of a convolution they are its kernels at each
position, so every number here is what a perfect answer would have.

Source: Shakerinava 2023, pictures of the rows of the first layer's weight matrix.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weightshare.analysis.filters import aligned, draw_filters, translated_similarity, window_energy
from weightshare.experiments.table import Found
from weightshare.files.checkpoint import tensors
from weightshare.surgery.count import distinct
from weightshare.training.recipe import RunConfig
from weightshare.training.run import MODEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPARED, SHOWN = 256, 16
"""Of the first layer, the strongest filters that are compared with each other, and those that are drawn."""


def shares(settings: RunConfig, layers: Sequence[str]) -> dict[str, float]:
    """How far the weights of layers share, in the file of a run: `distinct` values and `zero`s, in percent of them.

    Nothing where a network has no such layers.
    """
    held = tensors(Path(settings.out) / MODEL)
    weights = [held[name] for name in layers if name in held]
    if not weights:
        return {}
    count = sum(weight.numel() for weight in weights)
    return {
        "distinct": 100 * sum(distinct(weight) for weight in weights) / count,
        "zero": 100 * sum(int((weight == 0).sum()) for weight in weights) / count,
    }


def sharing(settings: RunConfig, layers: Sequence[str]) -> dict[str, float]:
    """What `shares` says, and what the filters look like.

    Returns:
        Also `translated`, the median over filters of the cosine to the most similar other one, shifted as fits best;
        and `energy`, the median share of a filter's energy within 3×3 positions.
    """
    top = strongest(first_layer(settings, tensors(Path(settings.out) / MODEL)), COMPARED)
    similar = translated_similarity(top).fill_diagonal_(-1).amax(1)
    looks = {"translated": float(similar.median()), "energy": float(window_energy(top, 3).median())}
    return shares(settings, layers) | looks


def shown_filters(settings: RunConfig) -> dict[str, list[float | None]]:
    """Of the run with seed 0: the filter that has the most in common with others, and the 15 that are most like it.

    Numbers are of the greatest one, in hundredths.
    """
    if settings.seed:
        return {}
    filters = _likest(strongest(first_layer(settings, tensors(Path(settings.out) / MODEL)), COMPARED), SHOWN)
    scaled = filters / filters.abs().max().clamp_min(1e-30)
    return {"filters": [round(value, 2) for value in scaled.flatten().tolist()]}


def first_layer(settings: RunConfig, held: Mapping[str, Tensor]) -> Tensor:
    """The first layer's rows as images `(units, side, side)`; shuffled pixels are put back in their places."""
    if "fc1.weight" in held:
        weight = held["fc1.weight"]
        side = int(weight.shape[1] ** 0.5)
        if settings.prepare.shuffle:
            weight = weight[:, settings.prepare.pixel_order(side, side).argsort()]
        return weight.view(-1, side, side)
    kernels, side = held["conv1.weight"][:, 0], 14
    images = kernels.new_zeros(len(kernels), side, side)
    images[:, :3, :3] = kernels
    rows = torch.stack([images.roll((down, right), (1, 2)) for down in range(side) for right in range(side)], 1)
    return rows.flatten(0, 1)


def strongest(filters: Tensor, count: int) -> Tensor:
    """The filters of the greatest norm."""
    return filters[filters.flatten(1).norm(dim=1).argsort(descending=True)[:count]]


def picture(found: Found) -> "Figure":
    """The filters of each row that is there, and those of the regularised network shifted to fit each other."""
    bands: dict[str, Tensor] = {}
    for (row, _), outcomes in found.items():
        values = next((one.curves["filters"] for one in outcomes.values() if "filters" in one.curves), None)
        if values is None:
            continue
        side = round((len(values) / SHOWN) ** 0.5)
        filters = torch.tensor([0.0 if value is None else value for value in values]).view(-1, side, side)
        bands[row] = filters
        if row == "regularised":
            bands["regularised, shifted to fit the first"] = aligned(filters)
    return draw_filters(bands, SHOWN) if bands else _empty()


def _empty() -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, 1.0))


def _likest(filters: Tensor, count: int) -> Tensor:
    """The filter that has the most in common with others, up to translation, and these."""
    similar = translated_similarity(filters)
    ranked = similar.sort(dim=1, descending=True)
    first = int(ranked.values[:, :count].mean(1).argmax())
    return filters[ranked.indices[first, :count]]
