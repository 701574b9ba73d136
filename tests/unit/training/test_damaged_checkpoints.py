"""Three hundred and more damaged training checkpoints: each is refused with our error, and nothing is changed."""

from collections.abc import Callable
import copy
import json
from pathlib import Path
import random
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor, nn

from tests.support import bits
from weightshare.depth.tie import Tie
from weightshare.errors import FileError, TrainingError
from weightshare.files import archive
from weightshare.models import convmixer
from weightshare.optimizer import param_groups
from weightshare.training.snapshot import Progress, generators, read_snapshot, write_snapshot
from weightshare.verbs import share_

Change = Callable[[dict[str, Any], dict[str, Tensor], dict[str, str]], object]
RUN = {"recipe": {"epochs": 3}, "seed": 0, "steps": 22}
ROW = {
    "epoch": 1,
    "lr": 0.01,
    "train_loss": 1.0,
    "train_accuracy": 0.5,
    "test_loss": 1.0,
    "test_accuracy": 0.5,
    "seconds": 1.0,
    "images_per_second": 9.0,
}


def trained(steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer, torch.amp.GradScaler]:
    model = convmixer(4, 2, 2, 3, classes=3, in_channels=1)
    share_(model, Tie(rate=2), where="blocks.*.pointwise")
    optimizer = torch.optim.AdamW(param_groups(model, 0.1, layer_decay=0.9), lr=0.01)
    for _ in range(steps):
        model(torch.randn(5, 1, 4, 4)).square().sum().backward()
        optimizer.step()
    return model, optimizer, torch.amp.GradScaler("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "checkpoint.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model, optimizer, scaler = trained()
        at = Progress(RUN, [dict(ROW)], step=7, sums=[1.0, 2.0, 3.0, 7.0], seconds=1.0, scaler=scaler.state_dict())
        write_snapshot(path, model, optimizer, at, [generators()])
    return path.read_bytes()


class Bench:
    """A fresh model and optimizer, and what they were, to the last bit."""

    def __init__(self) -> None:
        self.model, self.optimizer, self.scaler = trained(steps=1)
        self.before = self.state()

    def state(self) -> object:
        tensors = [bits(tensor) for tensor in self.model.state_dict().values()]
        held = copy.deepcopy(self.optimizer.state_dict())
        entries = [(key, bits(value)) for of in held["state"].values() for key, value in of.items()]
        return tensors, entries, held["param_groups"], self.scaler.state_dict(), bits(torch.get_rng_state())

    def refusal(self, path: Path) -> Exception | None:
        """How a file is refused; `None` if it is taken."""
        try:
            read_snapshot(path, self.model, self.optimizer, RUN, scaler=self.scaler)
        except (FileError, TrainingError) as error:
            refused = error
        else:
            return None
        assert self.state() == self.before, refused
        return refused


def test_the_file_itself_is_fine(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(whole)
    bench = Bench()
    assert bench.refusal(tmp_path / "c") is None
    assert bench.state() != bench.before


def test_cuts_flips_and_stretches(whole: bytes, tmp_path: Path) -> None:
    drawn = random.Random(0)
    damaged = [whole[: drawn.randrange(len(whole))] for _ in range(120)]
    for _ in range(160):
        at, bit = drawn.randrange(len(whole)), 1 << drawn.randrange(8)
        damaged.append(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
    for _ in range(60):
        start, noise = drawn.randrange(len(whole)), drawn.randbytes(drawn.randrange(1, 99))
        damaged.append(whole[:start] + noise + whole[start + len(noise) :])
    bench, taken = Bench(), []
    for number, content in enumerate(damaged):
        (tmp_path / "c").write_bytes(content)
        if bench.refusal(tmp_path / "c") is None:
            taken.append(number)
    assert len(damaged) == 340
    assert all(content != whole for content in damaged)
    assert taken == []


def edited(
    change: Callable[[dict[str, Any], dict[str, Tensor], dict[str, str]], object], whole: bytes, path: Path
) -> None:
    """A file that says something else, under a checksum that is right."""
    path.write_bytes(whole)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata.pop(archive.CHECKSUM)
    content = json.loads(metadata.pop(archive.CONTENT))
    change(content, tensors, metadata)
    metadata[archive.CONTENT] = json.dumps(content)
    save_file(tensors, path, {**metadata, archive.CHECKSUM: archive._checksum(tensors, metadata)})


def sets(*keys: object, to: object) -> Change:
    """Puts a value into the content."""

    def change(content: Any, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


def drops(*keys: object) -> Change:
    """Takes an entry out of the content."""

    def change(content: Any, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def tensor(name: str, value: Tensor | None) -> Change:
    """Replaces a tensor, or takes it away."""

    def change(content: Any, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        tensors.pop(name, None)
        tensors.update({name: value} if value is not None else {})

    return change


ODD = [None, True, -1, 10**400, "text", [], {}, [[]], {"a": 1}, float("inf"), float("nan"), 0.5]
PLACES = [
    ("groups",),
    ("numbers",),
    ("progress",),
    ("groups", 0),
    ("groups", 0, "lr"),
    ("groups", 0, "betas"),
    ("groups", 0, "params"),
    ("groups", 0, "param_names"),
    ("groups", 0, "amsgrad"),
    ("progress", "run"),
    ("progress", "history"),
    ("progress", "history", 0),
    ("progress", "history", 0, "test_loss"),
    ("progress", "step"),
    ("progress", "sums"),
    ("progress", "sums", 2),
    ("progress", "seconds"),
    ("progress", "scaler"),
    ("progress", "scaler", "scale"),
]
FINE = {  # what is a value like any other at such a place
    *((("groups", 0, "lr"), value) for value in (-1, 0.5)),
    *((("progress", "history", 0, "test_loss"), value) for value in (-1, 0.5)),
    *((("progress", "sums", 2), value) for value in (-1, 0.5)),
    *((("progress", "seconds"), value) for value in (-1, 0.5)),
    *((("progress", "scaler", "scale"), value) for value in (-1, 0.5)),
}
HOSTILE = {
    **{
        f"{'.'.join(map(str, place))} = {str(value)[:9]} ({type(value).__name__})": sets(*place, to=value)
        for place in PLACES
        for value in ODD
        if not any(place == fine and value == other and type(value) is type(other) for fine, other in FINE)
        and not (place == ("numbers",) and value in ([], {}) and isinstance(value, dict))
        and not (place == ("progress", "history") and value == [] and isinstance(value, list))
    },
    **{f"no {'.'.join(map(str, place))}": drops(*place) for place in PLACES if place[1:] != ("history", 0)},
    "an epoch too many": sets("progress", "history", to=[{**ROW, "epoch": at + 1} for at in range(4)]),
    "epochs out of order": sets("progress", "history", to=[{**ROW, "epoch": 2}, {**ROW, "epoch": 1}]),
    "a step too many": sets("progress", "step", to=22),
    "a key of progress too many": sets("progress", "more", to=1),
    "a group too many": lambda content, tensors, metadata: content["groups"].append(content["groups"][0]),
    "a number of no parameter": sets("numbers", to={"99": {"step": 1.0}}),
    "a number below": sets("numbers", to={"-1": {"step": 1.0, "exp_avg": 0.0, "exp_avg_sq": 0.0}}),
    "a number of no number": sets("numbers", to={"zero": {}}),
    "a moment without an index": tensor("optimizer.exp_avg", torch.zeros(3)),
    "a moment of another shape": tensor("optimizer.0.exp_avg", torch.zeros(3)),
    "a moment of another dtype": tensor("optimizer.0.exp_avg", torch.zeros(4, 1, 2, 2, dtype=torch.int8)),
    "no second moment": tensor("optimizer.0.exp_avg_sq", None),
    "a third moment": tensor("optimizer.0.exp_avg_cube", torch.zeros(4, 1, 2, 2)),
    "a moment of no parameter": tensor("optimizer.99.exp_avg", torch.zeros(3)),
    "no generator": tensor("rng.0.cpu", None),
    "a generator of another size": tensor("rng.0.cpu", torch.zeros(3, dtype=torch.uint8)),
    "a generator of nothing": tensor("rng.0.cpu", torch.zeros(5056, dtype=torch.uint8)),
    "a generator of another dtype": tensor("rng.0.cpu", torch.zeros(5056)),
    "a weight of another shape": tensor("model.head.bias", torch.zeros(4)),
    "a weight of another dtype": tensor("model.head.bias", torch.zeros(3, dtype=torch.float64)),
    "no weight": tensor("model.head.bias", None),
    "another kind": sets("kind", to="model"),
    "another version": sets("version", to=99),
    "an alias of nothing": lambda content, tensors, metadata: metadata.update({"model.more": "model.nothing"}),
    "an alias too many": lambda content, tensors, metadata: metadata.update({"model.more": "model.head.bias"}),
    "no alias": lambda content, tensors, metadata: metadata.clear(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_under_a_right_checksum(name: str, whole: bytes, tmp_path: Path) -> None:
    edited(HOSTILE[name], whole, tmp_path / "c")
    refusal = Bench().refusal(tmp_path / "c")
    assert refusal is not None
    assert str(tmp_path / "c") in str(refusal)


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) > 200


def test_a_checkpoint_of_another_run_says_what_differs(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(whole)
    bench = Bench()
    with pytest.raises(
        TrainingError,
        match=r"another run: seed is 0 there and 1 here, steps is 22 .*\. Choose another",
    ):
        read_snapshot(tmp_path / "c", bench.model, bench.optimizer, {**RUN, "seed": 1, "steps": 23})
    assert bench.state() == bench.before
