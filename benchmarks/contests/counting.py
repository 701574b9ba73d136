"""Counting what a shared model stores, against what else counts parameters."""

import torch
from torch import nn

from benchmarks.contest import Contest, Task, Way
import weightshare as ws
from weightshare.surgery.count import count

WIDTH, VOCABULARY = 64, 997


class Model(nn.Module):
    """An embedding whose weight is the head too, and blocks tied in twos."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        blocks = (nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        ws.share_(self, ws.Tie(rate=2), "blocks")

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embedding(tokens)))


def stored(depth: int) -> int:
    block = sum(one.numel() for one in nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH).parameters())
    return VOCABULARY * WIDTH + depth // 2 * block


def by_transformers(model: nn.Module) -> int:
    from weightshare.models.by_name import import_timm

    import_timm()  # which sees to torchvision, that transformers imports
    from transformers.modeling_utils import ModuleUtilsMixin

    return ModuleUtilsMixin.num_parameters(model)


def by_torchinfo(model: nn.Module) -> int:
    from torchinfo import summary

    return summary(model, verbose=0).total_params


def task(find):
    def make(depth: int) -> Task:
        model, found = Model(depth), []

        def run() -> None:
            found[:] = [find(model)]

        return Task(run, lambda: found[0], lambda: found[0])

    return make


CONTEST = Contest(
    title="Counting what is stored",
    text=(
        "A model whose head is its embedding and whose blocks are tied in twos; size is its depth. Numbers are "
        "what each counts; the error is how many that is from the truth. `count` also tells stored from logical "
        "numbers, bytes and buffers."
    ),
    unit="blocks",
    sizes=(4, 8, 16, 32),
    shown=(8, 32),
    tiny=2,
    error=lambda depth, found: abs(found - stored(depth)),
    off="numbers off",
    stored="numbers",
    ways={
        "count": Way(task(lambda model: count(model).stored), ours=True),
        "ws.report": Way(task(lambda model: ws.report(model).stored), "all else of the report too", ours=True),
        "sum over parameters()": Way(
            task(lambda model: sum(one.numel() for one in model.parameters())),
            "right here; says nothing of what is tied",
        ),
        "sum over state_dict()": Way(
            task(lambda model: sum(one.numel() for one in model.state_dict().values())), "counts a tie under every name"
        ),
        "transformers, num_parameters": Way(task(by_transformers), "by parameters too", needs="transformers"),
        "torchinfo": Way(task(by_torchinfo), "by module; its tree is what takes time", needs="torchinfo"),
    },
)
