"""Shortest paths in small: tiny networks through two phases, a run that is killed, and the files that are written."""

from dataclasses import asdict
import json
from pathlib import Path
import shutil

import pytest
import torch

from weightshare.depth.templates import TemplateBank
from weightshare.errors import ConfigError, TrainingError
from weightshare.experiments.studies import shortest_paths, shortest_paths_results
from weightshare.experiments.studies.figures import figure
from weightshare.experiments.studies.results import Result
from weightshare.experiments.studies.shortest_paths import (
    CHECKPOINT,
    DONE,
    FEW,
    ROWS,
    Row,
    Schedule,
    Task,
    batch_of,
    built,
    marks,
    scores,
    train,
    trained_model,
)
from weightshare.experiments.studies.shortest_paths_results import (
    beyond,
    collected,
    draw_shortest_paths,
    mean_over,
    ranges,
)

TASK = Task(phases=((1, 2), (3, 4)), size=7, longest=7, larger=11, held_out=5)
SCHEDULE = Schedule(steps=4, batch=3, warmup=2, every=3)
SMALL = {
    "plain": Row(width=5, depth=3),
    "templates-2": Row(2, width=5, depth=3),
    "templates-2-similar": Row(2, similarity=3.0, width=5, depth=3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("paths")


@pytest.fixture(scope="module")
def table(folder):
    said = []
    results = collected(folder / "runs", folder / "results", (0, 1), TASK, SCHEDULE, SMALL, said.append)
    return results, said[0]


def test_the_files_hold_what_came_out(table, folder):
    results, said = table
    at = folder / "results" / "savarese2019" / "shortest-paths"
    assert {path.name for path in at.iterdir()} == {
        *(f"{name}.json" for name in (*SMALL, "curves", "examples")),
        *("table.txt", "phases.png", "distances.png", "marks.png", "likeness.png"),
    }
    assert (at / "table.txt").read_text() == f"{said}\n"
    for picture in ("phases", "distances", "marks", "likeness"):
        data = (at / f"{picture}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 5000
    assert [result.run for result in results] == list(SMALL)
    for result in results:
        held = json.loads((at / f"{result.run}.json").read_text())
        runs = [json.loads((folder / "runs" / f"{result.run}-seed{seed}" / DONE).read_text()) for seed in (0, 1)]
        assert held["values"] == [beyond(run, "distances", TASK) for run in runs]
        assert held["numbers"]["iou_end_of_3_to_4"] == pytest.approx(sum(run["curve"][-1]["iou"] for run in runs) / 2)
        assert "seed" not in held["config"]
        assert str(folder) not in json.dumps(held)
    assert [result.numbers["stored"] for result in results] == [816, 816 - 675 + 2 * (225 + 3), 597]
    examples = json.loads((at / "examples.json").read_text())
    assert [grid["trained"] for grid in examples["grids"]] == [True, True, False, False]
    for grid in examples["grids"]:
        assert "".join(grid["truth"]).count("Q") == 2
        assert set(grid["marks"]) == set(SMALL)
        assert all(len(line) == 7 for marked in grid["marks"].values() for line in marked)


def test_a_run_measures_both_phases_at_a_change(table, folder):
    run = json.loads((folder / "runs" / "templates-2-seed1" / DONE).read_text())
    assert [(one["step"], one["phase"]) for one in run["curve"]] == [
        *((0, 0), (3, 0), (4, 0)),
        *((4, 1), (6, 1), (8, 1)),
    ]
    assert [one["distance"] for one in run["distances"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [one["distance"] for one in run["larger"]] == [2, 4, 6]
    assert all(0 <= one[key] <= 1 for one in run["distances"] for key in ("accuracy", "iou", "whole"))
    similarity = torch.tensor(run["likeness"])
    assert similarity.shape == (3, 3)
    assert run["curve"][-1]["likeness"] == pytest.approx((similarity.sum().item() - 3) / 6, abs=1e-3)
    model = trained_model("templates-2", 1, folder / "runs", SMALL)
    assert not (folder / "runs" / "templates-2-seed1" / CHECKPOINT).exists()
    (bank,) = (module for module in model.modules() if isinstance(module, TemplateBank))
    directions = torch.nn.functional.normalize(bank.coefficients.detach(), dim=1)
    torch.testing.assert_close((directions @ directions.mT).abs(), similarity, atol=1e-4, rtol=0)


def test_a_killed_run_goes_on_to_the_same_weights(table, folder, tmp_path, monkeypatch):
    drawn = shortest_paths.draw_grids

    def killed(number, size, distance, obstacles, seed):
        if seed == (1, 5):
            raise KeyboardInterrupt
        return drawn(number, size, distance, obstacles, seed)

    monkeypatch.setattr(shortest_paths, "draw_grids", killed)
    with pytest.raises(KeyboardInterrupt):
        train("templates-2-similar", 1, tmp_path, TASK, SCHEDULE, SMALL)
    monkeypatch.setattr(shortest_paths, "draw_grids", drawn)
    assert (tmp_path / "templates-2-similar-seed1" / CHECKPOINT).exists()
    torch.manual_seed(77)
    resumed = train("templates-2-similar", 1, tmp_path, TASK, SCHEDULE, SMALL)
    whole = json.loads((folder / "runs" / "templates-2-similar-seed1" / DONE).read_text())
    for key in ("config", "curve", "distances", "larger", "likeness"):
        assert resumed[key] == whole[key]
    ours, theirs = (
        trained_model("templates-2-similar", 1, at, SMALL).state_dict() for at in (tmp_path, folder / "runs")
    )
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_that_is_done_is_read(table, folder, monkeypatch):
    monkeypatch.setattr(shortest_paths, "built", None)
    run = train("plain", 0, folder / "runs", TASK, SCHEDULE, SMALL)
    assert run == json.loads((folder / "runs" / "plain-seed0" / DONE).read_text())
    with pytest.raises(TrainingError, match="Choose another folder"):
        train("plain", 0, folder / "runs", TASK, Schedule(steps=5), SMALL)
    with pytest.raises(ConfigError, match="no row 'plan': need one of plain, templates-2"):
        train("plan", 0, folder / "runs", TASK, SCHEDULE, SMALL)


def test_rows_start_alike():
    plain, shared = (built(Row(templates=k, width=5, depth=3), seed=4) for k in (0, 2))
    (bank,) = (module for module in shared.modules() if isinstance(module, TemplateBank))
    assert not any(isinstance(module, TemplateBank) for module in plain.modules())
    for layer, template in zip(plain.layers[:2], bank.templates, strict=True):
        assert torch.equal(layer.conv.weight, template)
    assert torch.equal(plain.stem.weight, shared.stem.weight)
    assert torch.equal(plain.head.weight, shared.head.weight)


def test_the_driven_layers_become_alike(table, folder):
    free, driven = (
        json.loads((folder / "runs" / f"{name}-seed0" / DONE).read_text())["curve"]
        for name in ("templates-2", "templates-2-similar")
    )
    assert free[0]["likeness"] == driven[0]["likeness"]
    assert driven[-1]["likeness"] > driven[0]["likeness"]


def test_new_grids_in_each_step_or_the_same_ones_again():
    schedule = Schedule(steps=12, batch=3)
    new = [batch_of(Row(), TASK, schedule, 5, step) for step in range(24)]
    assert len({tuple(grids.inputs.flatten().tolist()) for grids in new}) == 24
    row = Row(grids=7)
    few = [batch_of(row, TASK, schedule, 5, step) for step in range(24)]
    of_phase = [
        [tuple(grid.flatten().tolist()) for grids in few[at : at + 12] for grid in grids.inputs] for at in (0, 12)
    ]
    assert [len({*grids}) for grids in of_phase] == [7, 7]
    for grids in of_phase:
        epochs = [grids[at : at + 6] for at in range(0, 36, 6)]
        assert all(len({*epoch}) == 6 for epoch in epochs)  # none twice in an epoch, one of seven left out
        assert len({tuple(epoch) for epoch in epochs}) > 1
    assert all((grids.distances <= 2).all() for grids in few[:12])
    assert all((grids.distances >= 3).all() for grids in few[12:])
    again = batch_of(row, TASK, schedule, 5, 17)
    assert torch.equal(again.inputs, few[17].inputs)
    assert torch.equal(again.on_path, few[17].on_path)
    with pytest.raises(ConfigError, match="7 grids in a phase, 8 in a batch"):
        batch_of(row, TASK, Schedule(batch=8), 5, 0)


def test_scores_and_marks():
    truth = torch.zeros(2, 3, 5).bool()
    truth[0, 0, :2] = truth[1, 1, :3] = True
    marked = truth.clone()
    marked[1, 2, 0] = True
    assert scores(marked, truth) == pytest.approx({"accuracy": 29 / 30, "iou": (1 + 3 / 4) / 2, "whole": 0.5})
    network = built(SMALL["plain"], 0)
    grids = TASK.measured_on((2, 3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logits = marks(network, grids.inputs, "float32")
    assert logits.shape == (5, 7, 7)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    torch.testing.assert_close(logits, network.eval()(grids.inputs).detach())


def test_the_rate_falls_in_each_phase_and_starts_again():
    schedule = Schedule(steps=10, warmup=4)
    rates = [schedule.rate(step) for step in range(20)]
    assert rates[0] == 0.25
    assert max(rates) == rates[10] == 1
    assert rates[4:10] == sorted(rates[4:10], reverse=True)
    assert rates[9] == pytest.approx(rates[19])
    assert 0.05 < rates[19] < 0.1


def test_ranges_and_means():
    task = Task(phases=((1, 3), (4, 6)), longest=15)
    assert ranges(task) == [(1, 3), (4, 6), (7, 10), (11, 14), (15, 15)]
    run = {"distances": [{"distance": d, "iou": float(d)} for d in range(1, 16)]}
    assert mean_over(run, "distances", 4, 6) == 5
    assert beyond(run, "distances", task) == 11


def test_the_figure_of_the_command_line(table, folder, monkeypatch):
    _, said = table
    runs = folder / "again"
    shutil.copytree(folder / "runs", runs / "shortest-paths")
    drawn = []
    monkeypatch.setattr(shortest_paths_results, "draw", lambda at, task: drawn.append(at))
    made, path = draw_shortest_paths(folder / "figure", range(2), 0.0, runs, TASK, SCHEDULE, SMALL)
    assert made == said
    assert drawn == [path.parent]
    assert (path.parent / "table.txt").read_text() == f"{said}\n"
    for name in ("shortest-paths", "shortest-paths-few"):
        with pytest.raises(ConfigError, match="Grids have no input_mean=1"):
            figure(name, folder / "figure", input_mean=1.0)


@pytest.mark.parametrize(("table", "rows"), [("shortest-paths", ROWS), ("shortest-paths-few", FEW)])
def test_committed_results_are_of_one_piece(table, rows):
    at = Path(__file__).parents[2] / "results" / "savarese2019" / table
    curves = json.loads((at / "curves.json").read_text())
    assert list(curves) == list(rows)
    text = (at / "table.txt").read_text()
    for name, row in rows.items():
        result = Result.read(at / f"{name}.json")
        assert result.seeds == [run["seed"] for run in curves[name]] == [0, 1, 2]
        assert result.values == pytest.approx([beyond(run, "distances", Task()) for run in curves[name]], abs=1e-4)
        assert f"{result.mean:.3f}±{result.spread / 3**0.5:.3f}" in text
        held = json.loads(json.dumps({"row": asdict(row), "task": asdict(Task()), "schedule": asdict(Schedule())}))
        assert result.config == held
        assert result.numbers["stored"] == sum(parameter.numel() for parameter in built(row, 0).parameters())


def test_what_cannot_be_asked(tmp_path):
    with pytest.raises(ConfigError, match="need a seed"):
        collected(tmp_path, tmp_path, (), TASK, SCHEDULE, SMALL)
    with pytest.raises(ConfigError, match=r"Set a longer Task\.longest"):
        collected(tmp_path, tmp_path, (0,), Task(phases=((1, 4),), longest=4), SCHEDULE, SMALL)
    with pytest.raises(ConfigError, match="need a phase"):
        Task(phases=())
    with pytest.raises(ConfigError, match="in bfloat16 or float32"):
        Schedule(precision="float16")
    assert list(tmp_path.iterdir()) == []
    assert all(Schedule().steps * Schedule().batch == 50 * row.grids for row in FEW.values())
    assert set(ROWS) == {*FEW, "templates-4-lsm0.1"}
