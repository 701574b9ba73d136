"""Commands about many runs: sweeps, the demo, and the papers' tables and figures."""

from importlib.metadata import version
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from weightshare._table import render
from weightshare.cli.commands import app
from weightshare.cli.options import DataDir, pairs, present
from weightshare.training.recipe import read_yaml, strict

if TYPE_CHECKING:
    from weightshare.experiments.jobs import Scale
    from weightshare.experiments.papers import State

Results = Annotated[Path, typer.Option(help="Folder of results.")]


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
def papers(
    paper: Annotated[str | None, typer.Argument(help="One paper alone, such as pogodin2021.")] = None,
    results: Results = Path("results"),
) -> None:
    """List every table and figure of the papers, and how much of it is there at each scale."""
    from weightshare.experiments.papers import PAPERS, states

    found = states(results, version("weightshare"), paper)
    rows = [(one.table.name, one.table.title, one.cells, *(_share(one, scale) for scale in one.made)) for one in found]
    columns = ("name", "what it shows", "cells", "smoke", "small", "paper")
    for key, title in PAPERS.items():
        if paper in (None, key):
            print(f"{title}\n\n{render(columns, [row for row in rows if row[0].startswith(key)], columns[2:])}\n")
    print("Make one with: weightshare reproduce NAME --scale small")


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="Such as pogodin2021/table4; see: weightshare papers")],
    scale: Annotated[str, typer.Option(help="smoke takes seconds, small under an hour, paper is for GPUs.")] = "small",
    rows: Annotated[str | None, typer.Option(help="Rows with commas between them; all by default.")] = None,
    columns: Annotated[str | None, typer.Option(help="Columns, likewise.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each cell; the table's own number by default.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes at once; by default one for each core.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SOURCE, may be repeated: a packed file or a folder instead of a named data set."),
    ] = None,
    data_dir: DataDir = None,
    deltas: Annotated[
        Path | None, typer.Option(help="A YAML file of dotted keys: your own changes, whose results are kept apart.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of these changes; results go to SCALE+NAME.")] = "",
    results: Results = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder of run directories.")] = Path("runs/reproduce"),
) -> None:
    """Make what is missing of a table or figure, and print it beside the paper's numbers; once stopped, it goes on."""
    from weightshare.experiments.papers import table_named
    from weightshare.experiments.reproduce import Request, found_of
    from weightshare.experiments.reproduce import reproduce as make
    from weightshare.experiments.table import checked_scale
    from weightshare.experiments.view import text_table
    from weightshare.training.workplace import Stopped

    request = Request(
        table,
        checked_scale(scale),
        rows=_listed(rows),
        columns=_listed(columns),
        seeds=seeds,
        results=results,
        out=out,
        workers=workers,
        data=pairs(data, "--data", dotted=True),
        data_dir=data_dir,
        deltas=None if deltas is None else read_yaml(deltas),
        name=name,
    )
    try:
        make(request)
    except (KeyboardInterrupt, Stopped) as stop:
        print(f"Stopped: what was done is kept. Go on with the same command. ({stop})", file=sys.stderr)
        sys.exit(stop.status if isinstance(stop, Stopped) else 130)
    print(text_table(table_named(table), found_of(request, version("weightshare"))))


@app.command()
def site(
    results: Results = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder of the pages.")] = Path("site"),
) -> None:
    """Write pages from results: each table and figure beside its paper, trade-offs, how to make each again."""
    from weightshare.experiments.site import build

    pages = build(results, out, version("weightshare"))
    print(f"{len(pages)} pages. Open {pages[0]}")


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _share(state: "State", scale: "Scale") -> str:
    made, cells = state.made[scale], state.cells
    return "" if not made else "all" if made == cells else f"{made:.3g}"
