"""The picture of a sleep: `−log SNR` over inputs, a panel for each kernel size, beside what theory says."""

from typing import TYPE_CHECKING, Any

from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.experiments.cells import mean
from weightshare.experiments.studies.sleep_theory import GAMMAS, KERNELS, ROWS, SLEEPS
from weightshare.experiments.table import Found

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_sleep(name: str, found: Found) -> "Figure":
    """Draw the curves of a figure.

    Args:
        name: One of `SLEEPS`.
        found: Outcomes by row; rows may be missing.

    Returns:
        A matplotlib figure: a panel for each kernel size, a colour for each `γ`, means over runs; dotted, theory.
        Dashed, with the circuit, theory with the time that rates take, and with the biased update the limit for
        infinite inhibition.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    of = SLEEPS[name]
    colours = dict(zip(GAMMAS, COLOURS, strict=False))
    dashed = ("presented", "the same with rates that lag") if of.neural else ("limit", "limit without bias")
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    panels: Any = figure.subplots(1, len(KERNELS), sharey=True)
    for (row, _), outcomes in found.items():
        kernel, gamma = ROWS[row]
        axes, runs, colour = panels[KERNELS.index(kernel)], list(outcomes.values()), colours[gamma]
        points = zip(*(one.curves["minus_log_snr"] for one in runs), strict=True)
        axes.plot(runs[0].curves["inputs"], [sum(at) / len(at) for at in points], color=colour, lw=1.6)
        axes.axhline(mean(outcomes, "theory"), color=colour, lw=1.2, ls=":")
        if of.alpha is not None:
            value = sum(one.numbers[dashed[0]] for one in runs) / len(runs)
            axes.axhline(value, color=colour, lw=1.0, ls="--", alpha=0.7)
    for axes, kernel in zip(panels, KERNELS, strict=True):
        axes.set_title(f"kernel {kernel}×{kernel}: {kernel**2} inputs", fontsize=10, color=INK)
        axes.grid(alpha=0.25, lw=0.6)
        axes.margins(x=0.01)
        quiet(axes)
    panels[0].set_ylabel("−log SNR of the weights")
    figure.supxlabel("iteration (input of 150 ms)" if of.neural else "iteration (input)", fontsize=9, color=INK)
    lines = [Line2D([], [], color=colours[gamma], lw=1.6, label=f"γ = {gamma:g}") for gamma in GAMMAS]
    aim = "fixed point" if of.alpha is None else f"fixed point with α = {of.alpha:g}"
    lines.append(Line2D([], [], color=INK, lw=1.2, ls=":", label=aim))
    if of.alpha is not None:
        lines.append(Line2D([], [], color=INK, lw=1.0, ls="--", label=dashed[1]))
    keys: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK}
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), **keys)
    return figure
