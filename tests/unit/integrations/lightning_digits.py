"""A Lightning module that reads digits, small enough for a second, and trainers that say nothing."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from weightshare.models.by_name import mend_torchvision
from weightshare.space.local import LocallyConnected2d
from weightshare.training.data.digits import digits

mend_torchvision()  # whoever imports this first, from whatever folder: Lightning's metrics import it
from lightning.pytorch import LightningModule, Trainer  # noqa: E402

IMAGES, BATCH = 192, 32
QUIET = [
    "ignore:The '(train|val)_dataloader' does not have many workers",
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "ignore:The number of training batches",
]


class Net(nn.Module):
    """A local layer, blocks that can share, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.local = LocallyConnected2d(1, 2, 3, (8, 8), stride=2, padding=1)
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.local(x)).flatten(1)
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(x)


class Classifier(LightningModule):
    """Automatic optimization by AdamW, made after the module is shared."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = Net()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def loader() -> DataLoader:
    """The first images in their order, in small batches."""
    data = digits().train
    images, labels = data[:IMAGES]
    return DataLoader(TensorDataset(images, labels), BATCH)


def trainer(folder: Path, *callbacks: Any, **more: Any) -> Trainer:
    """On the CPU, without bars and tables."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    settings = {"max_epochs": 2, "devices": 1, "enable_checkpointing": False, **quiet, **more}
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **settings)
