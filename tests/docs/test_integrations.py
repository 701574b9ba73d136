"""docs/integrations.md says what is so: its code runs in order, the tests that it names are there."""

import re

import pytest
import torch

from tests.support import ROOT
from tests.unit.integrations.lightning_digits import QUIET
from weightshare.models.by_name import mend_torchvision

PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")


@pytest.fixture
def names(tmp_path, monkeypatch, capsys):
    """What the page's code leaves, its snippets run in order in an empty folder."""
    mend_torchvision()
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    found = {}
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(snippets) == 6
    for snippet in snippets:
        exec(compile(snippet, "integrations.md", "exec"), found)
    return found


pytestmark = [pytest.mark.filterwarnings(warning) for warning in QUIET]


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")
def test_its_code_runs(names, tmp_path, capsys):
    assert names["module"].blocks[0].weight is names["module"].blocks[1].weight
    assert (tmp_path / "shared" / "model.safetensors").is_file()
    assert (tmp_path / "int8.pt").stat().st_size < 8_000
    assert capsys.readouterr().out.endswith("fused, 4: 0.weight, 2.weight, 0.bias, 2.bias\n")


def test_tests_that_it_names_are_there():
    tests = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert len(tests) > 4
    assert [path for path in tests if not (ROOT / path).is_file()] == []
