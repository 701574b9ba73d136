"""docs/inspect.md says what is so: its code runs, what it prints is what the command prints, what it names is there."""

import re
import runpy

import pytest
import torch

from tests.support import ROOT

PAGE = (ROOT / "docs" / "inspect.md").read_text(encoding="utf-8")


def test_the_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        exec(compile(snippet, "inspect.md", "exec"), names)
    assert "blocks.*.pointwise.weight" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "convmixer.html").read_text(encoding="utf-8")


def test_what_it_prints_is_what_is_printed():
    assert runpy.run_path(str(ROOT / "docs" / "refresh_inspect.py"))["filled"](PAGE) == PAGE


@pytest.mark.parametrize("path", re.findall(r"`(tests/[\w/.]+)`", PAGE))
def test_tests_that_it_names_are_there(path):
    assert (ROOT / path).is_file()


def test_the_picture_is_there():
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert (ROOT / "docs" / picture).is_file()
