"""The page of each paper says what is so: equations have functions and tests, and every number is a result."""

import ast
from functools import cache
from importlib import import_module
import re
import runpy

import pytest

from tests.support import ROOT
from weightshare.experiments import papers

PAPERS = ("pogodin2021", "lin2022", "savarese2019", "shakerinava2023")
FOLDER = ROOT / "docs" / "papers"
PAGES = {paper: (FOLDER / f"{paper}.md").read_text(encoding="utf-8") for paper in PAPERS}
SCRIPT = runpy.run_path(str(ROOT / "docs" / "refresh_papers.py"))
every_paper = pytest.mark.parametrize("paper", PAPERS)

EQUATIONS = {
    "pogodin2021": [*map(str, range(1, 8)), "8a", "8b", *map(str, range(9, 58)), "4.1", "5.1", "A.4", "A.5", "B"],
    "lin2022": ["1", "A.1", "3", "3.2", "B", "E", "F.1", "F.2"],
    "savarese2019": ["soft parameter sharing", "folding", "parameter efficiency", "evolution", "extrapolation bias"],
    "shakerinava2023": [
        *("R", "∂R", "prox", "velocity", "collision", "EndCollisions", "ImminentCollisions", "SearchCollisions"),
        *("training", "ℓ1", "rewinding", "retraining", "12", "regression", "baselines"),
    ],
}
"""What the papers number, and for what they do not number where it stands or what it is called."""
ROWS = {"pogodin2021": 38, "lin2022": 13, "savarese2019": 12, "shakerinava2023": 17}
DIFFERENCES = {"pogodin2021": 12, "lin2022": 10, "savarese2019": 11, "shakerinava2023": 12}


def part(paper, title):
    """What stands below a title, up to the next of its kind."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGES[paper], re.DOTALL | re.MULTILINE)[1]


def rows(text):
    """The rows of the first Markdown table, without its head."""
    lines = [line for line in f"\n{text}".split("\n\n| ", 1)[1].split("\n\n")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if "---" not in line]


def numbers(cell):
    """Of a first cell what it names: `31–33` is three, and what is in brackets is none."""
    for name in re.sub(r" \(.*?\)", "", cell).split(", "):
        first, _, last = name.partition("–")
        yield from map(str, range(int(first), int(last) + 1)) if last and first.isdigit() else [name]


@cache
def names_of_tests(path):
    """The names of a file's tests, as pytest collects them."""
    held = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {one.name for one in held.body if isinstance(one, ast.FunctionDef) and one.name.startswith("test_")}


def missing_tests(text):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    return [
        f"{path}::{name}" for path, name in named if not (ROOT / path).is_file() or name not in names_of_tests(path)
    ]


def found(name):
    """What a dotted name leads to: the longest module, and attributes from there."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            value = getattr(value, attribute)
        return value
    raise ModuleNotFoundError(name)


@every_paper
def test_every_equation_of_the_paper_is_there(paper):
    there = {number for cells in rows(part(paper, "Equations")) for number in numbers(cells[0])}
    assert set(EQUATIONS[paper]) <= there


@every_paper
def test_each_has_a_function_and_a_test(paper):
    equations = rows(part(paper, "Equations"))
    assert len(equations) == ROWS[paper]
    for _, formula, function, test in equations:
        assert formula
        functions = re.findall(r"`([\w.]+)`", function)
        assert functions
        assert all(callable(found(name)) for name in functions)
        assert re.fullmatch(r"`tests/[\w/]+\.py::\w+`(, `tests/[\w/]+\.py::\w+`)*", test)
    assert missing_tests(PAGES[paper]) == []


@every_paper
def test_each_difference_is_pinned_by_a_test(paper):
    differences = rows(part(paper, "What differs"))
    assert len(differences) == DIFFERENCES[paper]
    for what, test in differences:
        assert what.endswith(".")
        assert re.findall(r"`tests/[\w/]+\.py::test_\w+`", test)


def test_other_methods_name_what_is_there():
    text = part("lin2022", "Equations").partition("Methods of other papers")[2]
    assert [callable(found(function.strip("`"))) for _, function, _ in rows(text)] == [True] * 4


@every_paper
def test_blocks_are_those_of_the_committed_results(paper):
    assert SCRIPT["filled"](PAGES[paper], paper) == PAGES[paper]


@every_paper
def test_every_table_of_the_paper_is_listed_and_has_its_place(paper):
    tables = [table for table in papers.tables().values() if table.paper == paper]
    overview = part(paper, "Tables and figures")
    assert [table.name for table in tables if f"| `{table.name}` |" not in overview] == []
    shown = set(re.findall(r"<!-- ([\w-]+):begin -->", PAGES[paper]))
    assert [table.key for table in tables if table.key not in shown] == (
        ["table1", "table2"] if paper == "pogodin2021" else []  # whose cells are those of tables 4 and 12
    )


@every_paper
def test_what_was_made_says_how_and_how_to_make_it_again(paper):
    for name in (name for name, state in SCRIPT["_states"]().items() if state.table.paper == paper):
        text = SCRIPT["table"](name)
        assert text == "" or (f"weightshare reproduce {name} --scale " in text and "Made by commit " in text)
    assert "weightshare reproduce " in PAGES[paper]


@every_paper
def test_misprints_are_all_told(paper):
    told = part(paper, r"What the (?:paper|poster|text) gets wrong, or (?:says in two ways|leaves open)")
    for where in import_module(f"weightshare.experiments.printed.{paper}").MISPRINTS:
        assert f"| {where} |" in told


@every_paper
def test_links_and_pictures_lead_to_files(paper):
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[paper]) if "://" not in target]
    assert len(targets) > 2
    assert [target for target in targets if not (FOLDER / target).exists()] == []


@every_paper
def test_lines_are_short_but_for_tables(paper):
    inside = re.sub(r"<!-- ([\w-]+):begin -->.*?<!-- \1:end -->", "", PAGES[paper], flags=re.DOTALL)
    lines = [line for line in inside.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 150] == []
