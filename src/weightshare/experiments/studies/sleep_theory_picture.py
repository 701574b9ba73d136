"""The picture of a sleep: `−log SNR` over inputs, a panel for each kernel size, beside what theory says."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weightshare.analysis.pictures import COLOURS, INK
from weightshare.experiments.studies.regression_picture import LOOK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_sleep(data: Mapping[str, Any]) -> "Figure":
    """Draw the curves of a figure.

    Args:
        data: What `sleep_figure` returns.

    Returns:
        A matplotlib figure: a panel for each kernel size, a colour for each `γ`; dotted, theory. Dashed, with the
        circuit, theory with the time that rates take, and with the biased update the limit for infinite inhibition.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    config = data["config"]
    kernels, gammas = config["kernels"], config["gammas"]
    colours = dict(zip(gammas, (COLOURS[0], COLOURS[1], COLOURS[2], *COLOURS[3:]), strict=False))
    biased = config["alpha"] is not None
    dashed, name = (
        ("presented", "the same with rates that lag, 150 ms each")
        if config["neural"]
        else ("limit", "limit without bias")
    )
    with rc_context(LOOK):
        figure = Figure(figsize=(9.6, 3.9), layout="constrained")
        panels = figure.subplots(1, len(kernels), sharey=True, squeeze=False)[0]
        for axes, kernel in zip(panels, kernels, strict=True):
            for cell in (cell for cell in data["cells"] if cell["kernel"] == kernel):
                colour = colours[cell["gamma"]]
                axes.plot(data["times"], cell["curve"], color=colour, lw=1.6)
                axes.axhline(cell["theory"], color=colour, lw=1.2, ls=":")
                if biased:
                    axes.axhline(cell[dashed], color=colour, lw=1.0, ls="--", alpha=0.7)
            axes.set_title(f"kernel {kernel}×{kernel}: {kernel**2} inputs")
            axes.grid()
            axes.margins(x=0.01)
        panels[0].set_ylabel("−log SNR of the weights (natural log)")
        figure.supxlabel(
            "iteration (input of 150 ms)" if config["neural"] else "iteration (input)", fontsize=9, color=INK
        )
        lines = [Line2D([], [], color=colours[gamma], lw=1.6, label=f"γ = {gamma:g}") for gamma in gammas]
        aim = f"fixed point with α = {config['alpha']:g}" if biased else "fixed point"
        lines.append(Line2D([], [], color=INK, lw=1.2, ls=":", label=aim))
        if biased:
            lines.append(Line2D([], [], color=INK, lw=1.0, ls="--", label=name))
        figure.legend(handles=lines, loc="outside upper center", ncols=len(lines))
    return figure
