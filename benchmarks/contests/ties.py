"""One block's weights read by every block of a transformer, forward and backward, against how others tie."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.contest import Contest, Task, Way
import weightshare as ws

WIDTH, BATCH, TOKENS = 64, 4, 32
LAYERS = {"activation": "gelu", "dropout": 0.0, "batch_first": True, "norm_first": True}


def network(depth: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, **LAYERS) for _ in range(depth)))


def passes(net: nn.Module) -> Task:
    x, out = torch.randn(BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)), []

    def run() -> None:
        net.zero_grad()
        out[:] = [net(x)]
        out[0].sum().backward()

    return Task(run, lambda: out[0].detach(), lambda: ws.report(net).stored)


@torch.no_grad()
def error(depth: int, found: Tensor) -> float:
    net = nn.Sequential(*[network(1)[0]] * depth).double()
    x = torch.randn(BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    return float((found.double() - net(x)).abs().max())


def ours(depth: int) -> Task:
    net = network(depth)
    ws.share_(net, ws.Tie(rate=depth))
    return passes(net)


def folded(depth: int) -> Task:
    net = network(depth)
    ws.share_(net, ws.Tie(rate=depth))
    return passes(ws.fold(net))


def by_hand(depth: int) -> Task:
    net = network(depth)
    first = dict(net[0].named_parameters())
    for block in net[1:]:
        for path, tensor in first.items():
            owner, _, name = path.rpartition(".")
            setattr(block.get_submodule(owner), name, tensor)
    return passes(net)


class Read(nn.Module):
    """What reads another layer's weight."""

    def __init__(self, tensor: nn.Parameter) -> None:
        super().__init__()
        self.tensor = tensor

    def forward(self, _: Tensor) -> Tensor:
        return self.tensor


def parametrized(depth: int) -> Task:
    net = network(depth)
    first = dict(net[0].named_parameters())
    for block in net[1:]:
        for path, tensor in first.items():
            owner, _, name = path.rpartition(".")
            held = block.get_submodule(owner)
            parametrize.register_parametrization(held, name, Read(tensor))
            held.parametrizations[name].original.requires_grad_(False)
    return passes(net)


def untied(depth: int) -> Task:
    task = passes(network(depth))
    return Task(task.run, stored=task.stored)


def x_transformers(tie: str):
    """Blocks of its own, so that its outputs are others: it is compared with ours on the same blocks."""

    def make(depth: int) -> Task:
        from x_transformers import Encoder

        torch.manual_seed(0)
        options = {"dim": WIDTH, "depth": depth, "heads": 4, "attn_dim_head": WIDTH // 4}
        net = Encoder(**options, weight_tie_layers=tie == "theirs")
        if tie == "ours":
            ws.share_(net, ws.Tie(rate=depth), "layers")
        task = passes(net)
        return Task(task.run, stored=task.stored)

    return make


CONTEST = Contest(
    title="One block read at every depth",
    text=(
        "Transformer encoders of width 64 whose blocks are all one, forward and backward, 4 × 32 tokens, float32;"
        " size is the depth. Numbers are the distinct parameters that the network holds. A tie saves numbers and "
        "no time: level is the best there is."
    ),
    unit="blocks",
    sizes=(2, 4, 8, 16),
    shown=(8, 16),
    tiny=2,
    error=error,
    stored="numbers",
    ways={
        "ws.Tie": Way(ours, ours=True),
        "ws.Tie, folded": Way(folded, "plain torch: the same tensors under many names", ours=True),
        "by hand": Way(by_hand, "the same tensors; nothing keeps them tied through loading or copying", goal=1.05),
        "parametrize": Way(parametrized, "a module call at each read; keeps all old weights", goal=1.0),
        "untied": Way(untied, "no rival: what a tie is added to", goal=1.05),
        "x-transformers, weight_tie_layers": Way(
            x_transformers("theirs"), "its own blocks: compare the next row", needs="x_transformers"
        ),
        "ws.Tie on x-transformers": Way(
            x_transformers("ours"), "the same blocks, tied by us", ours=True, needs="x_transformers"
        ),
    },
)
