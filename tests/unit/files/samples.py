"""A valid file of every method and kind, each with what reads it, for tests that corrupt them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.contract.specs import OF_POSITIONS, SPECS
from tests.support import bits, output, state
from tests.zoo import Case, chain, local_images, tied_embedding
import weightshare as ws
from weightshare.depth.record import Evolution
from weightshare.errors import SharingError
from weightshare.files.evolution import load_evolution, save_evolution
from weightshare.files.opening import read_text
from weightshare.files.sizes import sizes
from weightshare.planning import Plan
from weightshare.training.recipe import Recipe, RunConfig, read_yaml, strict
from weightshare.training.snapshot import Progress, generators, read_snapshot, write_snapshot

RUN = {"recipe": {"epochs": 3}, "seed": 0, "steps": 22}


class Reader(ABC):
    """Reads one kind of file, and holds what a file that is refused must leave as it was."""

    also_taken = False
    """Whether another function than the last took it."""

    @abstractmethod
    def read(self, path: Path) -> None:
        """Read a file; what was read is kept."""

    def state(self) -> object:
        """All that reading may change, to the last bit."""
        return None

    @abstractmethod
    def check(self, folder: Path) -> None:
        """What was read is valid: it can be used, and written and read again."""


class Model(Reader):
    """`load` into a model that is not shared, `tensors` and `sizes`."""

    def __init__(self, make: Callable[[], Case]) -> None:
        self.make = make
        self.model, self.example = make()

    def read(self, path: Path) -> None:
        self.also_taken = False
        for also in (ws.tensors, sizes):  # the former refuses some files that are sound
            with suppress(SharingError):
                also(path)
                self.also_taken = True
        ws.load(path, self.model)

    def state(self) -> object:
        return state(self.model)

    def check(self, folder: Path) -> None:
        before = output(self.model, self.example)
        ws.save(self.model, folder / "again")
        again = ws.load(folder / "again", self.make().model)
        assert bits(output(again, self.example)) == bits(before)


class Snapshot(Reader):
    """`read_snapshot` into a model, an optimizer, a scaler and the random generator."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model, self.optimizer, self.example = _trained(steps=1)

    def read(self, path: Path) -> None:
        read_snapshot(path, self.model, self.optimizer, RUN)

    def state(self) -> object:
        held = self.optimizer.state_dict()
        entries = [(key, bits(value)) for of in held["state"].values() for key, value in of.items()]
        return state(self.model).values, entries, str(held["param_groups"]), bits(torch.get_rng_state())

    def check(self, folder: Path) -> None:
        self.model(self.example).square().sum().backward()
        self.optimizer.step()


class History(Reader):
    """`load_evolution`."""

    def read(self, path: Path) -> None:
        self.found = load_evolution(path)

    def check(self, folder: Path) -> None:
        save_evolution(self.found, folder / "again")
        assert load_evolution(folder / "again").steps == self.found.steps


class PlanText(Reader):
    """`Plan.from_json`, and the plan on its model."""

    def read(self, path: Path) -> None:
        self.plan = Plan.from_json(read_text(path))
        self.text = str(self.plan)
        self.plan.apply_(chain().model)

    def check(self, folder: Path) -> None:
        assert Plan.from_json(self.plan.to_json()) == self.plan


class Configuration(Reader):
    """`read_yaml` and `strict`."""

    def read(self, path: Path) -> None:
        self.config = strict(RunConfig, read_yaml(path))

    def check(self, folder: Path) -> None:
        (folder / "again").write_text(self.config.to_yaml(), encoding="utf-8")
        assert strict(RunConfig, read_yaml(folder / "again")).to_yaml() == self.config.to_yaml()


@dataclass(frozen=True)
class Sample:
    """Name, content and reader of a file; whether it has a checksum, so that no other content is taken."""

    name: str
    content: bytes
    reader: Callable[[], Reader]
    checked: bool = True


def _wide() -> Case:
    return chain(depth=6, width=31, hidden=37)


def _few_values() -> Case:
    case = _wide()
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.copy_(parameter.sign())
    return case


def _trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer, Tensor]:
    model, example = _wide()
    ws.share_(model, ws.Tie(rate=2))
    optimizer = torch.optim.AdamW(ws.param_groups(model, 0.1), lr=0.01)
    for _ in range(steps):
        model(example).square().sum().backward()
        optimizer.step()
    return model, optimizer, example


def samples(folder: Path) -> Iterator[Sample]:
    """Every sample, the same ones each time."""
    torch.manual_seed(0)
    path = folder / "whole"
    for name, spec in SPECS.items():
        make = local_images if name in OF_POSITIONS else _wide
        model = make().model
        ws.share_(model, spec())
        ws.save(model, path)
        yield Sample(f"shared: {name}", path.read_bytes(), lambda make=make: Model(make))
        if name not in OF_POSITIONS:
            ws.save(ws.fold(model), path)
            yield Sample(f"folded: {name}", path.read_bytes(), lambda make=make: Model(make))
        if name in ("halves", "templates", "clusters"):
            small = ws.plan(chain().model, spec())
            yield Sample(f"plan: {name}", small.to_json().encode(), PlanText, checked=False)
    ws.save(_few_values().model, path)
    yield Sample("few values", path.read_bytes(), lambda: Model(_wide))
    ws.save(tied_embedding().model, path)
    yield Sample("its own tie", path.read_bytes(), lambda: Model(tied_embedding))
    model, optimizer, _ = _trained(steps=2)
    write_snapshot(path, model, optimizer, Progress(RUN, [], step=7, sums=[1.0, 2.0, 3.0, 7.0]), [generators()])
    yield Sample("training", path.read_bytes(), Snapshot)
    kept = Evolution((0, 9), {"blocks": ("0.weight", "1.weight")}, {"blocks": torch.randn(2, 2, 3)})
    save_evolution(kept, path)
    yield Sample("similarity", path.read_bytes(), History)
    config = RunConfig("convmixer:8/4/2/3", model_args={"a": [1, {"b": None}]}, train=Recipe(epochs=2))
    yield Sample("configuration", config.to_yaml().encode(), Configuration, checked=False)
