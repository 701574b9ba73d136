"""Commands about many runs: sweeps, the demo, and published figures."""

from pathlib import Path
import sys
from typing import Annotated

import typer

from weightshare.cli.commands import app
from weightshare.cli.options import DataDir, pairs, present
from weightshare.training.recipe import read_yaml, strict


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="A YAML file: base, grid, metric, ...; see docs/sweep.md.")],
    grid: Annotated[
        list[str] | None,
        typer.Option(help="KEY=[VALUE,...], may be repeated: what varies, over what the file says of that key."),
    ] = None,
    concurrent: Annotated[int | None, typer.Option(help="How many runs at a time.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; this machine by default.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder; a sweep that was stopped goes on there.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try runs again that failed before.")] = False,
) -> None:
    """Train with many settings side by side on Ray, and write a page that compares them."""
    from weightshare.training.sweep import PAGE, SweepConfig
    from weightshare.training.sweep import sweep as run_sweep
    from weightshare.training.workplace import Stopped

    settings = read_yaml(config)
    over_file = pairs(grid, "--grid", dotted=True)
    if over_file:
        settings["grid"] = {**(settings.get("grid") or {}), **over_file}
    settings |= present(concurrent=concurrent, address=address, out=out)
    given = strict(SweepConfig, settings)
    try:
        found = run_sweep(given, retry=retry)
    except (KeyboardInterrupt, Stopped) as stop:
        print(f"{str(stop) or 'Stopped.'} Go on with the same command.", file=sys.stderr)
        sys.exit(stop.status if isinstance(stop, Stopped) else 130)
    print(f"Page: {Path(given.out) / PAGE}")
    bad = [one for one in found if one.status in ("failed", "unfinished")]
    if bad:
        print(f"{len(bad)} of {len(found)} runs failed: see the page. Try them again with --retry.", file=sys.stderr)
        sys.exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where runs, results and the page go.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings of each network.")] = 3,
) -> None:
    """Halve a ConvMixer on real handwritten digits: plain, tied from scratch, tied from the trained one."""
    from weightshare.experiments.studies.digits import demo as run_demo

    run_demo(out, range(seeds))


@app.command()
def figure(
    name: Annotated[
        str,
        typer.Argument(
            help="4A, 4B, 5A, 5B or 6, of Pogodin 2021; search-space, of Lin 2022; shortest-paths or "
            "shortest-paths-few, of Savarese 2019."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of results; a folder of the paper is made in it.")] = Path(
        "results"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="How many runs.")] = 10,
    input_mean: Annotated[float, typer.Option(help="Mean of the inputs; the text of Pogodin 2021 has 1.")] = 0.0,
    data: Annotated[str | None, typer.Option(help="Of figure 6: images to train on, cifar10 by default.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a figure of a paper again: its curves beside theory, as numbers and as a picture."""
    from weightshare.experiments.studies.figures import figure as make_figure

    options = present(data=data, data_dir=data_dir)
    numbers, picture = make_figure(name, out, seeds=range(seeds), input_mean=input_mean, **options)
    print(f"{numbers}\n\nPicture: {picture}")
