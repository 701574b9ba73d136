"""SPIN's figures 3 and 4: which layers of a shared network compute what layers of the unshared one compute?

Linear CKA between the outputs of all blocks of a network and all blocks of the unshared one of the same seed, on test
images. The paper finds no pattern for networks tied from scratch, and a clear one after weight fusion.

Source: Lin 2022, supplement F.2. Differs: the unbiased estimator, on 1,024 images in batches of 256.
"""

from collections.abc import Mapping
from pathlib import Path
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weightshare.analysis.pictures import INK, quiet
from weightshare.depth.cka import cka
from weightshare.experiments.studies.lin2022_convmixer import top1
from weightshare.experiments.table import Found, Outcomes
from weightshare.files.atomic import read_json, write_json
from weightshare.training.data import Data
from weightshare.training.recipe import RunConfig
from weightshare.training.run import trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES, BATCHES = 1024, 4
BLOCK = "block "


COMPARED = "cka.json"
"""Beside a run: what its network has in common with the other one, block by block."""


def compared(settings: RunConfig, beside: str = "unshared") -> list[list[float]]:
    """The similarities of a finished run's network, layer by layer, to that of another row of its seed and column.

    Args:
        settings: Of the run; that of the other row lies beside it.
        beside: The other row.

    Returns:
        Rows are blocks of the run's network, columns those of the other one. Measured once, and kept beside the run.
    """
    out = Path(settings.out)
    if not (out / COMPARED).is_file():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, data = trained(out)
        other, _ = trained(out.with_name(f"{beside}{re.sub('^[^@]*?(?=@|-seed[0-9]+$)', '', out.name)}"))
        found = cka(model.to(device), other.to(device), [batch.to(device) for batch in pictures(data)]).values
        write_json(out / COMPARED, [[round(x, 5) for x in row] for row in found.tolist()])
    return read_json(out / COMPARED)


def measured(settings: RunConfig, summary: Mapping[str, Any], column: str = "") -> dict[str, float]:
    """The accuracy of a run in percent, and how alike its network's blocks are to the unshared one's; see `alike`."""
    prefix = f"{column}/" if column else ""
    return {f"{prefix}{name}": value for name, value in alike(torch.tensor(compared(settings))).items()} | top1(
        settings, summary, f"{prefix}top1"
    )


def rows_of(settings: RunConfig) -> dict[str, list[float]]:
    """The similarities as curves: one for each block of the run's network."""
    return {f"{BLOCK}{number}": row for number, row in enumerate(compared(settings))}


def alike(values: Tensor) -> dict[str, float]:
    """The mean similarity of a block to the same block of the other network (`same`), and to its others (`others`)."""
    same = values.diagonal()
    others = (values.sum() - same.sum()) / max(1, values.numel() - len(same))
    return {"same": same.mean().item(), "others": others.item()}


def pictures(data: Data) -> list[Tensor]:
    """Test images as networks see them, from the whole set evenly: it may be ordered by class."""
    split = data.test
    rows = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).long()
    return [split.normalised(images) for images, _ in split.batches([rows[at::BATCHES] for at in range(BATCHES)])]


def heat_maps(found: Found, titles: Mapping[tuple[str, str], str]) -> "Figure":
    """A heat map for each row and column of a table that has one: the mean over seeds, with one scale from 0 to 1.

    Args:
        found: Outcomes.
        titles: Of the maps, by row and column, in the order in which they are drawn.
    """
    from matplotlib.figure import Figure

    maps = {cell: map_of(found[cell]) for cell in titles if cell in found and map_of(found[cell]) is not None}
    lines = max(1, -(-len(maps) // 3))
    figure = Figure(figsize=(9.0, 0.6 + 2.8 * lines), layout="constrained")
    panels: Any = figure.subplots(lines, 3, squeeze=False).flat
    images: list[Any] = []
    for axes, (cell, values) in zip(panels, maps.items(), strict=False):
        images.append(axes.imshow(values, vmin=0, vmax=1, origin="lower", cmap="viridis"))
        axes.set(xlabel="block of the unshared network", ylabel="block")
        axes.set_title(titles[cell], color=INK, fontsize=10)
    for axes in figure.axes:
        quiet(axes)
    for axes in figure.axes[len(maps) :]:
        axes.set_axis_off()
    if images:
        bar = figure.colorbar(images[-1], ax=figure.axes, shrink=0.7, label="linear CKA")
        bar.outline.set_visible(False)  # type: ignore[operator]  # a spine
        quiet(bar.ax)
    return figure


def map_of(outcomes: Outcomes) -> list[list[float]] | None:
    """The mean over seeds of the similarities, or nothing if there are none."""
    seeds = [
        [[torch.nan if x is None else x for x in row] for name, row in one.curves.items() if name.startswith(BLOCK)]
        for one in outcomes.values()
    ]
    held = [torch.tensor(values) for values in seeds if values]
    return torch.stack(held).mean(0).tolist() if held else None
