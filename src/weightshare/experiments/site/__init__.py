"""The site: every table and figure beside its paper, made from a folder of results; nothing in it is fetched.

index.html                 what there is, at which scale, and what counts
<paper>/<table>.html       a table or figure: numbers, pictures, curves, where they come from, how to make them again
trade-offs.html            accuracy against stored numbers, over all methods
earlier.html               studies from before the tables

Pages say what files say and no more: no date, no machine that makes them. One made twice is the same to the byte.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightshare.errors import ConfigError
from weightshare.experiments import papers
from weightshare.experiments.cells import Kept
from weightshare.experiments.jobs import Scale
from weightshare.experiments.site import drawing, evidence
from weightshare.experiments.site.comparing import Compared, compared
from weightshare.experiments.site.earlier import commit_of, earlier
from weightshare.experiments.site.tradeoffs import tasks
from weightshare.experiments.table import Table
from weightshare.files.atomic import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

ORDER: tuple[Scale, ...] = ("paper", "small", "smoke")
"""Scales as they stand on a page: what shows most comes first."""
HERE = Path(__file__).parent
ASSETS = ("style.css", "copy.js")


@dataclass(frozen=True)
class Picture:
    """An inline `<svg>`, and the words under it."""

    title: str
    svg: str


@dataclass(frozen=True)
class Part:
    """A page's part on one scale; what it shows is computed when the page is made.

    Args:
        table: Which.
        scale: Which.
        made: Cells that are there, by share of their seeds.
        results: Folder of results.
        version: Of the package.
    """

    table: Table
    scale: Scale
    made: float
    results: Path
    version: str

    @cached_property
    def kept(self) -> Kept:
        return papers.kept(self.results, self.table, self.scale, self.version)

    @cached_property
    def held(self) -> Table:
        return papers.holder(self.table)

    @cached_property
    def sources(self) -> Kept:
        """The cells that the numbers come from; the same, unless they are derived."""
        return papers.kept(self.results, replace(self.table, derived=None), self.scale, self.version)

    @cached_property
    def compared(self) -> Compared:
        return compared(self.table, self.kept.found)

    @cached_property
    def apart(self) -> list[tuple[str, str]]:
        return evidence.apart(self.results, self.held, self.scale, self.kept) if self.held is self.table else []

    @cached_property
    def changes(self) -> list[evidence.Change]:
        return evidence.changes(self.held, self.scale, self.sources)

    @cached_property
    def facts(self) -> list[tuple[str, str]]:
        return evidence.facts(self.sources)

    @cached_property
    def runs(self) -> tuple[list[str], list[list[str]]]:
        return evidence.every_run(self.sources)

    @property
    def state(self) -> str:
        """How much there is, in words."""
        return share(self.made, len(self.table.cells))

    @cached_property
    def picture(self) -> Picture | str:
        """The table's own picture, or bars; or why there is none.

        Raises:
            Exception: What the table's picture raises, if all cells are there; with fewer it may well want more.
        """
        if not self.kept.found:
            return "Nothing to draw yet."
        title, name = self.table.title, f"{self.scale}-picture"
        if self.table.picture is None:
            figure = drawing.beside(self.table, self.kept.found)
            title = f"Ours (filled) beside the paper's (open): {title}"
            return "No number to draw." if figure is None else Picture(title, drawing.inline(figure, title, name))
        try:
            figure = self.table.picture(self.kept.found)
        except Exception as error:
            if self.made == len(self.table.cells):
                raise
            return f"The picture cannot be drawn from the cells that are there: {type(error).__name__}: {error}."
        return Picture(title, drawing.inline(figure, title, name))

    @cached_property
    def curves(self) -> list[drawing.Curves]:
        return list(drawing.curves(self.table, self.sources.found))

    @property
    def command(self) -> str:
        """How to make it again."""
        read = evidence.stand_ins(self.sources, self.held, self.scale)
        data = "".join(f" --data {name}=FOLDER/{file}" for name, file in sorted(read.items()))
        return f"weightshare reproduce {self.table.name} --scale {self.scale}{data}"


def build(results: str | Path, out: str | Path, version: str) -> list[Path]:
    """Write the site.

    Args:
        results: Folder of results; nothing in it is changed.
        out: Folder of the site; files of other names in it are left alone.
        version: Of the package: results of another one do not count.

    Returns:
        The pages, the index first.

    Raises:
        ConfigError: If there is no folder of results.
    """
    results, out = Path(results), Path(out)
    if not results.is_dir():
        raise ConfigError(f"There is no folder of results '{results}'. Make some with: weightshare reproduce NAME")
    states = papers.states(results, version)
    parts = {
        one.table.name: [Part(one.table, scale, one.made[scale], results, version) for scale in ORDER] for one in states
    }
    pages = {
        "index.html": ("index.html.j2", _index(states, version)),
        "trade-offs.html": ("trade-offs.html.j2", {"tasks": _tasks(parts)}),
        "earlier.html": ("earlier.html.j2", {"found": earlier(results, list(parts)), "commit_of": commit_of}),
    }
    names = list(parts)
    for at, (name, some) in enumerate(parts.items()):
        near = {"before": names[at - 1] if at else None, "after": names[at + 1] if at + 1 < len(names) else None}
        around = {"table": some[0].table, "parts": some, "papers": papers.PAPERS, **near}
        pages[f"{name}.html"] = ("table.html.j2", around)
    environment, written = _environment(), []
    for asset in ASSETS:
        write_text(_beside(out / asset), (HERE / asset).read_text(encoding="utf-8"))
    for address, (template, values) in pages.items():
        root = "../" * address.count("/")
        text = environment.get_template(template).render(root=root, address=address, **values)
        written.append(_beside(out / address))
        write_text(written[-1], text)
    return written


def share(made: float, cells: int) -> str:
    """How many cells are there, in words."""
    if not made or not cells:
        return "nothing yet"
    return f"all {cells}" if made == cells else f"{made:.3g} of {cells}"


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(HERE)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals["share"] = share
    return made


def _index(states: Sequence[papers.State], version: str) -> dict[str, Any]:
    listed = {}
    for paper, title in papers.PAPERS.items():
        of_it = [one for one in states if one.table.paper == paper]
        if of_it:
            listed[paper] = (title, of_it, _misprints(paper))
    return {"listed": listed, "version": version, "scales": ORDER}


def _misprints(paper: str) -> Mapping[str, str]:
    try:
        return import_module(f"weightshare.experiments.printed.{paper}").MISPRINTS
    except ModuleNotFoundError:  # what goes beyond the papers prints nothing
        return {}


def _tasks(parts: Mapping[str, Sequence[Part]]) -> list[dict[str, Any]]:
    held = [part for some in parts.values() for part in some if part.table.like is None and part.scale != "smoke"]
    made = []
    for (data, scale), networks in tasks((part.table, part.scale, part.kept) for part in held).items():
        groups: dict[str, list[tuple[int, drawing.Point]]] = {}
        for number, one in enumerate(networks, 1):
            groups.setdefault(one.table.name, []).append((number, one.point))
        title = f"Accuracy against stored numbers: {data}, scale {scale}"
        key = f"{data}-{scale}".replace("/", "-")
        svg = drawing.inline(drawing.trade_off(groups), title, key)
        made.append({"key": key, "data": data, "scale": scale, "networks": networks, "picture": Picture(title, svg)})
    return made


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
