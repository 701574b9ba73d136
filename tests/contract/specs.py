"""The kinds of sharing that the contract holds for. A new kind is one more entry here, and passes the same events."""

from collections.abc import Callable

import weightshare as ws
from weightshare.sharing import Spec

SPECS: dict[str, Callable[[], Spec]] = {
    "halves": lambda: ws.Tie(rate=2),
    "random thirds, mean": lambda: ws.Tie(rate=3, order=ws.random(7), fuse=ws.mean),
    "back, strided": lambda: ws.Tie(rate=2, order=ws.strided, spread=ws.back),
    "clusters": lambda: ws.Codebook(clusters=3),
}
"""Neighbours that share; distant readers and fused numbers; and slots of one reader beside shared ones."""
