"""Parsers of the library's own files: models, what these say of themselves, training states, indexes, results."""

from collections.abc import Callable, Sequence
from contextlib import suppress
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.robustness.parsers import Parser, text_of
from tests.support import bits, state
from tests.unit.files import corrupting
from tests.unit.files.samples import RUN, Snapshot
from tests.zoo import Case, chain, local_rows
import weightshare as ws
from weightshare.errors import SharingError
from weightshare.experiments.cells import Cell, counted
from weightshare.experiments.jobs import Calculation, Outcome
from weightshare.experiments.studies.results import Result
from weightshare.files import archive
from weightshare.files.evolution import load_evolution
from weightshare.files.plain import load_plain
from weightshare.files.sharded import STATE, load_sharded, save_sharded
from weightshare.files.sizes import sizes
from weightshare.training.snapshot import Progress, generators, write_snapshot


def shared(spec: Any, make: Callable[[], Case]) -> nn.Module:
    model = make().model
    ws.share_(model, spec)
    return model


def wide() -> Case:
    """Large enough that a codebook is worth its recipe."""
    return chain(depth=4, width=11, hidden=37)


class Models(Parser):
    """Whole files of models: `load`, `load_plain`, `tensors`, `sizes`."""

    form = "bytes"
    specs: Sequence[Any] = (ws.Tie(rate=2), ws.Codebook(clusters=2, init="quantiles"), ws.Templates(2))
    make = staticmethod(wide)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model, self.plain = self.make().model, self.make().model

    def seeds(self) -> list[bytes]:
        return [self._saved(spec) for spec in self.specs]

    def read(self, content: bytes) -> None:
        path = self.written(content)
        for read in (ws.tensors, sizes, load_evolution, lambda path: load_plain(path, self.plain)):
            with suppress(SharingError):
                read(path)
        ws.load(path, self.model)
        self.model = self.make().model  # what was taken may have shared it

    def state(self) -> object:
        return state(self.model)

    def _saved(self, spec: Any) -> bytes:
        ws.save(shared(spec, self.make), self.folder / "seed")
        return (self.folder / "seed").read_bytes()


class Contents(Models):
    """What a file of a model says of itself (version, plans, recipes), signed anew: the numbers are as they were."""

    form = "json"
    specs = (ws.Tie(rate=2),)

    def seeds(self) -> list[bytes]:
        (whole,) = super().seeds()
        self.header, self.numbers = corrupting.opened(whole)
        return [_said(whole).encode()]

    def read(self, content: bytes) -> None:
        text = content.decode("utf-8", "replace")
        header = {**self.header, "__metadata__": {**self.header["__metadata__"], archive.CONTENT: text}}
        super().read(corrupting.signed(header, self.numbers))


class CodebookContents(Contents):
    """The same of codebooks and packed labels."""

    specs = (ws.Codebook(clusters=2, init="quantiles"),)


class TemplateContents(Contents):
    """The same of layers that read a bank."""

    specs = (ws.Templates(2),)


class LocalContents(Contents):
    """The same of local layers that are mixtures."""

    specs = (ws.LowRank(rank=1),)
    make = staticmethod(local_rows)


class Headers(Models):
    """The table of tensors of a file, signed anew as far as it can be."""

    form = "json"
    specs = (ws.Codebook(clusters=2, init="quantiles"),)

    def seeds(self) -> list[bytes]:
        (whole,) = super().seeds()
        header, self.numbers = corrupting.opened(whole)
        return [json.dumps(header).encode()]

    def read(self, content: bytes) -> None:
        try:
            header = json.loads(content)
            whole = corrupting.signed(header, self.numbers) if isinstance(header, dict) else b""
        except (ValueError, RecursionError):
            whole = corrupting.closed(content, self.numbers)
        super().read(whole)


class Indexes(Parser):
    """The index of a checkpoint in several files: `tensors` of a folder."""

    def seeds(self) -> list[bytes]:
        from safetensors.torch import save_file

        model, names = chain().model, {}
        for number, part in enumerate((model[0], model[2])):
            held = {f"{number}.{name}": tensor.detach() for name, tensor in part.state_dict().items()}
            save_file(held, self.folder / f"model-{number}.safetensors")
            names |= dict.fromkeys(held, f"model-{number}.safetensors")
        return [json.dumps({"metadata": {"total_size": 1}, "weight_map": names}).encode()]

    def read(self, content: bytes) -> None:
        ws.tensors(self.written(content, "model.safetensors.index.json").parent)


class ShardedStates(Parser):
    """What a sharded checkpoint says of itself: `load_sharded` into a model and an optimizer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.manual_seed(0)
        self.model = shared(ws.Tie(rate=2), chain)
        self.optimizer = torch.optim.AdamW(ws.param_groups(self.model, 0.1), lr=0.01)
        self.model(chain().example).sum().backward()
        self.optimizer.step()

    def seeds(self) -> list[bytes]:
        save_sharded(self.folder / "sharded", self.model, self.optimizer, {"step": 3})
        return [(self.folder / "sharded" / STATE).read_bytes()]

    def read(self, content: bytes) -> None:
        self.written(content, f"sharded/{STATE}")
        load_sharded(self.folder / "sharded", self.model, self.optimizer)

    def state(self) -> object:
        held = self.optimizer.state_dict()
        entries = [(key, bits(value)) for of in held["state"].values() for key, value in of.items()]
        return state(self.model).values, entries, str(held["param_groups"])


class TrainingStates(Parser):
    """What a checkpoint of a training says of itself, signed anew: `read_snapshot`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reader = Snapshot()

    def seeds(self) -> list[bytes]:
        progress = Progress(RUN, [], step=7, sums=[1.0, 2.0, 3.0, 7.0])
        write_snapshot(self.folder / "seed", self.reader.model, self.reader.optimizer, progress, [generators()])
        self.header, self.numbers = corrupting.opened((self.folder / "seed").read_bytes())
        return [_said((self.folder / "seed").read_bytes()).encode()]

    def read(self, content: bytes) -> None:
        text = content.decode("utf-8", "replace")
        header = {**self.header, "__metadata__": {**self.header["__metadata__"], archive.CONTENT: text}}
        path = self.written(corrupting.signed(header, self.numbers))
        with torch.random.fork_rng(devices=[]):
            self.reader.read(path)

    def state(self) -> object:
        return self.reader.state()


class Plans(Parser):
    """`Plan.from_json`; the plan printed, and applied."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = chain().model

    def seeds(self) -> list[bytes]:
        specs = (ws.Tie(rate=2, order=ws.random(3), fuse=ws.weighted_mean([1, 2, 3, 4, 5, 6])), ws.Templates(2))
        specs += (ws.Codebook(clusters=2, init="quantiles"), ws.Tie(rate=3, fuse=ws.through(ws.mean)))
        return [ws.plan(self.model, spec, "*.weight").to_json().encode() for spec in specs]

    def read(self, content: bytes) -> None:
        plan = ws.Plan.from_json(text_of(content))
        str(plan), plan.to_json()
        plan.apply_(self.model)
        self.model = chain().model

    def state(self) -> object:
        return state(self.model)


class Cells(Parser):
    """Cells of the papers' tables: `Cell.read`, and whether what was read counts."""

    def seeds(self) -> list[bytes]:
        self.job = Calculation(_nothing, {"size": 3})
        machine = {"packages": {"weightshare": "0.1.0"}, "commit": "0" * 40, "dirty": False}
        outcome = Outcome({"accuracy": 91.5}, {"stored": 7}, {"train": [1.0, None]}, 3.5, None, machine)
        cell = Cell("paper/table", "row", "", "small", self.job.config, {}, {0: outcome, 1: outcome})
        cell.write(self.folder / "seed.json")
        return [(self.folder / "seed.json").read_bytes()]

    def read(self, content: bytes) -> None:
        path = self.written(content, "cell.json")
        cell = Cell.read(path)
        counted(path, self.job, "0.1.0")
        cell.write(self.folder / "again.json")


class Results(Parser):
    """Results of our own studies: `Result.read`."""

    def seeds(self) -> list[bytes]:
        made = Result("lin2022", "table3", "row", "accuracy", [0.5], [0], {"a": 1}, {"commit": None}, [1.5], {"n": 3})
        return [made.write(self.folder).read_bytes()]

    def read(self, content: bytes) -> None:
        Result.read(self.written(content)).write(self.folder)


def _nothing(seed: int, size: int) -> Outcome:
    return Outcome({"accuracy": float(seed + size)})


def _said(whole: bytes) -> Any:
    return corrupting.opened(whole)[0]["__metadata__"][archive.CONTENT]


PARSERS: dict[str, type[Parser]] = {
    "model files": Models,
    "plans in files": Contents,
    "recipes of codebooks": CodebookContents,
    "recipes of banks": TemplateContents,
    "recipes of mixtures": LocalContents,
    "headers of files": Headers,
    "indexes of several files": Indexes,
    "sharded checkpoints": ShardedStates,
    "checkpoints of training": TrainingStates,
    "plans": Plans,
    "cells of tables": Cells,
    "results of studies": Results,
}
