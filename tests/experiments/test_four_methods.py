"""All four methods on one task: what rows store, that values in templates move, and that rows end where they should."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from weightshare.experiments.studies import four_methods
from weightshare.experiments.studies.four_methods import ARMS, DEPTH, WEIGHTS, budget, network, settings, stored_numbers
from weightshare.files.checkpoint import save
from weightshare.space.lattice import Lattice
from weightshare.verbs import fold, share_

CHANNELS = 16


def what_is_stored(row: str, folder: Path, channels: int = CHANNELS) -> float:
    """The stored numbers of a row before anything is trained."""
    arm, config = ARMS[row], settings(row, 0, folder, channels)
    model = network(**config.model_args)
    before = [] if arm.start is None else ARMS[arm.start].tie
    quick = [replace(one, init="quantiles") for one in arm.codebook]  # as many values, sooner
    for share in (*before, *arm.tie, *quick):
        share_(model, share.spec, share.where)
    if arm.finish == "classes":
        share_(model, Lattice(arm.sleep[0].period), WEIGHTS)
    elif arm.finish:
        model = fold(model, tolerance=float("inf"))
    save(model, folder / "model.safetensors")
    return stored_numbers(model, folder / "model.safetensors")


@pytest.mark.parametrize("row", ARMS)
def test_every_row_stores_its_share_within_three_percent(row: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert what_is_stored(row, tmp_path) == pytest.approx(budget(ARMS[row].share, CHANNELS), rel=0.03)


@pytest.mark.parametrize("row", [row for row, arm in ARMS.items() if arm.width != 1 or arm.depth != DEPTH])
def test_other_widths_and_depths_store_their_share_at_the_full_width_too(row: str, tmp_path: Path) -> None:
    channels = four_methods.CHANNELS
    assert what_is_stored(row, tmp_path, channels) == pytest.approx(budget(ARMS[row].share, channels), rel=0.03)


def test_a_row_starts_from_one_before_it_of_the_same_seed() -> None:
    rows = list(ARMS)
    for row, arm in ARMS.items():
        config = settings(row, 3, Path("runs"))
        if arm.start is None:
            assert config.init is None
        else:
            assert rows.index(arm.start) < rows.index(row)
            assert config.init == f"runs/{arm.start}-seed3/model.safetensors"
            assert ARMS[arm.start].positions == arm.positions
            assert ARMS[arm.start].width == arm.width


@pytest.mark.parametrize("positions", ["own", "all", [2, 2], 4])
def test_every_start_has_the_variance_of_kaiming(positions: object) -> None:
    torch.manual_seed(0)
    made: Any = network(16, positions=positions).blocks[0].get_submodule("conv")  # type: ignore[arg-type]
    assert float(made.weight.detach().std()) == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)


def test_what_a_row_stores_counts_labels_and_no_buffers(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64))
    share_(model, four_methods.Cluster(16).spec, "0.weight")
    save(model, tmp_path / "m.safetensors")
    assert stored_numbers(model, tmp_path / "m.safetensors") == 16 + 64 * 64 * 4 / 32 + 64 + 2 * 64
