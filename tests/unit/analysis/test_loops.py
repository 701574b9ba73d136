"""Pictures of loops: a box for each block that is left, and how often each loop runs."""

import pytest

from weightshare.analysis.loops import draw_loops
from weightshare.depth.chain import Chain
from weightshare.depth.loops import find_loops
from weightshare.errors import SpecError


def chain(path: str, labels: str) -> Chain:
    return Chain(path, tuple(str(at) for at in range(len(labels))), find_loops(labels), ())


def test_a_box_for_each_block_and_an_arrow_for_each_loop():
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    one, two = draw_loops([chain("layer1", "abbbcdcd"), chain("", "xy")]).axes
    assert [text.get_text() for text in one.texts] == ["0", "1", "3 ×", "4", "5", "2 ×"]
    assert [one.get_ylabel(), two.get_ylabel()] == ["layer1", "model"]
    boxes = [patch for patch in one.patches if isinstance(patch, FancyBboxPatch)]
    arrows = [patch for patch in one.patches if isinstance(patch, FancyArrowPatch)]
    assert [patch.get_facecolor()[3] for patch in boxes] == [0.0, 1.0, 1.0, 1.0]
    assert len(arrows) == 3 + 2
    assert len(two.patches) == 2 + 1


def test_without_a_chain_there_is_nothing():
    with pytest.raises(SpecError, match="nothing to show"):
        draw_loops([])
