"""A sweep without Ray: each run is carried out once, whatever stops it, and its directory says how it went."""

import json

import pytest

from weightshare.cli import main
from weightshare.errors import ConfigError, FileError, TrainingError
from weightshare.training import sweep as module
from weightshare.training.recipe import strict
from weightshare.training.run import rewrite_page as rewrite_run
from weightshare.training.run import run
from weightshare.training.sweep import SweepConfig, read_sweep, rewrite_page, sweep
from weightshare.training.sweep_plan import planned
from weightshare.training.sweep_ray import _refuse_without_room, _scheduler
from weightshare.training.sweep_runs import (
    ATTEMPTS,
    FAILED,
    STOPPED_EARLY,
    Found,
    carry_out,
    end_early,
    forgive,
    look,
)

TINY = {"model": "convmixer:4/2/2/3", "device": "cpu", "prepare": {"fraction": 0.1}, "train": {"epochs": 3}}


def config(out, **changes):
    return strict(SweepConfig, {"base": TINY, "grid": {"train.lr": [0.01, 0.1]}, "out": str(out), **changes})


class Killed(BaseException):
    """What no handler catches."""


def killed(_):
    raise Killed


@pytest.fixture
def one(tmp_path):
    return planned(config(tmp_path / "sweep"))[0]


def events(planned_run):
    return [json.loads(line)["event"] for line in (planned_run.folder / ATTEMPTS).read_text().splitlines()]


@pytest.fixture
def here(monkeypatch):
    """Runs one after the other in this process instead of on Ray; how many there were."""
    count = []

    def on_ray(settings, found, ended):
        for waiting in found:
            if waiting.status in ("waiting", "unfinished"):
                count.append(waiting.planned.name)
                carry_out(waiting.planned)
                ended(waiting.planned)

    monkeypatch.setattr(module, "on_ray", on_ray)
    return count


def test_a_run_is_finished_once_however_often_it_is_asked_for(one):
    assert look(one).status == "waiting"
    with pytest.raises(Killed):
        carry_out(one, killed)
    assert (look(one).status, len(look(one).history)) == ("unfinished", 1)
    for _ in range(3):
        found = carry_out(one)
        assert (found.status, found.attempts, found.finishes) == ("finished", 2, 1)
    assert events(one) == ["started", "started", "finished"]
    assert found.summary == run(one.config)


def test_a_run_that_was_killed_behind_its_summary_is_counted(one):
    run(one.config)
    assert look(one).finishes == 0
    assert carry_out(one).finishes == 1
    assert events(one) == ["finished"]


def test_a_run_that_fails_says_why_and_is_left_alone_until_it_is_forgiven(tmp_path):
    bad = planned(config(tmp_path, base={**TINY, "train": {"epochs": 2, "clip": None}}, grid={"train.lr": [1e30]}))[0]
    found = carry_out(bad)
    assert found.status == "failed"
    assert "it diverged" in found.error
    assert "Traceback" in json.loads((bad.folder / FAILED).read_text())["traceback"]
    assert carry_out(bad).attempts == 1
    forgive(bad)
    assert carry_out(bad).attempts == 2
    assert events(bad) == ["started", "failed", "started", "failed"]


def test_a_run_that_is_told_to_end_is_finished_early_and_readable(one):
    end_early(one, 1)
    found = carry_out(one)
    assert (found.status, len(found.history), found.summary["stopped_early"]) == ("stopped early", 1, True)
    assert rewrite_run(one.folder).is_file()
    assert carry_out(one).finishes == 1


def test_who_asks_between_epochs_may_end_a_run(one):
    found = carry_out(one, lambda rows: len(rows) == 2)
    assert (found.status, len(found.history)) == ("stopped early", 2)
    assert json.loads((one.folder / STOPPED_EARLY).read_text()) == {"epoch": 2}


def test_a_damaged_record_is_said(one):
    one.folder.mkdir(parents=True)
    (one.folder / ATTEMPTS).write_text('{"event": "started"}\n{"ev')
    with pytest.raises(FileError, match="it only counts"):
        look(one)


def test_halving_tells_the_worse_run_to_end_and_remembers_what_is_done(tmp_path):
    runs = planned(config(tmp_path, grid={"seed": [0, 1, 2, 3]}))
    settings = config(tmp_path, grid={"seed": [0, 1, 2, 3]}, asha={"grace_epochs": 1, "reduction": 2})
    rows = [[{"epoch": at, "test_accuracy": 0.1 * seed} for at in (1, 2)] for seed in range(4)]
    done = Found(runs[2], "finished", rows[2])
    scheduler = _scheduler(settings, [Found(runs[0], "waiting"), Found(runs[1], "waiting"), done])

    class Trial:
        def __init__(self, number):
            self.trial_id, self.config = str(number), {"name": runs[number].name}

    for number in (0, 1):
        scheduler.on_trial_add(None, Trial(number))
    for number in (1, 0):
        assert scheduler.on_trial_result("controller", Trial(number), rows[number][0]) == "CONTINUE"
    assert [(one.folder / STOPPED_EARLY).exists() for one in runs] == [True, True, False, False]
    assert _scheduler(config(tmp_path), []) is None


def test_a_sweep_goes_on_where_it_was_and_its_page_compares(tmp_path, here):
    settings = config(tmp_path / "a b", grid={"train.lr": [0.01, -1.0, 0.1]})
    with pytest.raises(Killed):
        carry_out(planned(settings)[0], killed)
    said = []
    found = sweep(settings, echo=said.append)
    assert [one.status for one in found] == ["finished", "failed", "finished"]
    assert [one.attempts for one in found] == [2, 0, 1]
    assert len(said) == 2
    assert said[1].startswith("3 of 3 runs have ended. lr=0.1: finished, test_accuracy 0.")
    page = (tmp_path / "a b" / "index.html").read_text()
    assert "train.lr=-1.0: need above 0" in page
    assert 'href="lr%3D0.01/report.html"' in page
    assert (tmp_path / "a b" / "lr=0.01" / "report.html").is_file()

    again = sweep(settings, echo=said.append)
    assert again == found
    assert len(here) == len(said) == 2
    rewritten = rewrite_page(tmp_path / "a b")
    assert rewritten.read_text() == page


def test_a_page_is_there_before_any_run_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "on_ray", killed_on_ray)
    with pytest.raises(Killed):
        sweep(config(tmp_path))
    assert "No run has ended yet." in (tmp_path / "index.html").read_text()


def killed_on_ray(settings, found, ended):
    raise Killed


def test_what_failed_is_tried_again_when_asked(tmp_path, here):
    settings = config(tmp_path, base={**TINY, "train": {"epochs": 1, "clip": None}}, grid={"train.lr": [1e30]})
    for retry, tried in ((False, 1), (False, 1), (True, 2)):
        assert [one.status for one in sweep(settings, str, retry)] == ["failed"]
        assert len(here) == tried


def test_a_folder_of_other_runs_is_refused_before_anything_is_touched(tmp_path, here):
    sweep(config(tmp_path), echo=str)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=r"holds another run: train\.epochs is 3 there and 2 here"):
        sweep(config(tmp_path, base={**TINY, "train": {"epochs": 2}}), echo=str)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    more = sweep(config(tmp_path, grid={"train.lr": [0.1, 0.05]}), echo=str)  # a value more, one less
    assert [one.attempts for one in more] == [1, 1]


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'weightshare\[sweep\]'"):
        sweep(config(tmp_path))


def test_options_go_over_the_file(tmp_path, here, capsys):
    file = tmp_path / "sweep.yaml"
    file.write_text("base: {model: convmixer:4/2/2/3, device: cpu, prepare: {fraction: 0.1}, train: {epochs: 1}}\n")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", str(file), "--grid", "train.lr=[0.01, -1]", "--concurrent", "2", "--out", str(out)])
    assert stopped.value.code == 1
    told = capsys.readouterr()
    assert f"Page: {out / 'index.html'}" in told.out
    assert "1 of 2 runs failed" in told.err
    assert (read_sweep(out / "sweep.yaml").concurrent, here) == (2, ["lr=0.01"])


def test_a_folder_without_a_sweep_is_said(tmp_path):
    with pytest.raises(TrainingError, match="is no sweep"):
        rewrite_page(tmp_path)


def test_ray_that_does_not_start_is_started_again_and_then_given_up(tmp_path, monkeypatch):
    import ray

    tried = []

    def busy(**options):
        tried.append(options)
        raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", busy)
    with pytest.raises(ConfigError, match="Ray cannot be had on this machine: The current node timed out"):
        sweep(config(tmp_path, concurrent=3, cpus=2))
    assert [options["num_cpus"] for options in tried] == [6, 6, 6]
    with pytest.raises(ConfigError, match="Ray cannot be had at address='nowhere:1'"):
        sweep(config(tmp_path, address="nowhere:1"))
    assert tried[-1]["address"] == "nowhere:1"


def test_a_run_that_no_node_has_room_for_is_refused_instead_of_waited_for(tmp_path):
    nodes = [{"Alive": True, "Resources": {"CPU": 4}}, {"Alive": False, "Resources": {"CPU": 64, "GPU": 8}}]
    _refuse_without_room(config(tmp_path, cpus=4), nodes)
    for needed in ({"cpus": 5}, {"gpus": 0.5}):
        with pytest.raises(ConfigError, match="the most are 4 CPUs and 0 GPUs"):
            _refuse_without_room(config(tmp_path, **needed), nodes)
