"""Put the committed results into docs/papers/: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

The pictures of tables are drawn, too, and lie beside their results.

python docs/refresh_papers.py
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import weightshare
from weightshare._table import render
from weightshare.experiments import markdown, papers
from weightshare.experiments.site import Part
from weightshare.experiments.studies import lin2022_cifar, lin2022_cifar_results, local_cifar, local_cifar_results
from weightshare.experiments.studies.results import Result, save_png
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
FOLDER, RESULTS = ROOT / "docs" / "papers", ROOT / "results"
PAPERS = [paper for paper in papers.PAPERS if paper != "beyond"]
SHOWN: dict[str, tuple[str, ...]] = {
    "shakerinava2023/prox-timing": ("/ratio",),
    "shakerinava2023/regression": ("/error", "/distinct", "/rand", "/steps"),
}
"""Of tables with many metrics those that are shown, by the ends of their names."""
PAIRS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "lin2022/table3": (
        "top1",
        (
            ("tied-2", "unshared"),
            ("random-mean-2", "tied-2"),
            ("first-2", "tied-2"),
            ("fused-2", "tied-2"),
            ("fused-2", "first-2"),
            ("fused-2", "unshared"),
        ),
    ),
    "savarese2019/cifar": (
        "cifar10/error",
        (
            ("swrn-28-10", "wrn-28-10"),
            ("swrn-28-10-2", "wrn-28-10"),
            ("swrn-28-10-2", "swrn-28-10"),
            ("swrn-28-14-2", "wrn-28-10"),
        ),
    ),
    "pogodin2021/table4": (
        "cifar10/top1",
        (("lc", "conv"), ("lc-reps4", "lc"), ("lc-ws1", "lc"), ("lc-ws1", "conv"), ("lc-ws10", "lc-ws1")),
    ),
    "shakerinava2023/torus": (
        "accuracy",
        (("regularised", "plain"), ("l1", "plain"), ("cnn", "regularised"), ("subgradient", "regularised")),
    ),
}
"""By table an accuracy or error, and the rows whose differences say what the paper claims."""


@cache
def _states() -> dict[str, papers.State]:
    return {one.table.name: one for one in papers.states(RESULTS, weightshare.__version__)}


def parts(name: str) -> Iterator[Part]:
    """A table at the scales that show something, the larger first."""
    state = _states()[name]
    for scale in ("paper", "small"):
        yield Part(state.table, scale, state.made[scale], RESULTS, weightshare.__version__)


def table(name: str) -> str:
    """All that is there of a table, with its picture; of one whose cells are another's the picture alone."""
    state, at = _states()[name], RESULTS / name / "picture.png"
    metrics = () if state.table.like and not state.table.derived else SHOWN.get(name)
    shown = f"../../{at.relative_to(ROOT)}" if at.is_file() else None
    if metrics == () and shown is None:
        return ""
    return "\n\n".join(one for part in parts(name) if (one := markdown.section(part, metrics, shown)))


def differences(name: str) -> str:
    """What the paper claims of a table, as differences of its rows."""
    metric, pairs = PAIRS[name]
    lead = "Differences of its rows, with a standard error that all rows have in common"
    lead += "; below 0 is better:" if _states()[name].table.metrics[metric].better == "low" else ":"
    found = (markdown.differences(part.table, part.kept.found, metric, pairs) for part in parts(name))
    return "\n\n".join(f"{lead}\n\n{one}" for one in found if one)


def earlier(paper: str, name: str, rows: list[str] | tuple[str, ...]) -> list[Result]:
    """Results of a study from before the tables."""
    return [Result.read(path) for row in rows if (path := RESULTS / paper / name / f"{row}.json").is_file()]


def torus(name: str) -> str:
    """An earlier study of the torus."""
    columns = ("row", "accuracy (%)", "spread", "distinct (%)", "zero (%)", "3×3 energy", "seeds", "seconds")
    rows = []
    for row in TORUS[name]:
        (one,) = earlier("shakerinava2023", name, [row])
        shares = [100 * one.numbers[key] if key in one.numbers else None for key in ("distinct_share", "zero_share")]
        cells = ["" if share is None else f"{share:.1f}" for share in shares]
        energy = f"{one.numbers['window_energy']:.2f}" if "window_energy" in one.numbers else ""
        spread = f"± {100 * one.spread:.2f}" if len(one.values) > 1 else ""
        seconds = f"{sum(one.seconds) / len(one.seconds):.0f}"
        rows.append((row, f"{100 * one.mean:.2f}", spread, *cells, energy, len(one.values), seconds))
    return render(columns, rows, numbers=columns[1:])


TORUS = {
    "torus": (
        "plain", "cnn", "regularised", "l1", "beta-lasso", "subgradient", "regularised-shuffled", "cnn-shuffled",
        "regularised-256",
    ),
    "torus-sweep": (
        "plain", "cnn", "strength-0.0001-1e-05", "strength-0.0003-3e-05", "strength-0.001-0.0001",
        "strength-0.003-0.0003", "strength-0.01-0.001", "rewind-0.98-strength-0.01", "rewind-0.98-strength-0.1",
        "l1-0.0001", "l1-0.001", "beta-lasso-1e-05", "beta-lasso-0.0001",
    ),
}  # fmt: skip
"""Rows of earlier studies, in the order in which they are shown."""


def written(*path: str) -> str:
    """A table that a study wrote beside its results."""
    return RESULTS.joinpath(*path).read_text(encoding="utf-8").rstrip()


def _local(name: str) -> str:
    return local_cifar_results.table(earlier("pogodin2021", name, list(local_cifar.ROWS)))


def _mixers() -> list[Result]:
    return earlier("lin2022", "cifar10", list(lin2022_cifar.ROWS))


STUDIES: dict[str, dict[str, Callable[[], str]]] = {
    "pogodin2021": {
        "table1-reduced": partial(_local, local_cifar.TABLE),
        "table1-early": partial(_local, local_cifar.WHOLE),
    },
    "lin2022": {
        "resnets": partial(written, "lin2022", "resnets", "table.txt"),
        "fusions": partial(written, "lin2022", "resnets", "fusions.txt"),
        "mixers": lambda: lin2022_cifar_results.table(_mixers()),
        "mixers-differences": lambda: lin2022_cifar_results.differences(_mixers()),
    },
    "savarese2019": {
        "cifar10": partial(written, "savarese2019", "cifar10", "table.txt"),
        "folding": partial(written, "savarese2019", "folding", "table.txt"),
        "shortest-paths": partial(written, "savarese2019", "shortest-paths", "table.txt"),
        "shortest-paths-few": partial(written, "savarese2019", "shortest-paths-few", "table.txt"),
    },
    "shakerinava2023": {"torus-200": partial(torus, "torus"), "torus-sweep": partial(torus, "torus-sweep")},
}
"""Tables of studies from before the tables of `reproduce`, as text."""


def blocks(paper: str) -> dict[str, str]:
    """What belongs between the markers that hold Markdown, by name."""
    names = [name for name, state in _states().items() if state.table.paper == paper]
    made = {state.table.key: table(name) for name, state in _states().items() if name in names and _shown(state)}
    made |= {f"{name.partition('/')[2]}-differences": differences(name) for name in PAIRS if name in names}
    tables = markdown.overview([_states()[name] for name in names])
    return {"overview": tables, "misprints": markdown.misprints(paper), **made}


def _shown(state: papers.State) -> bool:
    """Whether a table has cells of its own, or shows those of another one in another way."""
    return state.table.like is None or state.table.derived is not None or state.table.picture is not None


def filled(page: str, paper: str) -> str:
    """The page of a paper with every block as it should be."""
    page = with_blocks(page, {name: make() for name, make in STUDIES[paper].items()})
    return with_blocks(page, blocks(paper), markdown=True)


def pictures() -> None:
    """Draw the picture of each table that has one, from the largest scale of which there are cells."""
    for name, state in _states().items():
        drawn = [part for part in parts(name) if part.kept.found]
        if state.table.paper in PAPERS and state.table.picture is not None and drawn:
            (RESULTS / name).mkdir(parents=True, exist_ok=True)
            save_png(state.table.picture(drawn[0].kept.found), RESULTS / name / "picture.png")


if __name__ == "__main__":
    pictures()
    for paper in PAPERS:
        page = FOLDER / f"{paper}.md"
        page.write_text(filled(page.read_text(encoding="utf-8"), paper), encoding="utf-8")
