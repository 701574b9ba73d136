"""The page of an inspection: self-contained, escaped, with pictures, and right in a browser."""

from pathlib import Path
import re

import pytest
import torch
from torch import nn

from tests.browsing import CHROMIUM, browser
from tests.zoo import ZOO, chain
from weightshare.analysis.inspecting import inspect
from weightshare.analysis.inspection_page import short


@pytest.fixture(scope="module")
def page() -> str:
    torch.manual_seed(0)
    model = chain(depth=5, width=61, hidden=17).model
    with torch.no_grad():
        model.blocks[3].fc1.weight.copy_(model.blocks[1].fc1.weight)
    return inspect(model, name="nets:<make>").page()


def test_it_is_self_contained_and_escaped(page: str) -> None:
    assert "<script" not in page
    assert "<make>" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert page.count("<svg") == page.count("</svg>") == 1 + 2 + 1  # all matrices, two roles, what blocks compute


def test_the_strip_is_the_whole_model(page: str) -> None:
    pieces = re.findall(r'<span class="(\w+)" style="--share: ([\d.]+)" title="([^:]+)', page)
    assert [(kind, name) for kind, _, name in pieces] == [
        ("alone", "stem"),
        *(("kind0", f"blocks.{index}") for index in range(5)),
        ("alone", "head"),
    ]
    assert sum(float(share) for _, share, _ in pieces) == pytest.approx(1, abs=1e-4)


def test_code_can_be_copied(page: str) -> None:
    assert "<code>ws.Tie(rate=2, fuse=ws.mean)</code>" in page
    assert "weightshare plan nets:&lt;make&gt; --rate 2 --fuse mean" in page


@pytest.mark.parametrize("name", ["tied_embedding", "recurrent", "local_images", "complex_weights", "parameter_list"])
def test_awkward_modules_have_pages(name: str) -> None:
    found = inspect(ZOO[name]().model)
    assert f"<title>{found.model} · weightshare</title>" in found.page()


def test_where_nothing_repeats_the_page_says_so() -> None:
    assert "Nothing in it repeats." in inspect(nn.Linear(3, 5)).page()
    assert "there is nothing to share" in inspect(nn.ReLU()).page()


def test_numbers_in_short() -> None:
    assert [short(number) for number in (0, 4_000_000_000)] == ["0\xa0", "4.0\xa0G"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (1100, True), (400, False)])
def test_it_fits_a_screen_and_asks_for_nothing(page: str, tmp_path: Path, width: int, dark: bool) -> None:
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    with browser() as tab:
        tab.open((tmp_path / "page.html").as_uri(), width=width, dark=dark, phone=width < 500)
        assert tab.ask("document.documentElement.scrollWidth") == width
        assert not [address for address in tab.requests[1:] if not address.startswith("data:")]
        assert tab.failures == []
        ink = tab.ask("getComputedStyle(document.body).color")
        assert (ink == "rgb(230, 232, 235)") == dark
