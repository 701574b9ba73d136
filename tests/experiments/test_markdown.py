"""Tables as Markdown: the numbers of the cells and of the paper, and nothing of which nothing was made."""

from dataclasses import replace
import re

import pytest

from tests.experiments import made_up
from weightshare.experiments import markdown, papers
from weightshare.experiments.printed import Printed
from weightshare.experiments.site import Part
from weightshare.experiments.table import single


@pytest.fixture
def part(tmp_path, monkeypatch):
    """Of a made-up table by its name, at `small`."""
    made_up.write_all(tmp_path)
    monkeypatch.setattr(papers, "tables", lambda: made_up.TABLES)

    def of(name):
        return Part(made_up.TABLES[name], "small", 6, tmp_path, made_up.VERSION)

    return of


def lines(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_a_cell_may_hold_the_sign_between_cells():
    assert markdown.grid(("a", "b"), [("|x|", "1")]) == "| a | b |\n| --- | ---: |\n| \\|x\\| | 1 |"


def test_numbers_are_the_papers_ours_and_the_difference(part):
    found = part("pogodin2021/table4").kept.found
    table = lines(markdown.numbers(made_up.TABLE, found, ("/top1",)))
    top1 = ["CIFAR-10 top-1 (%): paper", "ours", "less paper"]
    assert table[0] == ["row", "", *top1]
    assert table[2] == ["`conv`", made_up.ROWS["conv"], "84.1", "84.00 ± 1.00", "-0.10"]
    assert ["`lc-ws1`", made_up.ROWS["lc-ws1"], "Diverged", "diverged", ""] in table
    assert ["`lc-ws10`", made_up.ROWS["lc-ws10"], "81", "80.50 ± 1.00", "-0.50"] in table
    assert table[6] == ["row", "", "CIFAR-100 top-1 (%): paper", "ours", "less paper"]  # of other rows
    assert [row[0] for row in table[8:]] == ["`conv`", "`lc`"]


def test_what_is_wrong_with_a_number_is_told_below(part):
    text = markdown.numbers(made_up.TABLE, part("pogodin2021/table4").kept.found)
    assert "-16.9 <sup>1</sup>" in text
    assert text.endswith("\n\n1. The text says 16.8 < 16.9.")
    assert "%: paper | ours |" not in text


def test_a_number_without_spread_has_none(part):
    table = replace(made_up.TABLE, printed={})
    found = {("conv", "cifar10"): dict.fromkeys(range(3), made_up.outcome(84.0, 1, "cifar10/top1"))}
    assert lines(markdown.numbers(table, found, ("top1",)))[2][2:] == ["84.00"]


def test_a_section_says_what_it_is_and_how_to_make_it_again(part):
    text = markdown.section(part("pogodin2021/table4"), picture="somewhere.png")
    assert text.startswith(
        "### Convolutions, local layers and sleep\n\nTable 4, at scale `small`: 6 of 7 cells, 3 runs"
    )
    assert "What the scale changes: A fifth of the images" in text
    assert "Made by commit 0123456789; " in text
    assert "Data: cifar10_jpeg.npz" in text
    assert "![Convolutions, local layers and sleep](somewhere.png)" in text
    assert "weightshare reproduce pogodin2021/table4 --scale small --data cifar10=FOLDER/cifar10_jpeg.npz" in text


def test_of_what_was_not_made_there_is_nothing(part):
    assert markdown.section(part("lin2022/table9")) == ""
    assert markdown.differences(made_up.TABLE, {}, "cifar10/top1", [("lc", "conv")]) == ""


def test_without_metrics_there_is_the_picture_alone(part):
    text = markdown.section(part("pogodin2021/table1"), (), "picture.png")
    assert lines(text) == []
    assert "](picture.png)" in text


def test_differences_have_an_error_and_the_papers(part):
    found = part("pogodin2021/table4").kept.found
    text = markdown.differences(made_up.TABLE, found, "cifar10/top1", [("lc", "conv"), ("lc-ws1", "conv")])
    (line,) = [line.split() for line in text.splitlines() if line.startswith("lc")]  # one of the others diverged
    assert line == ["lc", "conv", "-18.00", "±", "0.82", "yes", "-16.89"]


def test_an_overview_says_how_much_is_there():
    state = papers.State(made_up.TABLE, {"smoke": 0, "small": 3.5, "paper": 7}, 7)
    (_, _, row) = lines(markdown.overview([state]))
    assert row == ["`pogodin2021/table4`", made_up.TABLE.title, "table 4", "7", "3.5 of 7", "all 7"]


def test_misprints_are_equations_and_cells_and_roundings_are_one(monkeypatch):
    told = markdown.misprints("pogodin2021")
    assert "| equation 27 | Its second w_i is w_j. |" in told
    assert len(re.findall("rounded by themselves", told)) == 1
    assert "| table3, `fused-2`, top1 | Figure 4b has 75.14" in markdown.misprints("lin2022")


def test_many_metrics_stand_in_several_tables():
    metrics = {f"m{at}": made_up.ACCURACIES["cifar10"]["cifar10/top1"] for at in range(9)}
    table = replace(made_up.FIGURE, columns=single(**metrics), printed={"conv": {"m0": Printed(1.0, "")}})
    outcome = made_up.outcome(1.0, 1, "m0")
    outcome = replace(outcome, metrics=dict.fromkeys(metrics, 1.0))
    heads = [line for line in lines(markdown.numbers(table, {("conv", ""): {0: outcome}})) if line[0] == "row"]
    assert [len(head) - 2 for head in heads] == [markdown.WIDEST, 4]
