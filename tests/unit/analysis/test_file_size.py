"""How large a file will be is told before anything is shared: compared with files that are written."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.zoo import ZOO
import weightshare as ws
from weightshare.analysis.file_size import file_size
from weightshare.analysis.inspecting import inspect

PLANNED = {"ws": ws}
NAMES = ["chain", "tied_embedding", "buffers", "stages", "grouped_convs", "half", "encoder", "frozen"]


def images() -> nn.Module:
    """Convolutions with batch norm, whose running statistics are on file too."""
    blocks = (nn.Sequential(nn.Conv2d(29, 29, 3), nn.BatchNorm2d(29), nn.ReLU()) for _ in range(6))
    return nn.Sequential(nn.Conv2d(3, 29, 3), nn.Sequential(*blocks))


@pytest.mark.parametrize("make", [images, *(lambda name=name: ZOO[name]().model for name in NAMES)])
@pytest.mark.parametrize(
    ("spec", "off"),
    [(None, 0.005), (ws.Tie(rate=2), 0.005), (ws.Codebook(clusters=16), 0.005), (ws.Templates(templates=2), 0.05)],
)
def test_it_is_that_of_the_file(make, spec, off: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make()
    plan = None if spec is None else ws.plan(model, spec)
    told = file_size(model, plan)
    if plan is not None:
        plan.apply_(model)
    size = ws.save(model, tmp_path / "model.safetensors")
    assert told == pytest.approx(size, rel=off)
    assert file_size(model) == pytest.approx(size, rel=off)  # what is shared by then is read of the model


def test_labels_of_codebooks_count_before_and_after() -> None:
    model = images()
    choice = next(choice for choice in inspect(model).choices if "clusters=16" in choice.code)
    ws.share_(model, ws.Codebook(clusters=16))
    found = inspect(model)
    assert found.bytes + found.label_bytes == choice.memory
    assert found.file == pytest.approx(choice.file, rel=0.005)


def test_every_row_of_an_inspection_is_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = images()
    found = inspect(model)
    assert found.file == pytest.approx(ws.save(model, tmp_path / "now.safetensors"), rel=0.005)
    rows = [choice for choice in found.choices if choice.axis != "space" and choice.stored is not None]
    assert len(rows) == 8 - 2  # six blocks at rates 3 and 4 have as many slots
    for choice in rows:
        shared = copy.deepcopy(model)
        ws.share_(shared, eval(choice.code, PLANNED), None if choice.where is None else list(choice.where))
        assert choice.file == pytest.approx(ws.save(shared, tmp_path / "shared.safetensors"), rel=0.01)
