"""docs/export.md: its code runs, its tables are those of the committed results, and what it promises holds in them."""

import re
import runpy

import pytest
import torch

from tests.exporting import one_registry
from tests.support import ROOT
from weightshare.experiments.studies.exporting import METHODS, read

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def test_the_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    (snippet,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    with one_registry():
        exec(compile(snippet, "export.md", "exec"), names)
    assert names["made"].tensor_bytes == names["made"].stored_bytes == 2 * 4 * (64 * 64 + 64)
    assert names["program"].difference <= 1e-6
    assert "onnxruntime" in capsys.readouterr().out


def test_the_tables_are_those_of_the_committed_results():
    assert runpy.run_path(str(ROOT / "docs" / "refresh_export.py"))["filled"](PAGE) == PAGE


def test_what_the_page_promises_holds_in_the_results():
    sizes, compiled = read(ROOT / "results" / "export.json")
    assert {row.method for row in sizes} == {row.method for row in compiled} == set(METHODS)
    assert all(row.as_small and row.difference <= 1e-5 for row in sizes)
    assert all(row.breaks == 0 and row.again == row.evaluation for row in compiled)


@pytest.mark.parametrize("path", re.findall(r"`(tests/[\w/.]+)`", PAGE))
def test_tests_that_it_names_are_there(path):
    assert (ROOT / path).is_file()
