"""Tables, their files and the runner: what is made, what counts, what is kept apart, and what survives a kill."""

import contextlib
from dataclasses import replace
import json
import math
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest
import torch

import weightshare
from weightshare.errors import ConfigError, Diverged, FileError, TrainingError
from weightshare.experiments import memory, papers
from weightshare.experiments import reproduce as runner
from weightshare.experiments.cells import Cell, Source
from weightshare.experiments.jobs import Calculation, Outcome, Place, Training, with_deltas
from weightshare.experiments.papers import kept, states
from weightshare.experiments.printed import Printed
from weightshare.experiments.reproduce import Request, found_of, reproduce
from weightshare.experiments.table import Metric, Table, no_job, single
from weightshare.experiments.view import text_table, values
from weightshare.training.environment import environment
from weightshare.training.recipe import Recipe, RunConfig

CLEAN = {**environment(), "commit": "0" * 40, "dirty": False}
TIMES = ("seconds", "environment")


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Results of these tests count, whatever the tree is like that they are run in."""
    monkeypatch.setattr(runner, "environment", lambda: CLEAN)
    monkeypatch.setattr("weightshare.experiments.jobs.environment", lambda: CLEAN)


def drawn(seed, offset, scale=1.0):
    """A calculation whose numbers can be told."""
    return Outcome({"sum": offset + scale * seed, "other": 2.0}, {"stored": 7}, {"line": [1.0, math.nan]})


def settings(seed, runs):
    return RunConfig("convmixer:4/2/2/3", data="digits", train=Recipe(epochs=3, batch_size=64), seed=seed)


def job(row, column, scale):
    if row == "trained":
        return Training(settings, row, deltas={"train.epochs": 1, "prepare.fraction": 0.2} if scale == "smoke" else {})
    return Calculation(drawn, {"offset": 10.0 if row == "high" else 1.0}, printed={"offset": 10.0})


def made(**changes):
    """A table of two calculations and a training."""
    metrics = {
        "sum": Metric("sum", unit="", digits=1),
        "sum-diff": Metric("less low", unit="", digits=1),
        "other": Metric("other"),
        "accuracy": Metric("accuracy"),
    }
    given = {
        "name": "made/up",
        "title": "Numbers",
        "source": "nowhere",
        "rows": {"low": "low ones", "high": "high ones", "trained": "a training"},
        "columns": single(**metrics),
        "job": job,
        "printed": {
            "low": {"sum": Printed(1.5, "nowhere")},
            "high": {"sum": Printed(None, "nowhere", word="Diverged"), "other": Printed(3, "nowhere", "it is two")},
        },
        "protocol": {"smoke": "little", "small": "less", "paper": "nothing"},
        "against": "low",
    }
    return Table(**given | changes)


@pytest.fixture
def table(monkeypatch):
    """The catalogue holds the made-up table, one that is like it, and one that is computed from it."""

    def spreads(outcomes):
        sums = [one.metrics["sum"] for one in outcomes.values() if "sum" in one.metrics]
        return {0: Outcome({"sum": max(sums) - min(sums)})} if sums else {}

    one = made()
    like = made(name="made/like", rows={"high": "high ones"}, printed={}, job=no_job, like="made/up")
    derived = replace(like, name="made/spread", derived=spreads)
    catalogue = {entry.name: entry for entry in (one, like, derived)}
    monkeypatch.setattr(papers, "tables", lambda: catalogue)
    return one


@pytest.fixture
def request_of(tmp_path):
    """A request of the made-up table in an empty folder."""

    def build(**changes):
        given = {"table": "made/up", "scale": "smoke", "results": tmp_path / "results", "out": tmp_path / "runs"}
        return Request(**given | {"workers": 1} | changes)

    return build


def quiet(_):
    """Nobody listens."""


def found(request, table, scale="smoke"):
    return kept(request.results, table, scale, weightshare.__version__)


def test_cells_are_made_once_and_further_seeds_are_added(table, request_of, monkeypatch):
    asked = request_of(rows=["low", "high"])
    reproduce(asked, quiet)
    path = asked.results / "made/up/smoke/high.json"
    cell = Cell.read(path)
    assert cell.outcomes[0].metrics == {"sum": 10.0, "other": 2.0}
    assert cell.outcomes[0].curves == {"line": [1.0, None]}
    assert cell.config["offset"] == 10.0
    assert cell.changed == {}
    assert Cell.read(asked.results / "made/up/smoke/low.json").changed == {"offset": 1.0}
    before = path.read_bytes()
    worked = []

    def here(seed):
        return replace(drawn(seed, 10.0), environment=CLEAN)

    monkeypatch.setattr(runner, "work", lambda task: worked.append(task.seeds) or {s: here(s) for s in task.seeds})
    reproduce(asked, quiet)
    assert not worked
    assert path.read_bytes() == before
    reproduce(request_of(rows=["high"], seeds=3), quiet)
    assert worked == [(1,), (2,)]
    assert sorted(found(asked, table).found["high", ""]) == [0, 1, 2]


def test_a_training_runs_with_its_deltas_and_says_them(table, request_of):
    asked = request_of(rows=["trained"])
    reproduce(asked, quiet)
    cell = Cell.read(asked.results / "made/up/smoke/trained.json")
    assert cell.changed == {"train.epochs": 1, "prepare.fraction": 0.2}
    assert cell.config["train"]["epochs"] == 1
    assert not {"out", "seed", "data_dir"} & cell.config.keys()
    outcome = cell.outcomes[0]
    assert 0 < outcome.metrics["accuracy"] < 100
    assert len(outcome.curves["test_accuracy"]) == 1
    assert outcome.metrics["accuracy"] == pytest.approx(100 * outcome.curves["test_accuracy"][0], abs=1e-3)
    assert outcome.environment["peak_memory_bytes"] > 1e6


def test_a_run_of_another_protocol_makes_room(table, request_of, monkeypatch):
    asked = request_of(rows=["trained"])
    reproduce(asked, quiet)
    longer = made(
        job=lambda row, *_: replace(job(row, "", "smoke"), deltas={"train.epochs": 2, "prepare.fraction": 0.2})
    )
    monkeypatch.setattr(papers, "tables", lambda: {"made/up": longer})
    reproduce(asked, quiet)
    assert len(found(asked, longer).found["trained", ""][0].curves["test_accuracy"]) == 2
    runs = asked.out / "made/up/smoke"
    assert sorted(path.name for path in runs.glob("trained*")) == ["trained-seed0", "trained-seed0-before-1"]


def test_a_run_that_was_finished_before_says_which_code_trained_it(table, request_of):
    asked = request_of(rows=["trained"])
    reproduce(asked, quiet)
    (asked.results / "made/up/smoke/trained.json").unlink()
    path = asked.out / "made/up/smoke/trained-seed0/environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "1" * 40, "dirty": True}))
    reproduce(asked, quiet)
    held = found(asked, table)
    assert not held.found
    assert "in no commit, on top of 1111111111" in held.apart["made/up/smoke/trained.json"]


def test_own_deltas_have_a_folder_of_their_own(table, request_of):
    asked = request_of(rows=["trained"], deltas={"train.lr": 0.5}, name="fast")
    reproduce(asked, quiet)
    cell = Cell.read(asked.results / "made/up/smoke+fast/trained.json")
    assert cell.changed["train.lr"] == 0.5
    assert not found(asked, table).found
    own = found_of(asked, weightshare.__version__)
    assert own["trained", ""][0].metrics == cell.outcomes[0].metrics
    with pytest.raises(ConfigError, match="no table of trainings"):
        reproduce(request_of(rows=["low"], deltas={"train.lr": 0.5}, name="fast"), quiet)
    with pytest.raises(ConfigError, match=r"did you mean 'train\.lr'"):
        reproduce(request_of(rows=["trained"], deltas={"train.lrr": 0.5}, name="slow"), quiet)
    with pytest.raises(ConfigError, match="need both or neither"):
        request_of(deltas={"train.lr": 0.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "made/pu"}, "did you mean 'made/up'"),
        ({"rows": ["lo"]}, "no row 'lo': did you mean 'low'"),
        ({"columns": ["x"]}, "no column 'x'"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(table, request_of, changes, message):
    with pytest.raises(ConfigError, match=message):
        reproduce(request_of(**changes), quiet)


@pytest.mark.parametrize(("name", "value"), [("scale", "tiny"), ("seeds", 0), ("workers", 0)])
def test_values_that_cannot_be_are_refused(request_of, name, value):
    with pytest.raises(ConfigError, match=name):
        request_of(**{name: value})


def test_what_a_changed_tree_gives_is_kept_apart(table, request_of, monkeypatch):
    monkeypatch.setattr(runner, "environment", lambda: {**CLEAN, "dirty": True})
    monkeypatch.setattr("weightshare.experiments.jobs.environment", lambda: {**CLEAN, "dirty": True})
    asked, said = request_of(rows=["low"]), []
    reproduce(asked, said.append)
    assert "kept apart" in said[0]
    held = found(asked, table)
    assert not held.found
    ((path, why),) = held.apart.items()
    assert path == "made/up/smoke/apart/low-dirty.json"
    assert "in no commit" in why
    monkeypatch.setattr(runner, "work", lambda task: pytest.fail("it is there"))
    reproduce(asked, said.append)
    assert "nothing to do" in said[-1]


def test_another_protocol_another_version_and_damage_are_moved_apart_and_made_again(table, request_of):
    asked = request_of(rows=["low"])
    reproduce(asked, quiet)
    path = asked.results / "made/up/smoke/low.json"
    good = path.read_text()
    for number, (text, why) in enumerate(
        [
            (good.replace('"offset": 1.0', '"offset": 5.0'), "of another protocol: offset 5.0, now 1.0"),
            (good.replace(f'"weightshare": "{weightshare.__version__}"', '"weightshare": "0.0.9"'), "version 0.0.9"),
            (good[: len(good) // 2], "cut or damaged"),
            (good.replace("weightshare.cell/1", "weightshare.cell/9"), "no result of format"),
            (json.dumps([1]), "no result file"),
        ],
        1,
    ):
        path.write_text(text)
        held = found(asked, table)
        assert not held.found
        assert why in held.apart["made/up/smoke/low.json"]
        reproduce(asked, quiet)
        assert found(asked, table).found["low", ""][0].metrics["sum"] == 1.0
        assert len(list((path.parent / "apart").iterdir())) == number


def test_seeds_that_count_stay_where_others_do_not(table, request_of):
    asked = request_of(rows=["low"], seeds=2)
    reproduce(asked, quiet)
    path = asked.results / "made/up/smoke/low.json"
    cell = Cell.read(path)
    old = {**CLEAN, "packages": {"weightshare": "0.0.1"}}
    cell.outcomes[1] = replace(cell.outcomes[1], environment=old)
    cell.write(path)
    held = found(asked, table)
    assert list(held.found["low", ""]) == [0]
    assert "version 0.0.1" in held.apart["made/up/smoke/low.json"]


def test_a_run_that_diverges_is_a_result(table, request_of, monkeypatch):
    def diverge(*_, **__):
        raise Diverged("The loss is nan.")

    monkeypatch.setattr("weightshare.experiments.jobs.run", diverge)
    asked = request_of(rows=["trained"])
    reproduce(asked, quiet)
    (value,) = [
        one for one in values(table, found(asked, table).found) if one.row == "trained" and one.metric == "accuracy"
    ]
    assert math.isnan(value.ours)
    assert value.text == "diverged"
    assert value.gap is None


def test_one_that_fails_does_not_keep_others_from_being_made(table, request_of, monkeypatch):
    def sometimes(seed, offset):
        if offset == 1.0:
            raise TrainingError("the low one fails")
        return drawn(seed, offset)

    broken = made(job=lambda row, *_: Calculation(sometimes, {"offset": 10.0 if row == "high" else 1.0}))
    monkeypatch.setattr(papers, "tables", lambda: {"made/up": broken})
    asked = request_of(rows=["low", "high"])
    with pytest.raises(TrainingError, match="1 failed, 1 of 2 runs are done") as told:
        reproduce(asked, quiet)
    assert "low seed 0: the low one fails" in str(told.value)
    assert list(found(asked, broken).found) == [("high", "")]


def test_out_of_memory_says_which_batch_fits(table, request_of, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def fits_below_20(model, data, recipe, *_, **__):
        if recipe.batch_size > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("weightshare.experiments.jobs.run", full)
    monkeypatch.setattr(memory, "fit", fits_below_20)
    with pytest.raises(TrainingError, match=r"train\.batch_size=64: a batch of 16 fits"):
        reproduce(request_of(rows=["trained"]), quiet)


def test_a_full_disk_leaves_what_is_there(table, request_of, monkeypatch):
    asked = request_of(rows=["low"])
    reproduce(asked, quiet)
    before = (asked.results / "made/up/smoke/low.json").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("weightshare.files.atomic.os.replace", full)
    with pytest.raises(FileError, match=r"low\.json': No space left on device. What was there is unchanged"):
        reproduce(request_of(rows=["low"], seeds=2), quiet)
    assert (asked.results / "made/up/smoke/low.json").read_bytes() == before


def test_tables_may_hold_cells_of_others(table, request_of):
    asked = request_of(table="made/like", seeds=3)
    assert reproduce(asked, quiet) is table
    assert [path.name for path in (asked.results / "made/up/smoke").glob("*.json")] == ["high.json"]
    like, spread = papers.table_named("made/like"), papers.table_named("made/spread")
    assert len(found(asked, like).found["high", ""]) == 3
    assert found(asked, spread).found["high", ""][0].metrics == {"sum": 2.0}


def test_states_count_cells_and_shares_of_cells(table, request_of):
    reproduce(request_of(rows=["low"]), quiet)
    reproduce(request_of(rows=["low"], scale="small", seeds=1), quiet)
    one = states(request_of().results, weightshare.__version__)[0]
    assert one.cells == 3
    assert one.made["smoke"] == 1
    assert one.made["small"] == pytest.approx(1 / 3)
    assert one.made["paper"] == 0


def test_a_table_is_shown_beside_the_paper(table, request_of):
    asked = request_of(rows=["low", "high"], seeds=3)
    reproduce(asked, quiet)
    text = text_table(table, found(asked, table).found)
    lines = {line.split()[0] + " " + " ".join(line.split()[1:3]): line for line in text.splitlines() if line.strip()}
    assert "1.5" in lines["low sum 1.5"]
    assert "2.0 ± 1.0" in lines["low sum 1.5"]
    assert "+0.5" in lines["low sum 1.5"]
    assert "Diverged" in lines["high sum Diverged"]
    assert "9.0 ± 1.4" in lines["high less low"]  # of two independent means
    assert text.endswith("* it is two")


def test_deltas_are_checked():
    config = settings(0, Path("runs"))
    assert with_deltas(config, {"train.augment.crop": 2}).train.augment.crop == 2
    assert config.train.augment.crop == 0
    with pytest.raises(ConfigError, match=r"did you mean 'train\.epochs'"):
        with_deltas(config, {"train.epoch": 2})
    with pytest.raises(ConfigError, match="holds no keys"):
        with_deltas(config, {"seed.x": 2})


def test_a_source_says_why_it_does_not_count():
    assert not Source("0.1.3", "abc", False).refused("0.1.0")
    assert not Source("0.1.0").refused("0.1.0")
    assert "0.2.0" in Source("0.2.0", "abc", False).refused("0.1.0")
    assert "abc" in Source("0.1.0", "abc", True).refused("0.1.0")


def test_data_that_stands_for_a_set_is_said(tmp_path):
    place = Place(tmp_path, {"digits": "/somewhere/mine.npz"})
    taken = Calculation(lambda seed, data, data_dir: Outcome({"x": float(len(data))}), data="digits")
    assert taken.work([0], place)[0].data == "mine.npz"
    assert taken.work([0], Place(tmp_path))[0].data is None


@pytest.mark.slow
def test_a_table_that_is_killed_ends_as_one_that_is_not(tmp_path):
    """SIGKILL at growing moments, workers included; then it is left to end."""

    def command(out):
        return [
            *(sys.executable, "-m", "weightshare", "reproduce", "shakerinava2023/torus", "--scale", "smoke"),
            *("--rows", "plain,regularised", "--seeds", "2", "--workers", "2"),
            *("--results", str(tmp_path / out), "--out", str(tmp_path / f"{out}-runs")),
        ]

    before = time.monotonic()
    subprocess.run(command("whole"), check=True, capture_output=True)
    seconds = time.monotonic() - before
    kills = 0
    for part in (0.3, 0.5, 0.6, 0.7, 0.8):
        process = subprocess.Popen(command("killed"), stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(part * seconds)
        kills += process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert kills >= 2
    subprocess.run(command("killed"), check=True, capture_output=True)
    whole, killed = (_without_times(tmp_path / name) for name in ("whole", "killed"))
    assert whole == killed
    assert len(whole) == 2


def _without_times(results):
    cells = {}
    for path in sorted(results.rglob("*.json")):
        data = json.loads(path.read_text())
        for one in data["outcomes"].values():
            for key in TIMES:
                one.pop(key)
            one["numbers"].pop("images_per_second")
        cells[path.name] = data
    return cells
