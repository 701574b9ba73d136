"""Shortest paths in small: tiny networks through two phases, a run that is killed, and one that is done."""

import json

import pytest
import torch

from weightshare.depth.templates import TemplateBank
from weightshare.errors import ConfigError, TrainingError
from weightshare.experiments.studies import shortest_paths
from weightshare.experiments.studies.shortest_paths import (
    CHECKPOINT,
    DONE,
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

TASK = Task(phases=((1, 2), (3, 4)), size=7, longest=7, larger=11, held_out=5)
SCHEDULE = Schedule(steps=4, batch=3, warmup=2, every=3, precision="float32")
SMALL = {
    "plain": Row(width=5, depth=3),
    "templates-2": Row(2, width=5, depth=3),
    "templates-2-similar": Row(2, similarity=3.0, width=5, depth=3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("paths")


@pytest.fixture(scope="module")
def runs(folder):
    """All rows, of two seeds."""
    return {
        (name, seed): train(name, seed, folder / "runs", TASK, SCHEDULE, SMALL) for name in SMALL for seed in (0, 1)
    }


def test_a_run_measures_both_phases_at_a_change(runs, folder):
    run = json.loads((folder / "runs" / "templates-2-seed1" / DONE).read_text())
    assert [(one["step"], one["phase"]) for one in run["curve"]] == [
        *((0, 0), (3, 0), (4, 0)),
        *((4, 1), (6, 1), (8, 1)),
    ]
    assert [one["distance"] for one in run["distances"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [one["distance"] for one in run["larger"]] == [2, 4, 6]
    assert all(0 <= one[key] <= 1 for one in run["distances"] for key in ("accuracy", "iou", "whole"))
    kept = {one["step"]: one["matrix"] for one in run["curve"] if "matrix" in one}
    assert list(kept) == [0, 3, 8]
    assert kept[8] == run["likeness"]
    similarity = torch.tensor(run["likeness"])
    assert similarity.shape == (3, 3)
    assert run["curve"][-1]["likeness"] == pytest.approx((similarity.sum().item() - 3) / 6, abs=1e-3)
    model = trained_model("templates-2", 1, folder / "runs", SMALL)
    assert not (folder / "runs" / "templates-2-seed1" / CHECKPOINT).exists()
    (bank,) = (module for module in model.modules() if isinstance(module, TemplateBank))
    directions = torch.nn.functional.normalize(bank.coefficients.detach(), dim=1)
    torch.testing.assert_close((directions @ directions.mT).abs(), similarity, atol=1e-4, rtol=0)


def test_a_killed_run_goes_on_to_the_same_weights(runs, folder, tmp_path, monkeypatch):
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


def test_a_run_that_is_done_is_read(runs, folder, monkeypatch):
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


def test_the_driven_layers_become_alike(runs, folder):
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


def test_what_cannot_be_asked():
    with pytest.raises(ConfigError, match="need a phase"):
        Task(phases=())
    with pytest.raises(ConfigError, match="in bfloat16 or float32"):
        Schedule(precision="float16")
