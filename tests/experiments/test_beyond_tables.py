"""What goes beyond the four papers: all of it runs at `smoke`, and each scale is what it says."""

from pathlib import Path
from typing import Any

import pytest
import torch

import weightshare
from weightshare.experiments import beyond
from weightshare.experiments.jobs import Training
from weightshare.experiments.papers import kept, table_named
from weightshare.experiments.reproduce import Request, reproduce
from weightshare.experiments.studies import filter_clusters, low_rank
from weightshare.experiments.studies.four_methods import ARMS
from weightshare.experiments.view import values
from weightshare.training.environment import environment

CLEAN = {**environment(), "commit": "0" * 40, "dirty": False}
FIRST = {
    "four-methods": ["plain", "sleep-4", "sleep-16", "templates-values-16"],
    "beta-lasso": ["s-local", "beta-lasso"],
    "minivit": ["lora-distilled"],
    "lrlc": ["convolution", "rank-3"],
    "convex-clustering": ["neighbours"],
}
"""For each table the rows with most machinery; what they start from is made too."""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of these tests count, whatever the tree is like that they are run in."""
    monkeypatch.setattr("weightshare.experiments.reproduce.environment", lambda: CLEAN)
    monkeypatch.setattr("weightshare.experiments.jobs.environment", lambda: CLEAN)


def made(folder: Path, key: str, rows: list[str] | None = None) -> Any:
    """What counts of a table at `smoke` once it was made."""
    request = Request(f"beyond/{key}", "smoke", rows, workers=1, results=folder / "results", out=folder / "runs")
    reproduce(request, echo=lambda _: None)
    held = kept(folder / "results", table_named(f"beyond/{key}"), "smoke", weightshare.__version__)
    assert not held.apart
    return held.found


def shown(key: str, found: Any) -> dict[tuple[str, str], float]:
    """Our numbers that a page would show, by row and metric."""
    return {(one.row, one.metric): one.ours for one in values(table_named(f"beyond/{key}"), found) if one.ours}


def training(key: str, row: str, scale: Any = "paper") -> Training:
    job = table_named(f"beyond/{key}").job(row, "", scale)
    assert isinstance(job, Training)
    return job


def test_there_are_five_tables() -> None:
    assert [table.key for table in beyond.TABLES] == list(FIRST)


def test_four_methods_are_made_and_drawn(tmp_path: Path) -> None:
    found = made(tmp_path, "four-methods", FIRST["four-methods"])
    assert {row for row, _ in found} == {*FIRST["four-methods"], "templates-4"}
    numbers = shown("four-methods", found)
    # Four channels: 8 layers of 16·9·4² numbers, and 138 that no row shares.
    assert numbers["plain", "stored"] == 8 * 2304 + 130
    assert numbers["sleep-4", "stored"] == 8 * (2304 // 4 + 1) + 130  # labels of 16 positions, 2 bits each, are one
    assert numbers["sleep-16", "stored"] == 8 * 144 + 130
    assert numbers["templates-values-16", "stored"] == 2 * 2304 / 4 + 256 + 8 * 2 + 130
    assert len({numbers[row, "macs"] for row, _ in found}) == 1
    assert numbers["sleep-16", "file"] < numbers["sleep-4", "file"] < numbers["plain", "file"]
    picture = table_named("beyond/four-methods").picture
    assert picture is not None
    left, right = picture(found).axes
    assert left.get_xscale() == "log"
    names = [label.get_text() for label in right.get_yticklabels() if not label.get_text().endswith(":")]
    assert names == [ARMS[row].title for row in ARMS if (row, "") in found]


def test_beta_lasso_is_made(tmp_path: Path) -> None:
    numbers = shown("beta-lasso", made(tmp_path, "beta-lasso", FIRST["beta-lasso"]))
    assert {row for row, metric in numbers if metric == "zeros"} == {"beta-lasso"}
    assert ("s-local", "accuracy") in numbers


def test_a_taught_transformer_with_transforms_is_made(tmp_path: Path) -> None:
    numbers = shown("minivit", made(tmp_path, "minivit", FIRST["minivit"]))
    assert numbers["lora-distilled", "params"] < numbers["plain", "params"]


def test_ranks_are_made(tmp_path: Path) -> None:
    numbers = shown("lrlc", made(tmp_path, "lrlc", FIRST["lrlc"]))
    # Two layers of 3·(16 + 144) instead of 144 numbers.
    assert numbers["rank-3", "stored"] - numbers["convolution", "stored"] == 2 * (3 * (16 + 144) - 144)


def test_filters_are_clustered_and_drawn(tmp_path: Path) -> None:
    found = made(tmp_path, "convex-clustering", FIRST["convex-clustering"])
    curves = found["neighbours", ""][0].curves
    assert len(curves["filters"]) == len(curves["accuracy"]) == 3
    assert curves["filters"][0] == 100
    assert curves["accuracy"][0] == pytest.approx(found["trained", ""][0].metrics["accuracy"])
    assert curves["filters"] == sorted(curves["filters"], reverse=True)
    picture = table_named("beyond/convex-clustering").picture
    assert picture is not None
    assert len(picture(found).axes) == 2


@pytest.mark.slow
@pytest.mark.parametrize("key", FIRST)
def test_every_other_row_runs(tmp_path: Path, key: str) -> None:
    found = made(tmp_path, key)
    assert {row for row, _ in found} == set(table_named(f"beyond/{key}").rows)


@pytest.mark.parametrize("key", FIRST)
def test_small_names_what_it_changes_and_paper_changes_nothing(key: str) -> None:
    table = table_named(f"beyond/{key}")
    for row in table.rows:
        assert table.job(row, "", "paper").changed == {}
        changed = table.job(row, "", "small").changed
        assert set(changed) <= {
            *("model", "model_args", "data", "image_size", "precision", "prepare.fraction", "prepare.pool"),
            *("prepare.cut", "prepare.margin", "prepare.normalise", "train.epochs", "train.batch_size", "train.lr"),
            *("train.warmup", "train.augment"),
        }
        assert changed.get("prepare.fraction", 0.2) == 0.2


def test_protocols_are_those_that_the_tables_tell() -> None:
    lasso = training("beta-lasso", "beta-lasso").settings(0, Path("runs"))
    recipe = lasso.train
    assert (lasso.model, recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (
        "s-fc:64",
        400,
        512,
        0.1,
        0,
    )
    assert (recipe.optimizer, recipe.momentum, recipe.schedule) == ("sgd", 0.0, "cosine")
    assert [(one.kind, one.strength, one.beta, one.where) for one in recipe.regularise] == [
        ("beta_lasso", 1e-5, 50.0, "1.weight")
    ]
    taught = training("minivit", "scaled-distilled").settings(2, Path("runs"))
    assert taught.train.distil is not None
    assert taught.train.distil.teacher == "runs/plain-seed2/model.safetensors"
    assert (taught.data, taught.train.epochs, taught.share[0].rate, taught.share[0].scale) == (
        *("imagenet", 300),
        *(2, "channel"),
    )
    four = training("four-methods", "codebook-4", "small")
    assert four.deltas["train.epochs"] == 2
    assert training("four-methods", "plain", "small").deltas["train.epochs"] == 10


def test_near_filters_are_coupled_and_merge_first() -> None:
    torch.manual_seed(0)
    centres = torch.randn(4, 7).double() * 5
    rows = centres.repeat_interleave(3, 0) + 0.1 * torch.randn(12, 7).double()
    couplings = filter_clusters.near(rows)
    assert torch.equal(couplings, couplings.T)
    assert float(couplings.diagonal().abs().max()) == 0
    merged, count, gap = filter_clusters.merge(rows, 0.3, "neighbours")
    assert count == 4
    assert gap < 1e-6
    torch.testing.assert_close(merged, rows.view(4, 3, 7).mean(1).repeat_interleave(3, 0))
    _, pulled, _ = filter_clusters.merge(rows, 0.3, "as-solved")
    assert pulled == 4
    assert filter_clusters.merge(rows, 0.3, "kmeans")[1] == 4


def test_every_rank_starts_as_the_same_convolutions() -> None:
    x = torch.randn(3, 3, 32, 32)
    outputs = []
    for positions in ("one", 1, 4, "own"):
        torch.manual_seed(0)
        outputs.append(low_rank.network(5, positions)(x))  # type: ignore[arg-type]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-3, atol=1e-4)
