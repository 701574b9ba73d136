"""The page on how to choose says what is so: its tables are of committed results, what it names is there."""

from importlib import import_module
import re
import runpy

import pytest

from tests.support import ROOT
import weightshare as ws

PAGE = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
SCRIPT = runpy.run_path(str(ROOT / "docs" / "refresh_choose.py"))
NETWORKS = list(SCRIPT["networks"]())


def test_the_tables_are_those_of_the_committed_results():
    assert SCRIPT["filled"](PAGE) == PAGE


def test_all_four_methods_are_compared():
    assert {one.way for one in NETWORKS} == set(SCRIPT["WAYS"])
    papers = {one.source.partition("/")[0] for one in NETWORKS}
    assert papers == {"beyond", "lin2022", "savarese2019", "shakerinava2023"}
    assert all(0 < one.share < 110 and one.runs > 0 for one in NETWORKS)


def test_a_difference_is_that_of_the_two_rows():
    """Row by row from the files: 51.45 less 52.28 points with 76,554 of 297,738 numbers."""
    (tied,) = [one for one in NETWORKS if one.source == "beyond/four-methods/small" and one.way == "tied"]
    assert tied.points == pytest.approx(51.45 - 52.28, abs=0.02)
    assert tied.share == pytest.approx(100 * 76_554 / 297_738)
    (wider,) = [one for one in NETWORKS if one.source == "savarese2019/cifar/small" and one.share > 100]
    assert wider.points > 0  # of an error that is lower


def test_rows_that_the_text_names_are_those():
    few, mixed, fused = ({7, 25}, {11, 17}, {15})
    assert {at for at, one in enumerate(NETWORKS, 1) if one.way == "values"} == few
    assert all(NETWORKS[at - 1].way == "templates" and 45 < NETWORKS[at - 1].share < 50 for at in mixed)
    assert all(NETWORKS[at - 1].way == "fused" and NETWORKS[at - 1].points > -1 for at in fused)
    assert all(20 < NETWORKS[at - 1].share < 27 and -2.5 < NETWORKS[at - 1].points < 0 for at in (2, 4, 5, 6))
    assert all(NETWORKS[at - 1].points < -3 for at in (14, 16, 21, 22, 23, 24))


def test_a_range_is_of_all_its_rows():
    points = [one.points for one in NETWORKS if one.way == "fused-little"]
    assert len(points) == 4
    assert f"| {max(points):.1f} to {min(points):.1f} points for the mean" in PAGE
    assert max(points) - min(points) > 1


def test_what_it_names_is_there():
    names = set(re.findall(r"`ws\.(\w+)", PAGE))
    assert len(names) > 8
    assert [name for name in names if not hasattr(ws, name)] == []
    for name in ("permuted_mean", "LoRA", "SimilarityPenalty", "plan_loops"):
        (module,) = re.findall(rf"`{name}` is in `([\w.]+)`|`{name}` in\s+`([\w.]+)`", PAGE)
        assert hasattr(import_module("".join(module)), name)
    folders = re.findall(r"`((?:beyond|lin2022|savarese2019|shakerinava2023|pogodin2021|benchmarks)/[\w./-]+)`", PAGE)
    assert len(folders) > 20
    assert [folder for folder in folders if not (ROOT / "results" / folder).exists()] == []


def test_pictures_and_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE)
    there = [target for target in targets if (ROOT / "docs" / target).is_file()]
    assert len(there) > 4
    assert set(targets) == set(there)
