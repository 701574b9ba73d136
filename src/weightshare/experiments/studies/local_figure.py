"""Figure 6: between sleep phases kernels move apart, each phase brings them back, and a high rate moves them further.

The reduced network of `local_cifar` with `ws(10)` at three learning rates. After every step `−log SNR_w` (equation 6)
of each layer's kernels, averaged over layers of several modules, over all positions; and within modules, where it is −∞
after a sleep. Equation 6 is a mean of ratios, so weights that hardly change, such as those of dead units, count most.

Source: Pogodin 2021, figure 6. Differs: network, batch and precision of `local_cifar`; the first steps of training.
"""

from collections.abc import Sequence
from dataclasses import replace
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from weightshare._table import render
from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.errors import ConfigError
from weightshare.experiments.studies.local_cifar import PAPER, config
from weightshare.experiments.studies.results import save_png
from weightshare.files.atomic import write_json
from weightshare.space.lattice import Lattice
from weightshare.space.layer import LocalLayer
from weightshare.space.measure import space_sharing
from weightshare.training.data import load_data
from weightshare.training.environment import environment
from weightshare.training.loop import fit
from weightshare.training.run import prepared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (5e-4, 5e-3, 5e-2)
STEPS = 60
Curve = dict[str, list[float | None]]


def draw_divergence(
    out: str | Path,
    seeds: Sequence[int] = (0,),
    data: str = "cifar10",
    data_dir: str | None = None,
    steps: int = STEPS,
    input_mean: float = 0.0,
) -> tuple[str, Path]:
    """Train for some steps at each rate, and write curves and the picture.

    Args:
        out: Folder of results.
        seeds: The first one is trained.
        data: CIFAR-10, or other images.
        data_dir: Where it lies.
        steps: How many.
        input_mean: Of the simulated figures; 0 here.

    Returns:
        A table, and the path of the picture.

    Raises:
        ConfigError: If `input_mean` is given, which images do not have.
    """
    if input_mean:
        raise ConfigError(f"Figure 6 is trained on images: input_mean={input_mean} is for the simulated figures.")
    curves = {rate: curve(rate, seeds[0], data, data_dir, steps) for rate in RATES}
    folder = Path(out) / PAPER / "fig6"
    made = {"figure": "6", "seed": seeds[0], "every": 10, "environment": environment()}
    written = {f"{rate:g}": rows for rate, rows in curves.items()}
    write_json(folder / "curves.json", made | {"minus_log_snr": written})
    save_png(picture(curves), folder / "divergence.png")
    return table(curves), folder / "divergence.png"


def curve(rate: float, seed: int, data: str, data_dir: str | None, steps: int = STEPS) -> Curve:
    """`−log SNR_w` after each step, `None` where it is −∞."""
    settings = config("lc-ws10", seed, "unused", data, data_dir)
    images = load_data(settings.data, settings.data_dir)
    # As many images as the steps need, so that one epoch is all of them; one more a class, as parts are rounded down.
    share = min(1.0, (steps * settings.train.batch_size + images.classes) / len(images.train))
    images = replace(settings.prepare, fraction=share)(images)
    model, _ = prepared(settings, images)
    # A layer of one module, of 1×1 kernels, is a convolution after a sleep: −∞, which has no place in a mean.
    layers = [one for one in model.modules() if isinstance(one, LocalLayer) and Lattice().assignment(one).slots > 1]
    rows: Curve = {"over positions": [], "within modules": []}

    def measure(*_: object) -> None:
        ratios = [space_sharing(layer) for layer in layers]
        for name, values in (
            ("over positions", [r.all for r in ratios]),
            ("within modules", [r.within for r in ratios]),
        ):
            logs = [-math.log(value) for value in values if math.isfinite(value) and value > 0]
            rows[name].append(sum(logs) / len(logs) if logs else None)

    recipe = replace(settings.train, epochs=1, lr=rate, milestones=[])
    handle = register_optimizer_step_post_hook(measure)  # runs after those of the optimizer itself, so after a sleep
    try:
        torch.manual_seed(seed)
        fit(model, images, recipe, seed, label=f"rate {rate:g}")
    finally:
        handle.remove()
    return rows


def table(curves: dict[float, Curve]) -> str:
    """How far kernels are apart right before a sleep, and right after one, in the last period."""
    columns = ("learning rate", "over positions: before", "after a sleep", "within modules: before")
    rows = []
    for rate, named in curves.items():
        over, within = named["over positions"], named["within modules"]
        last = (len(over) - 1) // 10 * 10
        rows.append((f"{rate:g}", _text(over[last - 1]), _text(over[last]), _text(within[last - 1])))
    return render(columns, rows, numbers=columns)


def picture(curves: dict[float, Curve]) -> "Figure":
    """A panel for each rate; sleeps are where the curve within modules is interrupted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    panels: Any = figure.subplots(1, len(curves), sharey=True)
    for axes, (rate, named) in zip(panels, curves.items(), strict=True):
        for (name, values), colour in zip(named.items(), COLOURS, strict=False):
            shown = [math.nan if value is None else value for value in values]
            axes.plot(range(1, len(shown) + 1), shown, color=colour, label=name, lw=1.3)
        axes.set(title=f"learning rate {rate:g}", xlabel="step")
        axes.title.set(fontsize=10, color=INK)
        axes.grid(alpha=0.25, lw=0.6)
        quiet(axes)
    panels[0].set_ylabel("−log SNR")
    panels[0].legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _text(value: float | None) -> str:
    return "−∞" if value is None else f"{value:.2f}"
