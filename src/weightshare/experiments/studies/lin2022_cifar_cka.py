"""SPIN's figures 3 and 4 in small: which layers of a tied network compute what layers of the unshared one compute?

Linear CKA between the outputs of all blocks of a network and all blocks of the unshared network, on test images. The
paper finds no pattern for networks tied from scratch, and a clear one after weight fusion. What two unshared networks
of different seeds have in common stands beside it, and what the unshared one has in common with itself trained on.

Source: Lin 2022, supplement F.2, figures 3 and 4. Differs: the networks of `lin2022_cifar`; no share rate of 8, which
would leave one layer; the two comparisons of unshared networks are ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from weightshare._table import render
from weightshare.analysis.pictures import INK, quiet
from weightshare.depth.cka import cka
from weightshare.depth.measure import Similarity
from weightshare.experiments.studies.lin2022_cifar import PAPER, TABLE, config
from weightshare.experiments.studies.results import save_png
from weightshare.files.atomic import write_json
from weightshare.training.data import load_data
from weightshare.training.environment import environment
from weightshare.training.run import trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "tied at rate 2": ("tied-2", 0),
    "tied at rate 4": ("tied-4", 0),
    "unshared, another seed": ("unshared", 1),
    "fused at rate 2": ("fused-2", 0),
    "fused at rate 4": ("fused-4", 0),
    "unshared, trained on": ("unshared-again", 0),
}
"""For each panel its row, and which of the seeds it has; all are compared with the unshared network of the first."""
IMAGES, BATCHES = 1024, 4
COLUMNS = ("network", "same layer", "other layers", "highest at own layer")


def draw_cka(
    out: str | Path,
    results: str | Path,
    seeds: tuple[int, int] = (0, 1),
    data: str = "cifar10",
    data_dir: str | None = None,
    echo: Callable[[str], None] = print,
) -> dict[str, Similarity]:
    """Compare trained networks of `cifar` layer by layer, and write numbers and the picture.

    Args:
        out: Where the finished run directories are.
        results: Folder of results.
        seeds: That of the networks, and another one.
        data: What they were trained on.
        data_dir: Where it lies.
        echo: Gets a table as text.

    Returns:
        For each panel the similarities: rows are blocks of its network, columns those of the unshared one.

    Raises:
        SharingError: If a run is missing or not finished.
    """
    unshared = _network("unshared", seeds[0], out, data, data_dir)
    batches = _batches(data, data_dir)
    found = {
        title: cka(_network(row, seeds[which], out, data, data_dir), unshared, batches)
        for title, (row, which) in PANELS.items()
    }
    folder = Path(results) / PAPER / TABLE
    made = {"figure": "cka", "seeds": list(seeds), "images": IMAGES, "environment": environment()}
    values = {title: [[round(x, 5) for x in row] for row in one.values.tolist()] for title, one in found.items()}
    write_json(folder / "cka.json", made | {"cka": values})
    save_png(picture({title: one.values for title, one in found.items()}), folder / "cka.png")
    echo(table({title: one.values for title, one in found.items()}))
    return found


def table(found: Mapping[str, Tensor]) -> str:
    """Mean similarity of a block to the same block of the unshared network and to others, as a text table."""
    rows = []
    for title, values in found.items():
        same = values.diagonal()
        others = (values.sum() - same.sum()) / (values.numel() - len(same))
        own = int((values.argmax(1) == torch.arange(len(values))).sum())
        rows.append((title, f"{same.mean():.3f}", f"{others:.3f}", f"{own} of {len(values)}"))
    return render(COLUMNS, rows, numbers=COLUMNS[1:])


def picture(found: Mapping[str, Tensor]) -> "Figure":
    """Heat maps with one scale from 0 to 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.2), layout="constrained")
    panels: Any = figure.subplots(2, 3).flat
    images: list[Any] = []
    for axes, (title, values) in zip(panels, found.items(), strict=True):
        images.append(axes.imshow(values.numpy(), vmin=0, vmax=1, origin="lower", cmap="viridis"))
        axes.set(xlabel="block of the unshared network", ylabel="block")
        axes.set_title(title, color=INK, fontsize=10)
        quiet(axes)
    bar = figure.colorbar(images[-1], ax=figure.axes, shrink=0.7, label="linear CKA")
    bar.outline.set_visible(False)
    quiet(bar.ax)
    return figure


def _network(row: str, seed: int, out: str | Path, data: str, data_dir: str | None) -> nn.Module:
    model, _ = trained(config(row, seed, out, data, data_dir).out)
    return model


def _batches(data: str, data_dir: str | None) -> list[Tensor]:
    """Test images as networks see them, from the whole set evenly: it may be ordered by class."""
    whole = load_data(data, data_dir)
    learnt = config("unshared", 0, "unused", data, data_dir).prepare(whole).train
    split = replace(whole.test, mean=learnt.mean, std=learnt.std)  # type: ignore[arg-type]
    rows = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).long()
    return [split.normalised(images) for images, _ in split.batches([rows[at::BATCHES] for at in range(BATCHES)])]
