"""Random networks, assignments and specs."""

from dataclasses import dataclass

from hypothesis import strategies as st
import torch
from torch import Tensor, nn

from tests.zoo import Residual
import weightshare as ws
from weightshare.depth import topology
from weightshare.depth.fuse import Fusion
from weightshare.depth.topology import Order, Spread

PRIMES = st.sampled_from([2, 3, 5, 7])


@st.composite
def label_lists(draw: st.DrawFn, items: int) -> list[int]:
    """Labels of so many items in which every slot up to the largest has a reader, in any order."""
    labels = draw(st.lists(st.integers(0, items - 1), min_size=items, max_size=items))
    rank = {slot: number for number, slot in enumerate(sorted(set(labels)))}
    return [rank[slot] for slot in labels]


@dataclass(frozen=True)
class Network:
    """A recipe of a network of equal blocks; its numbers follow from the seed."""

    kind: str
    depth: int
    width: int
    hidden: int
    seed: int

    def build(self) -> nn.Sequential:
        """The network, every number of it random."""
        torch.manual_seed(self.seed)
        model = nn.Sequential(*(self._block() for _ in range(self.depth)))
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        return model

    def example(self) -> Tensor:
        """An input for it."""
        return torch.randn(3, self.width, generator=torch.Generator().manual_seed(self.seed))

    def _block(self) -> nn.Module:
        if self.kind == "residual":
            return Residual(self.width, self.hidden)
        if self.kind == "linear":
            return nn.Linear(self.width, self.width)
        first, last = nn.Linear(self.width, self.hidden, bias=False), nn.Linear(self.hidden, self.width)
        return nn.Sequential(first, nn.Tanh(), last)


KINDS = st.sampled_from(["residual", "linear", "nested"])
NETWORKS = st.builds(Network, KINDS, st.integers(2, 7), PRIMES, PRIMES, st.integers(0, 99))


@dataclass(frozen=True)
class Sharing:
    """A network, how to share it and where. The spec is made by the test: shape checks use `random`, draws may not."""

    network: Network
    rate: float | None
    slots: tuple[int, ...] | None
    order: Order
    spread: Spread
    fuse: str | tuple[float, ...]
    where: str

    def spec(self, fuse: Fusion | None = None) -> ws.Tie:
        """The spec, or the same one with another fusion."""
        own = {"first": ws.first, "mean": ws.mean}.get(self.fuse) or ws.weighted_mean(self.fuse)
        return ws.Tie(rate=self.rate, slots=self.slots, order=self.order, spread=self.spread, fuse=fuse or own)


@st.composite
def sharings(draw: st.DrawFn) -> Sharing:
    """A sharing that fits its network: by a list of slots, or by rate, order and spread."""
    network = draw(NETWORKS)
    factors = st.lists(st.floats(-4, 4), min_size=network.depth, max_size=network.depth).map(tuple)
    fuse = draw(st.one_of(st.just("first"), st.just("mean"), factors))
    where = draw(st.sampled_from(["*", "*.weight", "*.bias"]))
    if draw(st.booleans()):
        slots = tuple(draw(label_lists(network.depth)))
        return Sharing(network, None, slots, ws.sequential, ws.uniform, fuse, where)
    spread = draw(
        st.sampled_from(
            [s for s in (ws.uniform, topology.front, topology.middle, topology.back) if len(s(network.depth))]
        )
    )
    most = len(spread(network.depth))
    rate = draw(st.one_of(st.integers(1, most), st.floats(1, most)))
    order = draw(st.one_of(st.just(ws.sequential), st.just(ws.strided), st.integers(0, 99).map(ws.random)))
    return Sharing(network, rate, None, order, spread, fuse, where)
