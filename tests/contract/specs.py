"""The kinds of sharing that the contract holds for. A new kind is one more entry here, and passes the same events."""

from collections.abc import Callable

from tests.zoo import LOCAL, ZOO, Case
import weightshare as ws
from weightshare.depth import topology
from weightshare.depth.transform import LoRA
from weightshare.sharing import Spec

SPECS: dict[str, Callable[[], Spec]] = {
    "halves": lambda: ws.Tie(rate=2),
    "random thirds, mean": lambda: ws.Tie(rate=3, order=ws.random(7), fuse=ws.mean),
    "back, strided": lambda: ws.Tie(rate=2, order=ws.strided, spread=topology.back),
    "trained through": lambda: ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted)),
    "low rank of each layer": lambda: ws.Tie(rate=2, order=ws.strided, fuse=ws.mean, own=LoRA(1)),
    "templates": lambda: ws.Templates(2, init="from_pretrained"),
    "clusters": lambda: ws.Codebook(clusters=3),
    "lattice": lambda: ws.Lattice(),
    "low rank": lambda: ws.LowRank(rank=2),
}
"""Neighbours that share; distant readers and fused numbers; slots of one reader beside shared ones; layers that a bank
makes, of all that is fused, of a slot and a matrix of their own, or of templates; and what is inside one weight: its
scalars, classes of its positions, mixtures at its positions."""

OF_BANKS = ("trained through", "low rank of each layer", "templates")
"""Those whose layers store nothing, and read a bank."""

OF_POSITIONS = ("lattice", "low rank")
"""Those that are about local layers alone."""


def modules(spec: str) -> dict[str, Callable[[], Case]]:
    """The modules of the zoo that a spec is tried on."""
    return LOCAL if spec in OF_POSITIONS else ZOO
