"""One of several processes that go through methods together: `python -m tests.unit.training.several FOLDER METHOD...`.

Which one it is, and of how many, stands in the environment as Fabric puts it. Weights and history of each method, with
DDP and with FSDP2, go to a file of its name.
"""

from dataclasses import replace
import json
import os
from pathlib import Path
import sys
from typing import Any

from lightning_fabric import Fabric
import torch

from tests.unit.training.methods import trained
from weightshare.surgery.shards import whole
from weightshare.training.launch import launched
from weightshare.training.recipe import RunConfig
from weightshare.values import proximal

STRATEGIES = ("ddp", "fsdp2")


def told(name: str, fabric: Fabric) -> dict[str, Any]:
    """What a method ends with: numbers of each tensor and the history."""
    model, history = trained(name, fabric)
    weights = {key: whole(tensor).tolist() for key, tensor in model.state_dict().items()}
    return {"weights": weights, "history": history}


def main(folder: str, *names: str) -> None:
    torch.set_num_threads(1)
    proximal.SORT_FREE_FROM = 1
    config = RunConfig("m", device="cpu", devices=int(os.environ["WORLD_SIZE"]), timeout_minutes=2.0)
    for strategy in STRATEGIES:
        fabric = launched(replace(config, strategy=strategy))
        for name in names:
            found = json.dumps(told(name, fabric))
            Path(folder, f"{name}.{strategy}.{fabric.global_rank}.json").write_text(found, encoding="utf-8")
    fabric.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may outlive the interpreter, which aborts then


if __name__ == "__main__":
    main(*sys.argv[1:])
