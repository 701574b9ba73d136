"""The processes of a run: one, several that `devices` starts here, or those that `torchrun` has started.

All of them do the same, each on its part of every batch. A process that dies takes the others along: they cannot go on
without it, and say so, instead of waiting for ever.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from weightshare.errors import ConfigError, TrainingError
from weightshare.training.distributed import shard_
from weightshare.training.recipe import RunConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def launched(config: RunConfig) -> "Fabric":
    """The device and the processes that a configuration asks for; those that `torchrun` has started come first.

    Raises:
        ConfigError: If they cannot be had here, or `torchrun` has started another number.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ConfigError(f"Training needs Lightning Fabric ({error}): pip install 'weightshare[train]'.") from error
    devices, nodes = _started(config)
    several = devices * nodes > 1
    try:
        fabric = Fabric(
            accelerator=config.device,
            devices=devices,
            num_nodes=nodes,
            strategy=_strategy(config, devices * nodes),
            precision=config.precision,
        )
        if several or config.strategy != "auto":
            if _is_elastic():
                _meet(fabric.device, timedelta(minutes=config.timeout_minutes))
            fabric.launch()
    except Exception as error:  # Fabric raises many kinds for what it cannot give
        raise ConfigError(
            f"device={config.device!r}, devices={config.devices}, strategy={config.strategy!r} with "
            f"precision={config.precision!r} cannot be had here: {error}"
        ) from error
    return fabric


@contextmanager
def together(fabric: "Fabric", state: str = "") -> Iterator[None]:
    """Say in our words that another process has died, or has been silent for too long.

    Args:
        fabric: Whose processes work together in here.
        state: Where the last state is, and how to go on from there.

    Raises:
        TrainingError: Instead of what torch raises for it.
    """
    try:
        yield
    except RuntimeError as error:
        if fabric.world_size == 1 or not _is_loss_of_another(error):
            raise
        said = str(error).splitlines()[0].split(" This is typically")[0]
        raise TrainingError(
            f"Process {fabric.global_rank} of {fabric.world_size} has lost another one, which was killed, raised an "
            f"error of its own or was silent for longer than timeout_minutes: {said} {state}"
        ) from error


def _is_loss_of_another(error: RuntimeError) -> bool:
    """Backends with an error class of their own raise that; gloo names itself in the message."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _is_elastic() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()


def _meet(device: torch.device, wait: timedelta) -> None:
    """Let the processes that torchrun has started find each other, those of each of its restarts apart.

    All restarts use one store; in it gloo would find the addresses of processes that have died, and wait for them.
    """
    spread: Any = torch.distributed
    store, rank, world = next(spread.rendezvous("env://", timeout=wait))
    mine = spread.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    cpu = device.type == "cpu"
    backend = spread.get_default_backend_for_device(device)
    spread.init_process_group(
        backend, store=mine, rank=rank, world_size=world, timeout=wait, device_id=None if cpu else device
    )


def _started(config: RunConfig) -> tuple[int, int]:
    """How many processes a machine has, and how many machines there are."""
    if not _is_elastic():
        return config.devices, 1
    here, all_of_them = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if config.devices not in (1, here):
        raise ConfigError(
            f"devices={config.devices}, but torchrun has started {here} processes here. Leave devices out, or give "
            f"torchrun --nproc-per-node {config.devices}."
        )
    return here, all_of_them // here


def _strategy(config: RunConfig, processes: int) -> Any:
    """Fabric's strategy, with our patience."""
    from lightning_fabric.strategies.ddp import DDPStrategy

    wait = timedelta(minutes=config.timeout_minutes)
    name = "ddp" if config.strategy == "auto" and processes > 1 else config.strategy
    if name == "ddp":
        return DDPStrategy(timeout=wait)
    if name == "ddp_find_unused_parameters_true":
        return DDPStrategy(timeout=wait, find_unused_parameters=True)
    return _sharding(wait, processes) if name == "fsdp2" else name


def _sharding(wait: timedelta, processes: int) -> Any:
    """FSDP2 over all processes; parameters are whole only while a unit runs, those of the root unit too."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    def parallelise(model: nn.Module, mesh: Any) -> nn.Module:
        shard_(model.to(strategy.root_device), mesh["data_parallel"], reshard_after_forward=True)
        return model

    strategy = ModelParallelStrategy(parallelise, processes, 1, timeout=wait)
    return strategy
