"""The page on robustness shows the committed results, and what these say is what the project promises."""

import json
import re
import runpy

import pytest

from tests.robustness import covered, mutants
from tests.robustness.leaks import LOOPS, leaks
from tests.robustness.parsers import parsers
from tests.support import ROOT

PAGE = ROOT / "docs" / "robustness.md"
RESULTS = ROOT / "results" / "robustness"


def held(name: str):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_the_page_is_that_of_the_committed_results():
    script = runpy.run_path(str(ROOT / "docs" / "refresh_robustness.py"))
    assert script["filled"](PAGE.read_text(encoding="utf-8")) == PAGE.read_text(encoding="utf-8")


def test_no_sequence_of_the_soak_failed():
    found = held("soak")
    assert found["sequences"] == sum(found["modules"].values())
    assert found["failed"] == []


def test_every_parser_was_fuzzed_and_no_defect_is_left():
    found = held("fuzz")
    assert found["parsers"].keys() == parsers().keys()
    assert {name: told["defects"] for name, told in found["parsers"].items() if told["defects"]} == {}
    assert min(told["inputs"] for told in found["parsers"].values()) > 0


def test_nothing_leaked():
    found = held("leaks")
    assert found["loops"].keys() == LOOPS.keys()
    assert {name: leaks(one) for name, one in found["loops"].items() if leaks(one)} == {}


def test_what_is_written_down_of_coverage_is_of_the_core():
    assert {"weightshare.files", "weightshare.verbs", "weightshare.surgery"} <= {*covered.core()}
    assert "weightshare.training" not in covered.core()


def test_each_explanation_is_of_a_mutant_that_survived():
    explained = json.loads(mutants.SURVIVORS.read_text(encoding="utf-8"))
    found = (
        held("mutants") if (RESULTS / "mutants.json").exists() else {"tried": {}}
    )  # without them nothing is explained
    tried = {name: one for module in found["tried"].values() for name, one in module.items()}
    assert {name for name in explained if tried[name]["outcome"] not in ("survived", "no tests")} == set()
    assert all(explained.values())


@pytest.mark.parametrize("path", sorted({*re.findall(r"`(tests/[\w/.]+)`", PAGE.read_text(encoding="utf-8"))}))
def test_files_that_it_names_are_there(path: str):
    assert (ROOT / path).is_file()
