"""One of several processes that go through all methods together: `python -m tests.unit.training.several FOLDER`.

Which one it is, and of how many, stands in the environment as torchrun would put it. Each method's weights and history
go to a file of its name.
"""

import json
import os
from pathlib import Path
import sys
from typing import Any

from lightning_fabric import Fabric
import torch

from tests.unit.training.methods import METHODS, trained
from weightshare.errors import SharingError
from weightshare.surgery.shards import whole
from weightshare.training.launch import launched
from weightshare.training.recipe import RunConfig
from weightshare.values import proximal


def told(name: str, fabric: Fabric) -> dict[str, Any]:
    """What a method ends with: numbers of each tensor and the history; or why it is refused."""
    try:
        model, history = trained(name, fabric)
    except SharingError as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    weights = {key: whole(tensor).tolist() for key, tensor in model.state_dict().items()}
    return {"weights": weights, "history": history}


def main(folder: str, strategy: str, *names: str) -> None:
    torch.set_num_threads(1)
    proximal.SORT_FREE_FROM = 1
    world = int(os.environ["WORLD_SIZE"])
    fabric = launched(RunConfig("m", device="cpu", devices=world, strategy=strategy, timeout_minutes=0.5))
    for name in names or METHODS:
        found = told(name, fabric)
        Path(folder, f"{name}.{fabric.global_rank}.json").write_text(json.dumps(found), encoding="utf-8")
    fabric.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may outlive the interpreter, which aborts then


if __name__ == "__main__":
    main(*sys.argv[1:])
