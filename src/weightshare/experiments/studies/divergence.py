"""Figure 6: between sleep phases kernels move apart, each phase brings them back, and a high rate moves them further.

The first steps of a training with `ws(10)` at three learning rates. After every step `−log SNR_w` (equation 6) of each
layer's kernels, averaged over layers of several modules: over all positions; and within modules, where it is −∞ after a
sleep. Equation 6 is a mean of ratios, so weights that hardly change, such as those of dead units, count most.

Source: Pogodin 2021, figure 6 and appendix B. Differs: the text leaves open which steps are shown, and whether over all
positions or within modules; here both, of the first steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.errors import ConfigError
from weightshare.experiments.jobs import Outcome, Place, Training, measured
from weightshare.experiments.table import Found
from weightshare.space.lattice import Lattice
from weightshare.space.layer import LocalLayer
from weightshare.space.measure import space_sharing
from weightshare.training.data import Data, load_data
from weightshare.training.launch import launched
from weightshare.training.loop import fit
from weightshare.training.recipe import RunConfig
from weightshare.training.run import prepared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVERY, STEPS = 10, 60
RATES = {"lr0.0005": 5e-4, "lr0.005": 5e-3, "lr0.05": 5e-2}
CURVES = {"over": "over positions", "within": "within modules"}


@dataclass(frozen=True)
class Divergence(Training):
    """The first steps of a training, with `−log SNR_w` of its local layers after each.

    Args:
        steps: How many; a multiple of the steps between two sleeps shows whole periods.
    """

    steps: int = STEPS

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"steps": self.steps}

    def agrees(self, held: Mapping[str, Any]) -> bool:
        rest = {key: value for key, value in held.items() if key != "steps"}
        whole = Training(self.settings, self.row, self.column, self.deltas)
        return held.get("steps") == self.steps and whole.agrees(rest)

    def work(self, seeds: Sequence[int], place: Place) -> dict[int, Outcome]:
        return {seed: self._measured(self.resolved(seed, place)) for seed in seeds}

    def _measured(self, settings: RunConfig) -> Outcome:
        with measured() as cost:
            curves = diverging(settings, self.steps)
        return Outcome(_metrics(curves), {}, curves, cost["seconds"], None, cost["machine"])


def diverging(settings: RunConfig, steps: int) -> Mapping[str, list[float | None]]:
    """`−log SNR_w` after each of the first steps of a training, over all positions and within modules; `None` for −∞.

    Args:
        settings: The training; its learning rate stays what it is.
        steps: How many.

    Raises:
        ConfigError: If there are too few images.
    """
    data = _enough(settings, steps)
    model, _ = prepared(settings, data)
    # A layer of one module, of 1×1 kernels, is a convolution after a sleep: −∞, which has no place in a mean.
    layers = [one for one in model.modules() if isinstance(one, LocalLayer) and Lattice().assignment(one).slots > 1]
    curves: dict[str, list[float | None]] = {name: [] for name in CURVES}

    def measure(*_: object) -> None:
        ratios = [space_sharing(layer) for layer in layers]
        for name, values in (("over", [r.all for r in ratios]), ("within", [r.within for r in ratios])):
            logs = [-math.log(value) for value in values if math.isfinite(value) and value > 0]
            curves[name].append(round(sum(logs) / len(logs), 4) if logs else None)

    recipe = replace(settings.train, epochs=1, milestones=[])
    handle = register_optimizer_step_post_hook(measure)  # runs after those of the optimizer itself, so after a sleep
    try:
        torch.manual_seed(settings.seed)
        fit(model, data, recipe, settings.seed, fabric=launched(settings), label=f"rate {recipe.lr:g}")
    finally:
        handle.remove()
    return curves


def _enough(settings: RunConfig, steps: int) -> Data:
    """As many images as the steps need, so that one epoch is all of them."""
    found = settings.prepare(load_data(settings.data, settings.data_dir, settings.image_size))
    need = steps * settings.train.batch_size // settings.train.augment.repeats
    if len(found.train) < need:
        raise ConfigError(f"{found.name} has {len(found.train):,} images, need {need:,} for {steps} different batches.")
    rows = torch.randperm(len(found.train), generator=torch.Generator().manual_seed(settings.seed))[:need]
    part: Any = found.train
    few: Any = found.test  # fit measures on test images after the epoch, which nobody asks for
    train = replace(part, images=part.images[rows], labels=part.labels[rows])
    return replace(found, train=train, test=replace(few, images=few.images[:2], labels=few.labels[:2]))


def _metrics(curves: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """How far kernels are apart right before the last sleep, and right after it."""
    last = (len(curves["over"]) - 1) // EVERY * EVERY
    shown = {"before": ("over", last - 1), "after": ("over", last), "within-before": ("within", last - 1)}
    values = {name: curves[curve][at] for name, (curve, at) in shown.items()}
    return {name: value for name, value in values.items() if value is not None}


def draw_divergence(found: Found) -> "Figure":
    """A panel for each rate, the first run of each; sleeps are where the curve within modules is interrupted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    panels: Any = figure.subplots(1, len(RATES), sharey=True)
    for axes, (row, rate) in zip(panels, RATES.items(), strict=True):
        outcomes = found.get((row, ""), {})
        curves = outcomes[min(outcomes)].curves if outcomes else {}
        for (name, label), colour in zip(CURVES.items(), COLOURS, strict=False):
            shown = [math.nan if value is None else value for value in curves.get(name, [])]
            axes.plot(range(1, len(shown) + 1), shown, color=colour, label=label, lw=1.3)
        axes.set(title=f"learning rate {rate:g}", xlabel="step")
        axes.title.set(fontsize=10, color=INK)
        axes.grid(alpha=0.25, lw=0.6)
        quiet(axes)
    panels[0].set_ylabel("−log SNR")
    panels[0].legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure
