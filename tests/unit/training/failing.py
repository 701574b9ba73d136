"""Let one of two processes fail: `python -m tests.unit.training.failing FOLDER STRATEGY SCENARIO...`.

From one warm process a pair is forked for each scenario, in which the second one fails in its 26th step, when a state
from the 24th, the tenth of its epoch, is there; then the run goes on with one process, and a copy of it with three.
Prints one JSON line each.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
import json
import os
from pathlib import Path
import shutil
import signal
import socket
import sys
import time
import traceback
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
import torch
from torch import Tensor, nn

from weightshare.cli import main as command_line
from weightshare.files.archive import read
from weightshare.models.convmixer import ConvMixer
from weightshare.training.data import Prepare
from weightshare.training.data.split import InMemory
from weightshare.training.keeper import CHECKPOINT
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.regularise import Regularise
from weightshare.training.run import MODEL
from weightshare.training.share import Share

RECIPE = Recipe(epochs=2, batch_size=49, lr=0.1, optimizer="sgd", momentum=0.9, warmup=0.0)
CONFIG = RunConfig(
    "tests.unit.training.methods:grouped",
    prepare=Prepare(fraction=0.5),  # 14 steps an epoch
    share=[Share(templates=2, where="blocks.*.pointwise")],
    train=replace(RECIPE, regularise=[Regularise(strength=1e-3, where="head.weight")]),
    device="cpu",
    checkpoint_minutes=0.0,
)
FAILING_STEP, TERMINATED_STEP, PATIENCE = 26, 16, 4.0  # seconds

Failure = Callable[[nn.Module], None]


def killed(model: nn.Module) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def spoilt(model: nn.Module) -> None:
    next(model.parameters()).data.fill_(float("nan"))


def silent(model: nn.Module) -> None:
    time.sleep(600)


def terminated(model: nn.Module) -> None:
    """As a scheduler does it: what is asked is torchrun, which asks its workers."""
    os.kill(os.getppid(), signal.SIGTERM)


SCENARIOS: dict[str, Failure | None] = {"whole": None, "killed": killed, "nan": spoilt, "silent": silent, "data": None}
SCENARIOS |= {"terminated": terminated}


def fail(scenario: str) -> None:
    """Make this process fail in its so-manieth step."""
    failure, seen = SCENARIOS[scenario], []
    last = TERMINATED_STEP if scenario == "terminated" else FAILING_STEP
    forward, batches = ConvMixer.forward, InMemory.batches

    def counted(model: ConvMixer, x: Tensor) -> Tensor:
        seen.extend([1] * model.training)
        if failure is not None and len(seen) == last:
            failure(model)
        return forward(model, x)

    def broken(split: InMemory, rows: Any) -> Iterator[Any]:
        for batch in batches(split, rows):
            if scenario == "data" and len(seen) == last - 1:
                raise OSError("the disk with the images is gone")
            yield batch

    ConvMixer.forward, InMemory.batches = counted, broken  # type: ignore[method-assign]


def forked(config: RunConfig, rank: int, world: int, port: int, scenario: str) -> int:
    """One process of a run, in a fork whose words go to a file; returns its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        said = os.open(f"{config.out}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        if world > 1:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
            os.environ |= {"WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
            rank_zero_only.rank = rank
        if rank == 1:
            fail(scenario)
        command_line(["train", "--config", f"{config.out}.yaml"])
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(config: RunConfig, world: int, scenario: str = "whole") -> dict[str, Any]:
    """Run on some processes; how each ended, what it said, and how long the first one took to notice."""
    config = replace(config, devices=world, strategy=config.strategy if world > 1 else "auto")
    Path(f"{config.out}.yaml").write_text(config.to_yaml())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [forked(config, rank, world, port, scenario) for rank in range(world)]
    codes, began = [], 0.0
    for child in children if scenario != "killed" else children[::-1]:
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        began = began or time.monotonic()
        if scenario == "silent" and child == children[0]:
            os.kill(children[1], signal.SIGKILL)
    said = [Path(f"{config.out}.{rank}").read_text() for rank in range(world)]
    codes = codes[::-1] if scenario == "killed" else codes
    return {"codes": codes, "said": said, "seconds": time.monotonic() - began}


def weights(out: Path) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in read(out / MODEL, "model").tensors.items()}


def main(folder: str, strategy: str, *scenarios: str) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    for scenario in scenarios:
        out = Path(folder, scenario)
        wait = PATIENCE / 60 if scenario == "silent" else 2.0
        config = replace(CONFIG, out=str(out), strategy=strategy, timeout_minutes=wait)
        told: dict[str, Any] = {"scenario": scenario, "first": ended(config, 2, scenario)}
        if scenario == "whole":
            told["weights"] = weights(out)
        else:
            progress = read(out / CHECKPOINT, "training").content["progress"]
            told["at"] = [len(progress["history"]), progress["step"]]
            shutil.copytree(out, out.with_name(f"{scenario}-3"))
            for world, there in ((1, out), (3, out.with_name(f"{scenario}-3"))):
                told[str(world)] = ended(replace(config, out=str(there), timeout_minutes=2.0), world)
                told[f"weights of {world}"] = weights(there)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
