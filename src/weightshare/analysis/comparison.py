"""The page that compares the runs of a sweep: what was best, how it depends on what varied, and every run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import statistics
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from weightshare.analysis.grids import Axis, Measure, draw_heat, draw_many, draw_points
from weightshare.analysis.page import Link, Section, Tile, render_page
from weightshare.analysis.pictures import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARED = "distinct_share"
NEAR = 0.05  # of the best number, within which a configuration that shares more may be the better choice
MOST_CELLS = 12  # values along a side of a heat map


@dataclass(frozen=True)
class Entry:
    """One run.

    Args:
        name: Of its directory.
        values: What was set, by short name, the seed too.
        status: `finished`, `stopped early`, `failed`, `unfinished` or `waiting`.
        history: Its rows so far.
        summary: What its `summary.json` holds, once there is one.
        error: Why it failed.
        attempts: How often it was started.
    """

    name: str
    values: Mapping[str, Any]
    status: str
    history: Sequence[Mapping[str, float]] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    attempts: int = 0

    @property
    def ended(self) -> bool:
        """Whether it has numbers to be compared."""
        return bool(self.summary)


@dataclass(frozen=True)
class Configuration:
    """The runs that differ in their seed alone."""

    values: dict[str, Any]
    runs: list[Entry]

    @property
    def name(self) -> str:
        return ", ".join(f"{key}={_plain(value)}" for key, value in self.values.items()) or "all runs"

    @property
    def whole(self) -> bool:
        """Whether all of its runs came to their end, none early."""
        return all(run.status == "finished" for run in self.runs)

    def numbers(self, metric: str) -> list[float]:
        """Of every run that has ended the last value, or what its summary says."""
        rows = [{**run.summary, **run.history[-1]} for run in self.runs if run.ended and run.history]
        return [row[metric] for row in rows if metric in row]

    def mean(self, metric: str) -> float | None:
        numbers = self.numbers(metric)
        return statistics.fmean(numbers) if numbers else None


@dataclass(frozen=True)
class Comparison:
    """The runs of a sweep, and by what they are compared.

    Args:
        runs: All of them, those that wait too.
        metric: A key of the rows of `history`.
        mode: `max` or `min`.
        seed: The key over whose values means are taken.
    """

    runs: Sequence[Entry]
    metric: str
    mode: str = "max"
    seed: str = "seed"

    @property
    def configurations(self) -> list[Configuration]:
        """In the order in which they were planned."""
        found: dict[str, Configuration] = {}
        for run in self.runs:
            values = {key: value for key, value in run.values.items() if key != self.seed}
            found.setdefault(repr(values), Configuration(values, [])).runs.append(run)
        return list(found.values())

    @property
    def ranked(self) -> list[Configuration]:
        """The best first; those without a number last."""
        sign = -1 if self.mode == "max" else 1
        held = [(one.mean(self.metric), one) for one in self.configurations]
        known = sorted(((sign * mean, at, one) for at, (mean, one) in enumerate(held) if mean is not None))
        return [one for _, _, one in known] + [one for mean, one in held if mean is None]

    @property
    def measured(self) -> list[str]:
        """The metric, and how far weights are shared: distinct values, or else stored numbers where they differ."""
        names = [self.metric]
        shares = {one.mean(SHARED) for one in self.configurations} - {None}
        stored = {one.mean("stored") for one in self.configurations} - {None}
        if self.metric != SHARED and shares:
            names.append(SHARED)
        elif len(stored) > 1:
            names.append("stored")
        return names

    @property
    def axes(self) -> list[Axis]:
        """What varies between configurations, with its values in order of appearance."""
        held = [one.values for one in self.configurations]
        found = []
        for key in held[0]:
            values = list({repr(one[key]): one[key] for one in held}.values())
            if len(values) > 1:
                found.append(Axis(key, values))
        return found

    def best(self) -> Configuration | None:
        """The best of the configurations whose runs all came to their end; of all that have a number if none did."""
        known = [one for one in self.ranked if one.mean(self.metric) is not None]
        return next((one for one in known if one.whole), known[0] if known else None)

    def fewest_near_best(self) -> Configuration | None:
        """Of the configurations that are at most 5 % worse than the best that with the fewest distinct values."""
        best = self.best()
        most = best.mean(self.metric) if best is not None else None
        if most is None:
            return None
        sign = 1 if self.mode == "max" else -1
        near = [
            (shared, at, one)
            for at, one in enumerate(self.front())
            if (shared := one.mean(SHARED)) is not None
            and sign * (most - (one.mean(self.metric) or 0.0)) <= NEAR * abs(most)
        ]
        return min(near)[2] if near else None

    def front(self) -> list[Configuration]:
        """Configurations of which none other is at least as good and has as few distinct values; the best first."""
        sign = 1 if self.mode == "max" else -1
        known = [
            (sign * mean, -shared, one)
            for one in self.ranked
            if (mean := one.mean(self.metric)) is not None and (shared := one.mean(SHARED)) is not None
        ]
        return [
            one
            for mean, shared, one in known
            if not any(m >= mean and s >= shared and (m, s) != (mean, shared) for m, s, _ in known)
        ]


def compare_page(title: str, compared: Comparison, config_text: str) -> str:
    """The page of a sweep as HTML; it may be written while runs are still missing.

    Args:
        title: Of the sweep.
        compared: Its runs.
        config_text: Its configuration as YAML.
    """
    runs, best = compared.runs, compared.best()
    ended, failed = [run for run in runs if run.ended], [run for run in runs if run.status == "failed"]
    early = sum(run.status == "stopped early" for run in runs)
    left = len(runs) - len(ended) - len(failed)
    seconds = sum(run.summary.get("training_seconds", 0.0) for run in ended)
    tiles = [
        Tile("runs", f"{len(ended)} of {len(runs)}", f"{early} ended early" if early else "finished"),
        Tile("failed", str(len(failed)), "see below" if failed else "none"),
        Tile("to come", str(left), "waiting or at work" if left else "none: the sweep is done"),
        Tile("training", f"{seconds:,.0f} s", "of all runs together"),
    ]
    if best is not None:
        mean = best.mean(compared.metric)
        assert mean is not None
        tiles.insert(0, Tile(f"best {_title(compared.metric)}", _text_of(compared.metric)(mean), best.name))
    picture = comparison_picture(compared) if ended else None
    varied = ", ".join(axis.name for axis in compared.axes) or "the seed alone"
    return render_page(
        title,
        f"{len(runs)} runs: {_title(compared.metric)} over {varied}.",
        tiles,
        [
            Section("The answer", text=" ".join(answer(compared))),
            *([Section("Over what varied", text=_KEY, picture=svg(picture, "Over what varied"))] if picture else []),
            *_table(compared),
            *_curves(compared),
            _runs(compared),
            *(Section(f"Failed: {run.name}", listing=run.error) for run in failed),
            Section("Configuration", listing=config_text, folded=True),
        ],
    )


_KEY = "Means over seeds of runs that have ended; a dash where none has."


def answer(compared: Comparison) -> list[str]:
    """In sentences which configuration is best, and what sharing costs."""
    best, metric = compared.best(), compared.metric
    if best is None:
        return ["No run has ended yet."]
    write, share = _text_of(metric), _text_of(SHARED)

    def told(one: Configuration) -> str:
        numbers, shared = one.numbers(metric), one.mean(SHARED)
        spread = f" ± {write(statistics.stdev(numbers))} over {len(numbers)} seeds" if len(numbers) > 1 else ""
        of = "" if shared is None else f", {share(shared)} of the regularised weights distinct"
        return f"{one.name} ({write(statistics.fmean(numbers))}{spread}{of})"

    said = [f"Best {_title(metric)}: {told(best)}."]
    fewest = compared.fewest_near_best()
    if fewest is not None and fewest.values != best.values:
        said.append(f"At most {NEAR:.0%} worse with the fewest distinct values: {told(fewest)}.")
    if any(not one.whole for one in compared.configurations):
        said.append("Runs that failed, ended early or have not ended yet make this an answer of some of the runs.")
    return said


def comparison_picture(compared: Comparison) -> "Figure | None":
    """Heat maps where two settings vary, or three; a line where one does; points where values were drawn."""
    axes, found, keys = compared.axes, compared.configurations, compared.measured
    if not axes:
        return None
    measures = [Measure(_title(key), _text_of(key)) for key in keys]
    cells = 1
    for axis in axes:
        cells *= len(axis.values)
    if len(axes) in (2, 3) and cells == len(found) and max(len(axis.values) for axis in axes[:2]) <= MOST_CELLS:
        held = {repr([one.values[axis.name] for axis in axes]): one for one in found}
        third = axes[2] if len(axes) == 3 else Axis("", [None])

        def table(key: str, last: Any) -> list[list[float | None]]:
            rest = [last] if len(axes) == 3 else []
            return [[held[repr([a, b, *rest])].mean(key) for b in axes[1].values] for a in axes[0].values]

        panels = [
            [(f"{third.name} {value}" if third.name else "", table(key, value)) for value in third.values]
            for key in keys
        ]
        return draw_heat(list(zip(measures, panels, strict=True)), axes[0], axes[1])
    along = [Axis(axis.name, [one.values[axis.name] for one in found]) for axis in axes]
    numbers = [(measure, [one.numbers(key) for one in found]) for measure, key in zip(measures, keys, strict=True)]
    return draw_points(numbers, along, joined=len(axes) == 1)


def _table(compared: Comparison) -> list[Section]:
    """A row for each configuration, the best first."""
    ranked = [one for one in compared.ranked if one.numbers(compared.metric)]
    if not ranked:
        return []
    keys, write = list(ranked[0].values), _text_of(compared.metric)
    several = any(len(one.runs) > 1 for one in ranked)
    shared = any(one.mean(SHARED) is not None for one in ranked) and compared.metric != SHARED
    front = [one.values for one in compared.front()] if shared else []
    columns = [*keys, _title(compared.metric), *(["± sd"] if several else [])]
    columns += [*(["distinct share"] if shared else []), "stored numbers", "epochs", "seconds", "runs ended"]
    rows = []
    for one in ranked:
        numbers = one.numbers(compared.metric)
        spread = [write(statistics.stdev(numbers)) if len(numbers) > 1 else "–"] if several else []
        distinct = one.mean(SHARED)
        mark = " ●" if one.values in front else ""
        ended = [run for run in one.runs if run.ended]
        rows.append(
            (
                *(_plain(one.values[key]) for key in keys),
                write(statistics.fmean(numbers)),
                *spread,
                *([f"{_text_of(SHARED)(distinct)}{mark}" if distinct is not None else "–"] if shared else []),
                f"{one.mean('stored'):,.0f}",
                _span([len(run.history) for run in ended]),
                f"{one.mean('training_seconds'):.0f}",
                f"{len(ended)} of {len(one.runs)}",
            )
        )
    text = "Best first; ± is the standard deviation over seeds." if several else "Best first."
    if shared:
        text += " ● no other configuration is as good with as few distinct values."
    return [Section("Configurations", text=text, columns=columns, rows=rows)]


def _curves(compared: Comparison) -> list[Section]:
    ranked = [run for one in compared.ranked for run in one.runs]
    lines = [
        (run.name, [(row["epoch"], row[compared.metric]) for row in run.history if compared.metric in row])
        for run in ranked
    ]
    lines = [(name, points) for name, points in lines if points]
    if not lines:
        return []
    text = "One line for each run; the best configurations in colours, the others grey."
    picture = svg(draw_many(lines, _title(compared.metric)), f"{_title(compared.metric)} over epochs")
    return [Section("While training", text=text, picture=picture)]


def _runs(compared: Comparison) -> Section:
    """Every run with a link to its own page, in the order in which they were planned."""
    rows = []
    for run in compared.runs:
        last = run.history[-1].get(compared.metric) if run.history else None
        rows.append(
            (
                Link(run.name, f"{quote(run.name)}/report.html") if run.ended else run.name,
                run.status,
                len(run.history),
                "–" if last is None else _text_of(compared.metric)(last),
                f"{run.summary['training_seconds']:.1f}" if run.ended else "–",
                run.attempts,
            )
        )
    columns = ("run", "state", "epochs", _title(compared.metric), "seconds", "starts")
    return Section("Runs", text="The link leads to the page of the run.", columns=columns, rows=rows)


def _title(metric: str) -> str:
    return {"stored": "stored numbers"}.get(metric, metric.replace("_", " "))


def _text_of(metric: str) -> Any:
    if metric.endswith(("accuracy", "share")):
        return "{:.2%}".format
    return "{:,.0f}".format if metric == "stored" else "{:.4g}".format


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}–{max(counts)}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
