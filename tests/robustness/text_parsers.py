"""Parsers of what somebody types: configurations, sweeps, deltas, the command line, globs, names of models and data."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
import io
import os
from pathlib import Path
import re
from typing import Any, ClassVar
from unittest import mock

import torch
import yaml

from tests.robustness.parsers import Parser, text_of
from tests.support import state
from tests.zoo import chain
import weightshare as ws
from weightshare.cli import commands, main
from weightshare.cli.options import pairs
from weightshare.errors import ConfigError, SharingError
from weightshare.experiments import reproduce
from weightshare.experiments.jobs import with_deltas
from weightshare.models import by_name
from weightshare.training import run, sweep
from weightshare.training.data import find, load_data
from weightshare.training.plain_yaml import parse_yaml
from weightshare.training.recipe import RunConfig, read_yaml, strict
from weightshare.training.sweep_plan import planned

LARGEST = 64
"""Networks of more layers or channels are not built here: they are what was asked for, and take their time."""
RUN = {
    "model": "convmixer:8/4/2/3",
    "model_args": {"classes": 7},
    "data": "digits",
    "localise": [{"where": "stem", "keep_first": 0}],
    "share": [{"rate": 2, "order": "strided", "fuse": "mean", "where": ["blocks.*", "!*norm*"]}, {"templates": 2}],
    "codebook": [{"clusters": 4}],
    "train": {
        "epochs": 3,
        "lr": "1e-3",
        "augment": {"crop": 4, "flip": True},
        "regularise": [{"strength": 0.1, "rewind": 0.98}],
        "sleep": [{"every": 10, "mode": "hebbian"}],
        "schedule": "step",
        "milestones": [0.5, 0.75],
    },
    "precision": "bf16-mixed",
}


class Yaml(Parser):
    """`parse_yaml`."""

    form = "text"

    def seeds(self) -> list[bytes]:
        return [yaml.safe_dump(RUN).encode(), b"a: &a [1, 2]\nb: *a\nc: {<<: {d: 2024-01-02}}\n", b"[1, {a: 0x1f}]"]

    def read(self, content: bytes) -> None:
        parse_yaml(text_of(content), "here")


class Configurations(Parser):
    """Configurations of a run: read, checked, their specs made, written down again."""

    form = "text"

    def seeds(self) -> list[bytes]:
        return [yaml.safe_dump(RUN, sort_keys=False).encode(), RunConfig("convmixer:8/2/2/3").to_yaml().encode()]

    def read(self, content: bytes) -> None:
        settings = strict(RunConfig, read_yaml(self.written(content)))
        settings.to_yaml()
        for entry in settings.share:
            repr(entry.spec)


class ConfigurationValues(Configurations):
    """The same, edited at one place."""

    form = "json"

    def seeds(self) -> list[bytes]:
        import json

        return [json.dumps(RUN).encode()]


class Sweeps(Parser):
    """Plans of sweeps: every run of them."""

    form = "text"
    values: ClassVar[dict[str, Any]] = {
        "base": {"model": "convmixer:8/2/2/3", "train": {"epochs": 2}},
        "grid": {"train.lr": [0.01, "1e-3"], "seed": [0, 1]},
        "samples": {"count": 3, "ranges": {"train.weight_decay": {"low": 0.001, "high": 0.1, "scale": "log"}}},
        "metric": "test_accuracy",
        "asha": {"grace_epochs": 1, "reduction": 3},
    }

    def seeds(self) -> list[bytes]:
        return [yaml.safe_dump(self.values, sort_keys=False).encode()]

    def read(self, content: bytes) -> None:
        planned(sweep.read_sweep(self.written(content)))


class SweepValues(Sweeps):
    """The same, edited at one place."""

    form = "json"

    def seeds(self) -> list[bytes]:
        import json

        return [json.dumps(self.values).encode()]


class Deltas(Parser):
    """Somebody's own changes of a table, by dotted key."""

    form = "text"

    def seeds(self) -> list[bytes]:
        return [b"train.epochs: 3\ntrain.augment.crop: 4\nshare: [{rate: 2}]\n", b"{seed: 3, train: {epochs: 1}}"]

    def read(self, content: bytes) -> None:
        with_deltas(RunConfig("convmixer:8/2/2/3"), read_yaml(self.written(content))).to_yaml()


class Globs(Parser):
    """`where` of `plan`: one glob in each line."""

    form = "text"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = chain().model

    def seeds(self) -> list[bytes]:
        return [b"blocks.*.fc1", b"*\n!*norm*\n!*.bias", b"blocks.[0-3].fc?.weight", b"blocks"]

    def read(self, content: bytes) -> None:
        globs = text_of(content).split("\n")
        ws.plan(self.model, ws.Tie(rate=2), globs[0] if len(globs) == 1 else globs)

    def state(self) -> object:
        return state(self.model)


class ModelNames(Parser):
    """Names of networks; a module is imported if it is of the tests, and no network is built that is large."""

    form = "text"

    def seeds(self) -> list[bytes]:
        own = [example.encode() for _, _, example in by_name.OURS.values()]
        return [*own, b"convmixer:8/2/1/3", b"tests.zoo:chain", b"tests.zoo:Residual"]

    def read(self, content: bytes) -> None:
        build(text_of(content))


class DataNames(Parser):
    """`--data NAME=SOURCE` of `reproduce`, and names of data sets; nothing is downloaded."""

    form = "text"

    def seeds(self) -> list[bytes]:
        return [b"cifar10=packed.npz", b"digits", b"./folder", b"mnist", b"imagenet=/nowhere"]

    def read(self, content: bytes) -> None:
        text = text_of(content)
        given = pairs([text], "--data", dotted=True) if "=" in text else {"digits": text}
        request = reproduce.Request("lin2022/table1", data=given)
        with mock.patch.object(find, "download", side_effect=ConfigError("no network here")), inside(self.folder):
            for source in (request.data or {}).values():
                load_data(source, self.folder)


class CommandLines(Parser):
    """Arguments, one in each line; what would train, sweep or download is parsed and not begun."""

    form = "text"

    def seeds(self) -> list[bytes]:
        lines = (
            "plan convmixer:8/4/2/3 --rate 2 --where blocks.*.pointwise.weight --order strided --fuse mean",
            "plan convmixer:8/4/2/3 --slots 0,0,1,1 --where blocks --model-arg classes=7 --json plan.json",
            "plan convmixer:8/4/2/3 --budget 0.5 --template-init sparse --across-widths",
            "plan convmixer:8/4/2/3 --rate 2 --fuse weighted_mean --weights 1,2,3,4 --spread back --lora 2",
            "train convmixer:8/4/2/3 --config run.yaml --lr 0.1 --augment crop=4 --sleep 3 --distil teacher=x --out o",
            "train --out o",
            "report convmixer:8/2/2/3 --json report.json",
            "suggest o --budget 0.5 --where fc",
            "fold o --out f --tolerance inf",
            "export o --format torch --shared",
            "data x.npz --image-size 8 --to y.npz",
            "sweep sweep.yaml --grid seed=[0,1] --concurrent 2",
            "reproduce lin2022/table1 --scale smoke --rows a,b --data cifar10=x.npz --seeds 1 --deltas d.yaml --name x",
            "papers lin2022",
            "--version",
        )
        return ["\n".join(line.split()).encode() for line in lines]

    def read(self, content: bytes) -> None:
        self.written(yaml.safe_dump(RUN).encode(), "run.yaml")
        self.written(yaml.safe_dump(Sweeps.values).encode(), "sweep.yaml")
        self.written(b"train.epochs: 1\n", "d.yaml")
        arguments = text_of(content).split("\n")
        with (
            inside(self.folder),
            _nothing_begun(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()) as told,
        ):
            try:
                main(arguments)
            except SystemExit as stop:
                if stop.code in (0, 1, 2):
                    raise SharingError(told.getvalue()[:200]) from stop
                raise


def build(name: str, /, *arguments: Any, **options: Any) -> Any:
    """`models.build` without memory, of small networks, importing modules of the tests alone."""
    if any(len(digits) > 9 or int(digits) > LARGEST for digits in re.findall(r"\d+", name) if name.count("/")):
        raise ConfigError("a network of this size is not built here")
    with torch.device("meta"), mock.patch.object(by_name, "import_module", _of_the_tests):
        return by_name.build(name, *arguments, **options)


def _of_the_tests(name: str) -> Any:
    if name.isidentifier() or (not name.startswith("tests.") and name.replace(".", "").isidentifier()):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return import_module(name)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The current folder is this one."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _nothing_begun() -> Iterator[None]:
    begun = ConfigError("parsed, and not begun")
    with (
        mock.patch.object(run, "run", side_effect=begun),
        mock.patch.object(sweep, "sweep", side_effect=begun),
        mock.patch.object(reproduce, "reproduce", side_effect=begun),
        mock.patch.object(find, "download", side_effect=begun),
        mock.patch("weightshare.experiments.studies.digits.demo", side_effect=begun),
        mock.patch("weightshare.experiments.site.build", side_effect=begun),
        mock.patch.object(commands, "build", build),
        mock.patch.object(commands, "write_text"),
    ):
        yield


PARSERS: dict[str, type[Parser]] = {
    "YAML": Yaml,
    "run configurations": Configurations,
    "values of run configurations": ConfigurationValues,
    "sweep plans": Sweeps,
    "values of sweep plans": SweepValues,
    "deltas": Deltas,
    "globs": Globs,
    "names of models": ModelNames,
    "names of data": DataNames,
    "command lines": CommandLines,
}
