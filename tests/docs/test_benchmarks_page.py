"""docs/benchmarks.md is what its script makes of the committed results, and says of each rival how it did."""

import json
import runpy

import pytest

from benchmarks.contest import CONTESTS, contest
from tests.support import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "refresh_benchmarks.py"))
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
MEASURED = json.loads((ROOT / "results" / "benchmarks" / "rivals.json").read_text(encoding="utf-8"))["ratios"]


def test_the_page_is_that_of_the_results():
    assert SCRIPT["filled"](PAGE) == PAGE


def test_all_contests_were_measured_with_all_their_rivals():
    assert set(MEASURED) == {f"test_contest[{name}]" for name in CONTESTS}
    for name in CONTESTS:
        assert MEASURED[f"test_contest[{name}]"]["left_out"] == {}
        assert set(MEASURED[f"test_contest[{name}]"]["ways"]) == set(contest(name).ways)


@pytest.mark.parametrize("name", CONTESTS)
def test_claims_hold_in_the_committed_results(name):
    held, ways = contest(name), MEASURED[f"test_contest[{name}]"]["ways"]
    last = str(held.shown[-1])
    assert {
        key: ways[key][last]["ratio"]
        for key, goal in held.goals.items()
        if last in ways[key] and ways[key][last]["ratio"] > goal
    } == {}


def test_the_picture_has_a_panel_for_each_contest_and_a_line_for_each_way():
    figure = SCRIPT["draw"]()
    assert [axes.get_title() for axes in figure.axes] == [contest(name).title for name in CONTESTS]
    for axes, name in zip(figure.axes, CONTESTS, strict=True):
        labels = [line.get_label() for line in axes.lines]
        assert [label.rpartition(" (")[0] or label for label in labels] == list(contest(name).ways)
    assert (ROOT / "docs" / "images" / "benchmarks.png").is_file()


@pytest.mark.parametrize(
    ("ratio", "said"), [(0.5, "ahead"), (0.94, "ahead"), (0.97, "level"), (1.05, "level"), (1.2, "behind")]
)
def test_what_is_said_of_a_ratio(ratio, said):
    assert SCRIPT["verdict"](ratio) == said


def test_memory_is_compared_where_there_is_some():
    ratio, mega = SCRIPT["memory_ratio"], 2**20
    assert ratio(2 * mega, 8 * mega) == "0.25"
    assert ratio(0, 8 * mega) == "< 0.12"
    assert ratio(8 * mega, 0) == "8"
    assert ratio(5_000, 9_000) == ""
    assert ratio(None, mega) == ""
