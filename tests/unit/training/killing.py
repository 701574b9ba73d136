"""Kill runs and start them again, from one warm process: `python killing.py FOLDER SEED KILLED TERMINATED METHOD...`.

Every run is a fork that calls `weightshare train`, ended at a random moment of its life, by SIGKILL or by SIGTERM, some
of them again after they were resumed, and then left to finish. Its directory is looked at after each end. Prints one
JSON line: for each method the digest of the unbroken run, and of those that were ended with how often they were.
"""

from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import replace
import hashlib
import io
import json
import os
from pathlib import Path
import random
import shutil
import signal
import sys
import time
import traceback
from typing import Any

import lightning_fabric  # noqa: F401 - so that no fork has to load it
import matplotlib.figure  # noqa: F401 - likewise
import sklearn.datasets  # noqa: F401 - likewise
import torch
from torch import nn

from weightshare.cli import main as command_line
from weightshare.files.archive import read
from weightshare.models import convmixer
from weightshare.space.lattice import Lattice
from weightshare.space.lowrank import LowRank
from weightshare.training.data import Augment, Prepare
from weightshare.training.distil import Distil
from weightshare.training.keeper import CHECKPOINT, METRICS
from weightshare.training.localise import Localise, SleepPhase
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.regularise import Cluster, Regularise
from weightshare.training.run import CONFIG, MODEL, SUMMARY, read_config, read_history
from weightshare.training.share import Share
from weightshare.verbs import share_

HERE = "tests.unit.training.killing"
POINTWISE, DEPTHWISE = "blocks.*.pointwise", "blocks.*.depthwise"
RECIPE = Recipe(epochs=3, batch_size=64, augment=Augment(crop=1, flip=True, mixup=0.2))
PLAIN = RunConfig("convmixer:8/4/2/3", prepare=Prepare(fraction=0.3), train=RECIPE, device="cpu")
LOCAL = replace(PLAIN, localise=[Localise(where=DEPTHWISE)])
ALLOWED = {"is not finished", "is no run directory"}  # what `weightshare report` may say of a run that was ended


def built(spec: Lattice | LowRank, in_channels: int, classes: int) -> nn.Module:
    """A ConvMixer whose depthwise layers are local and share."""
    model = convmixer(8, 4, 2, 3, classes, in_channels)
    Localise(where=DEPTHWISE).apply_(model, torch.zeros(2, in_channels, 8, 8))
    share_(model, spec, DEPTHWISE)
    return model


def on_lattice(in_channels: int, classes: int) -> nn.Module:
    return built(Lattice(), in_channels, classes)


def of_low_rank(in_channels: int, classes: int) -> nn.Module:
    return built(LowRank(2), in_channels, classes)


def shared(**settings: Any) -> RunConfig:
    return replace(PLAIN, share=[Share(where=POINTWISE, **settings)])


def trained(base: RunConfig = PLAIN, **settings: Any) -> RunConfig:
    return replace(base, train=replace(RECIPE, **settings))


CONFIGS = {
    "plain": PLAIN,
    "tie": shared(rate=2, fuse="mean"),
    "lora": shared(rate=2, lora=1),
    "through": shared(rate=2, fuse="channel_weighted", through=True),
    "templates": shared(templates=2),
    "similarity": trained(shared(templates=2), regularise=[Regularise("layer_similarity", strength=0.1)]),
    "lattice": replace(PLAIN, model=f"{HERE}:on_lattice"),
    "low rank": replace(PLAIN, model=f"{HERE}:of_low_rank"),
    "codebook": replace(PLAIN, codebook=[Cluster(5, where=POINTWISE)]),
    "sleep": trained(LOCAL, sleep=[SleepPhase(every=3)]),
    "hebbian": trained(LOCAL, sleep=[SleepPhase(every=5, mode="hebbian", iterations=20, noise=0.1)]),
    "proximal": trained(regularise=[Regularise(strength=1e-3, l1=1e-3, rewind=0.9, every=2, where="head.weight")]),
    "distilled": trained(shared(rate=2), distil=Distil("teacher", hidden=0.5)),
}


def started(settings: RunConfig) -> int:
    """Start a run in a fork that says nothing; returns its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        said = os.open(f"{settings.out}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(null, 1)
        os.dup2(said, 2)
        command_line(["train", "--config", f"{settings.out}.yaml"])
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finished(settings: RunConfig, end: signal.Signals | None = None, after: float = 0.0) -> bool:
    """Run until the end or until it is ended; says whether it came to its own. Its directory can be read then."""
    child = started(settings)
    if end is not None:
        time.sleep(after)
        os.kill(child, end)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, *((-end, 128 + end) if end else ())):
        raise SystemExit(f"{settings.out} ended with {code}: {Path(f'{settings.out}.said').read_text()}")
    look_at(Path(settings.out))
    return code == 0


def look_at(out: Path) -> None:
    """Read all that a run has left so far; one that is finished has written its page itself."""
    if (out / CONFIG).exists():
        read_config(out)
    if (out / CHECKPOINT).exists():
        read(out / CHECKPOINT, "training")
    if (out / METRICS).exists() and (out / METRICS).stat().st_size:
        read_history(out)
    if not (out / SUMMARY).exists():
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                command_line(["report", f"{out}{os.sep}"])
        except SystemExit as end:
            if end.code == 1 and any(allowed in said.getvalue() for allowed in ALLOWED):
                return
        raise SystemExit(f"report on {out}: {said.getvalue()}")


def digest(out: Path) -> str:
    """Of the trained weights, of the state of training and of the measured rows but for their times."""
    told = hashlib.sha256()
    for held in (read(out / MODEL, "model"), read(out / CHECKPOINT, "training")):
        for name, tensor in sorted(held.tensors.items()):
            told.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for row in read_history(out):
        told.update(json.dumps({key: row[key] for key in row if "second" not in key}, sort_keys=True).encode())
    return told.hexdigest()


def ready(config: RunConfig, out: Path, teacher: Path, minutes: float) -> RunConfig:
    """The configuration of one run, written beside its directory."""
    made = replace(config, out=str(out), checkpoint_minutes=minutes)
    if made.train.distil is not None:
        made = replace(made, train=replace(made.train, distil=replace(made.train.distil, teacher=str(teacher))))
    out.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{out}.yaml").write_text(made.to_yaml())
    return made


def ended(config: RunConfig, folder: Path, ends: list[signal.Signals], seed: int) -> Iterator[tuple[str, int]]:
    """An unbroken run, then those that are ended by these signals: digests, and how often each was ended."""
    drawn, teacher = random.Random(seed), folder.parent / "plain" / "whole" / MODEL
    whole = ready(config, folder / "whole", teacher, 10.0)
    before = time.monotonic()
    finished(whole)
    seconds = time.monotonic() - before
    yield digest(Path(whole.out)), 0
    for number, end in enumerate(ends):
        minutes = 10.0 * (number % 3 == 2)  # after every step, or after every epoch
        settings = ready(config, folder / f"ended-{number}", teacher, minutes)
        after = drawn.uniform(0.02, 0.9 * seconds)
        while finished(settings, end, after):  # it was faster than the one before: once more, from nothing
            shutil.rmtree(settings.out)
            after *= 0.8
        times = 1
        for _ in range(drawn.randrange(3)):
            times += not finished(settings, end, drawn.uniform(0.02, seconds))
        finished(settings)
        yield digest(Path(settings.out)), times
        shutil.rmtree(settings.out)


def main(folder: str, seed: str, killed: str, terminated: str, *methods: str) -> None:
    """See the module's docstring; the signals go round the methods."""
    torch.set_num_threads(1)  # before anything runs: a fork of a process with a thread pool hangs
    finished(ready(PLAIN, Path(folder, "plain", "whole"), Path(), 10.0))  # the teacher, and what warms this process up
    signals = [signal.SIGKILL] * int(killed) + [signal.SIGTERM] * int(terminated)
    for number, name in enumerate(methods):
        mine = signals[number :: len(methods)]
        runs = list(ended(CONFIGS[name], Path(folder, name), mine, int(seed) + number))
        print(json.dumps({"method": name, "runs": runs, "signals": [one.name for one in mine]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
