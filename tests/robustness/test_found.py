"""What fuzz and soak have found, each as it was found: errors that were not ours, hangs, memory without bound."""

import datetime
import io
import json
import re
import time
from unittest import mock
import zipfile

import numpy as np
import pytest
import torch

from tests.support import bits, output, state
from tests.unit.training.made_up_npz import GOOD
from tests.zoo import chain, local_images
import weightshare as ws
from weightshare.cli.options import sharing
from weightshare.depth.transform import LoRA
from weightshare.errors import ConfigError, FileError, SharingError
from weightshare.experiments.cells import Cell
from weightshare.experiments.jobs import Outcome, with_deltas
from weightshare.experiments.reproduce import Request
from weightshare.experiments.studies.results import Result
from weightshare.files.sharded import STATE, load_sharded, save_sharded
from weightshare.training.data import load_data
from weightshare.training.recipe import RunConfig, strict
from weightshare.training.run import read_config
from weightshare.training.sweep import read_folder
from weightshare.training.sweep_plan import SweepConfig, planned

LONG = "x" * 5000
"""A name that no file can have."""
BASE = {"model": "convmixer:8/2/2/3"}


SHARDED_DAMAGE = {
    # Torch's error for a tensor that is not there is no `Exception`, so that nothing caught it.
    "a tensor is not there": lambda said: said["state"]["head.bias"].update(norm=said["state"]["head.bias"]["exp_avg"]),
    "an entry lacks its shape": lambda said: said["state"]["head.bias"]["exp_avg"].pop("shape"),
    "a shape is none": lambda said: said["state"]["head.bias"]["exp_avg"].update(shape=[-1], like=False),
    "a shape takes all memory": lambda said: said["state"]["head.bias"]["exp_avg"].update(shape=[2**50], like=False),
    "a type is a number": lambda said: said["state"]["head.bias"]["exp_avg"].update(dtype=3),
    "a parameter has no state": lambda said: said["state"].pop("head.bias"),
    "a setting is a text": lambda said: said["groups"][0]["settings"].update(lr="fast"),
    "groups are numbers": lambda said: said.update(groups=[3]),
}


@pytest.mark.parametrize("damage", SHARDED_DAMAGE)
def test_a_sharded_checkpoint_that_says_what_is_not_so(damage: str, tmp_path):
    model = chain().model
    optimizer = torch.optim.AdamW(model.parameters())
    model(chain().example).sum().backward()
    optimizer.step()
    save_sharded(tmp_path / "held", model, optimizer)
    path = tmp_path / "held" / STATE
    said = json.loads(path.read_text())
    SHARDED_DAMAGE[damage](said["optimizer"])
    path.write_text(json.dumps(said))
    before = state(model), str(optimizer.state_dict())
    with pytest.raises(FileError, match=r"Cannot read|is damaged"):
        load_sharded(tmp_path / "held", model, optimizer)
    assert (state(model), str(optimizer.state_dict())) == before


def test_a_plan_whose_blocks_are_far_apart_is_printed():
    """It listed every number between the first and the last."""
    text = ws.plan(chain().model, ws.Tie(rate=2), "*.fc1.weight").to_json()
    far = ws.Plan.from_json(text.replace("blocks.5.fc1.weight", "blocks.999999999.fc1.weight"))
    assert "0–4, 999999999" in str(far)
    longer = ws.Plan.from_json(text.replace("blocks.5.fc1.weight", f"blocks.{'9' * 5000}.fc1.weight"))
    assert str(longer)


CELL_DAMAGE = {
    "curves are a list": lambda cell: cell["outcomes"]["0"].update(curves=[1]),
    "a curve is no list": lambda cell: cell["outcomes"]["0"].update(curves={"a": 3}),
    "a number has 400 digits": lambda cell: cell["outcomes"]["0"].update(metrics={"a": 10**400}),
    "a curve has such a number": lambda cell: cell["outcomes"]["0"].update(curves={"a": [10**400]}),
    "the environment is a text": lambda cell: cell["outcomes"]["0"].update(environment="x"),
    "packages are a list": lambda cell: cell["outcomes"]["0"].update(environment={"packages": []}),
    "a version is a number": lambda cell: cell["outcomes"]["0"].update(environment={"packages": {"weightshare": 1}}),
    "seconds are a text": lambda cell: cell["outcomes"]["0"].update(seconds="x"),
    "data are a number": lambda cell: cell["outcomes"]["0"].update(data=3),
    "the protocol is a text": lambda cell: cell.update(config="x"),
    "the row is nothing": lambda cell: cell.update(row=None),
    "outcomes are a list": lambda cell: cell.update(outcomes=[1]),
}


@pytest.mark.parametrize("damage", CELL_DAMAGE)
def test_a_cell_with_a_value_of_another_kind(damage: str, tmp_path):
    """Some were read, and failed where they were used."""
    outcome = Outcome({"a": 1.5}, {"n": 2}, {"c": [1.0, None]}, 1.0, None, {"packages": {"weightshare": "0.1.0"}})
    path = tmp_path / "cell.json"
    Cell("p/t", "row", "", "small", {"size": 3}, {}, {0: outcome}).write(path)
    assert Cell.read(path).outcomes == {0: outcome}
    held = json.loads(path.read_text())
    CELL_DAMAGE[damage](held)
    path.write_text(json.dumps(held))
    with pytest.raises(FileError, match="is no result file"):
        Cell.read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("values", ["x"]), ("values", [1e999]), ("paper_value", []), ("numbers", {"n": "x"}), ("config", "[" * 50_000)],
)
def test_a_result_with_a_value_of_another_kind(key: str, value: object, tmp_path):
    path = Result("paper", "table", "row", "accuracy", [0.5], [0], {}, {}, [1.0]).write(tmp_path)
    held = json.loads(path.read_text())
    text = json.dumps({**held, key: "HERE"})
    path.write_text(text.replace('"HERE"', value if isinstance(value, str) else json.dumps(value)))
    with pytest.raises(FileError):
        Result.read(path)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"samples": {"count": 2**32, "ranges": {"seed": {"low": 0, "high": 1}}}}, "a count from 1 to 100,000"),
        ({"grid": {f"model_args.a{n}": list(range(10)) for n in range(10)}}, "10,000,000,000 runs"),
        ({"grid": {1: [1, 2]}}, "the key 1 is a int"),
        ({"grid": {"seed": [0]}, "base": {**BASE, "data": datetime.date(2024, 1, 2)}}, "need plain values"),
        ({"grid": {f"share.{'9' * 5000}": [1, 2]}, "base": {**BASE, "share": [{"rate": 2}]}}, "leads nowhere"),
    ],
)
def test_a_sweep_without_bounds_or_of_odd_keys(settings: dict, needed: str):
    with pytest.raises(ConfigError, match=needed):
        planned(strict(SweepConfig, {"base": BASE, **settings}))


def test_a_whole_number_of_hundreds_of_digits_is_no_learning_rate():
    with pytest.raises(ConfigError, match=r"train\.lr"):
        strict(RunConfig, {**BASE, "train": {"lr": 10**350}})


def test_a_very_long_key_is_refused_at_once():
    began = time.process_time()
    with pytest.raises(ConfigError, match="Unknown key"):
        strict(RunConfig, {"x" * 200_000: 1})
    assert time.process_time() - began < 1


def test_keys_of_deltas_and_sources_of_data_are_texts():
    with pytest.raises(ConfigError, match="need a dotted key"):
        with_deltas(RunConfig(**BASE), {5: 1})
    for source in (None, 5, [1], ""):
        with pytest.raises(ConfigError):
            Request("lin2022/table1", data={"cifar10": source})


@pytest.mark.parametrize(
    "read",
    [
        read_config,
        read_folder,
        ws.tensors,
        load_data,
        lambda name: load_data(f"{name}.npz"),
        lambda name: load_data(f"./{name}"),
        lambda name: load_data("imagenet", name),
        lambda name: load_data("mnist", f"/proc/{name}"),
    ],
)
def test_names_that_no_file_can_have(read, monkeypatch: pytest.MonkeyPatch):
    """The system says so with an error of its own."""
    monkeypatch.setattr("weightshare.training.data.find.download", _no_network)
    with pytest.raises(SharingError):
        read(LONG)


@pytest.mark.parametrize(
    "header", ["{'descr': ", "{'descr': '<i8', 'fortran_order': False, 'shape': (1" + "0" * 99 + ",)}"]
)
def test_an_array_with_a_hostile_header(header: str, tmp_path):
    """Numpy reads the header as Python, and lets out what reading Python raises."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        for name, array in GOOD.items():
            stream = io.BytesIO()
            np.save(stream, array)
            hostile = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
            file.writestr(f"{name}.npy", hostile if name == "labels" else stream.getvalue())
    with pytest.raises(FileError, match="Cannot read the entry 'labels'"):
        load_data(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("later", [ws.Tie(rate=4), ws.Templates(1), ws.Tie(rate=2, own=LoRA(1))])
def test_a_plan_that_shares_what_mixtures_are_made_of_is_a_file_too(later, tmp_path):
    """Found by the soak: the message said that a layer does not read its templates any more."""
    model, x = local_images()
    ws.share_(model, ws.LowRank(rank=2))
    ws.share_(model, later, "*.parametrizations.*")
    ws.save(model, tmp_path / "m")
    for other in (local_images().model, ws.load(tmp_path / "m", local_images().model)):
        ws.load(tmp_path / "m", other)
        assert bits(output(other, x)) == bits(output(model, x))
        assert ws.report(other).stored == ws.report(model).stored
        assert ws.save(other, tmp_path / "again") == ws.save(model, tmp_path / "m")
    with pytest.raises(FileError, match="stores what weights are made from"):
        ws.tensors(tmp_path / "m")
    ws.unshare_(model)
    assert ws.save(model, tmp_path / "m")


@pytest.mark.parametrize("damage", [(r'"slots": 2', '"slots": 1000000000000'), ("LowRank", "Lattice")])
def test_a_mixture_without_a_recipe_is_bounded_by_its_weight(damage, tmp_path):
    model = local_images().model
    ws.share_(model, ws.LowRank(rank=2))
    ws.share_(model, ws.Tie(rate=4), "*.parametrizations.*")
    fresh = local_images().model
    before = state(fresh)
    with mock.patch.object(ws.Plan, "to_json", lambda self, text=ws.Plan.to_json: re.sub(*damage, text(self))):
        ws.save(model, tmp_path / "m")
    with pytest.raises(FileError):
        ws.load(tmp_path / "m", fresh)
    assert state(fresh) == before


def test_two_budgets():
    with pytest.raises(ConfigError, match="need one number"):
        sharing(None, None, None, "1,2")


def _no_network(*_: object) -> None:
    raise ConfigError("no network here")
