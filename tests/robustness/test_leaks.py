"""Short loops; and that the count sees what grows."""

import threading

import pytest
import torch
from torch import nn

from tests.robustness.leaks import LOOPS, grown, leaks

CYCLES, POINTS = 20, 4


QUICK = {"share_and_unshare", "save_and_load"}


@pytest.mark.parametrize("name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in LOOPS])
def test_nothing_grows_but_memory_that_an_allocator_keeps(name: str):
    found = grown(LOOPS[name], CYCLES, POINTS)
    assert [what for what in leaks(found) if what not in ("bytes", "objects")] == []
    assert found["objects"] < 1  # few cycles tell one object a cycle from none, and a megabyte from nothing
    assert found["bytes"] < 2**20


def test_what_grows_is_seen(tmp_path):
    kept, layer, stop = [], nn.Linear(2, 2), threading.Event()

    def cycle() -> None:
        kept.append(torch.zeros(9_999))
        layer.register_forward_hook(lambda *_: None)
        kept.append(open(tmp_path / "file", "w"))  # noqa: SIM115
        kept.append(threading.Thread(target=stop.wait, daemon=True))
        kept[-1].start()

    found = grown(lambda: cycle, CYCLES, POINTS)
    stop.set()
    for one in kept:
        if hasattr(one, "close"):
            one.close()
    assert set(leaks(found)) == {"bytes", "objects", "files", "threads", "hooks"}
    assert found["hooks"] == CYCLES / 2
