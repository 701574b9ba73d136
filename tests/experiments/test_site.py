"""The site: whole and readable pages, the numbers of the cells and no others, and what is apart told apart."""

from dataclasses import replace
import math

import pytest

from tests.browsing import CHROMIUM, browser
from tests.experiments import made_up, pages
from tests.support import ROOT
from weightshare.cli import main
from weightshare.errors import ConfigError
from weightshare.experiments import papers
from weightshare.experiments.site import build
from weightshare.experiments.studies.results import Result

SMALL = "small"
OLD = {
    "paper": "pogodin2021",
    "table": "table1-early",
    "metric": "test_accuracy",
    "seeds": [0, 1],
    "config": {},
    "seconds": [1.0, 2.0],
    "paper_value": 0.75,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A site of made-up tables: its folder, and that of its results."""
    root = tmp_path_factory.mktemp("site")
    results, out = root / "results", root / "site"
    results.mkdir()
    made_up.write_all(results)
    Result(**OLD, run="one", values=[0.5, 0.75], environment={"commit": None}, notes="Of one <b>.").write(results)
    Result(**OLD, run="two", values=[0.5, 0.5], environment={"commit": made_up.COMMIT}, notes="Of two.").write(results)
    (results / "pogodin2021" / "table1-early" / "curves.json").write_text("[1, 2]", encoding="utf-8")
    (results / "broken.json").write_text("{", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(papers, "tables", lambda: made_up.TABLES)
        written = build(results, out, made_up.VERSION)
    assert written[0] == out / "index.html"
    return out, results, pages.site(out)


def test_there_is_a_page_for_everything_and_a_way_to_each(made):
    out, _, site = made
    assert {*site} == {f"{name}.html" for name in (*made_up.TABLES, "index", "trade-offs", "earlier")}
    reached = {
        (page.path.parent / link.partition("#")[0]).resolve()
        for page in site.values()
        for link in page.links
        if link[0] != "#"
    }
    assert {page.path.resolve() for page in site.values()} <= reached
    assert [(out / name).is_file() for name in ("style.css", "copy.js")] == [True, True]


def whole(site):
    """What is wrong with pages."""
    faults = [f"{address}: {fault}" for address, page in site.items() for fault in page.faults]
    for address, page in site.items():
        steps = [after - before for before, after in zip(page.headings, page.headings[1:], strict=False)]
        if page.headings[:1] != [1] or page.headings.count(1) != 1 or any(step > 1 for step in steps):
            faults.append(f"{address}: headings {page.headings}")
    return faults + pages.dangling(site)


def test_pages_are_whole_and_need_nothing_from_elsewhere(made):
    assert whole(made[2]) == []


def test_faults_are_found(tmp_path):
    (tmp_path / "bad.html").write_text(
        '<main><h2 id="a">x</h2><p id="a"><a href="gone.html">y</a><svg><path/></svg><img src="https://a.b/c.png">'
        '<table><thead><tr><th>z</th></tr></thead></table></p></main><div tabindex="0">',
        encoding="utf-8",
    )
    text = "\n".join(whole(pages.site(tmp_path)))
    for part in (
        "twice",
        "no image",
        "begin with its title",
        "text",
        "scope",
        "caption",
        "closed",
        "focus",
        "headings [2]",
    ):
        assert part in text
    assert "gone.html" in text
    assert "https://a.b/c.png" in text


def test_numbers_are_those_of_the_cells_and_of_the_paper(made):
    shown = pages.compared(made[2]["pogodin2021/table4.html"])
    for (row, column), mean in made_up.MADE.items():
        text = "diverged" if math.isnan(mean) else f"{mean:.2f} ± 1.00"
        title = made_up.ACCURACIES[column][f"{column}/top1"].title
        assert shown[SMALL, row, f"{title} (%)", "ours"] == text
    top1 = "CIFAR-10 top-1 (%)"
    assert [shown[SMALL, row, top1, "paper"] for row in made_up.ROWS] == ["84.1", "67.21", "Diverged", "81"]
    assert [shown[SMALL, row, top1, "difference"] for row in made_up.ROWS] == ["-0.10", "-1.21", "", "-0.50"]
    assert shown[SMALL, "lc", "CIFAR-10 top-1, less conv (%)", "ours"] == "-18.00 ± 1.41"
    assert shown[SMALL, "lc", "CIFAR-10 top-1, less conv (%)", "difference"] == "-1.10"
    assert shown[SMALL, "lc-ws10", "CIFAR-100 top-1 (%)", "ours"] == ""
    assert {scale for scale, *_ in shown} == {SMALL, "smoke"}
    captions = [grid.caption for grid in made[2]["pogodin2021/table4.html"].grids if len(grid.heads) == 2]
    assert captions[0].endswith("· small, each of ours a mean over 3 runs")
    assert captions[2].endswith("· smoke, one run of each")


def test_cells_of_unequal_runs_say_how_many_they_have(tmp_path, monkeypatch):
    monkeypatch.setattr(papers, "tables", lambda: {made_up.TABLE.name: made_up.TABLE})
    for row, runs in {"conv": 2, "lc": 3}.items():
        some = {seed: made_up.outcome(50.0, seed, "cifar10/top1") for seed in range(runs)}
        made_up.write(tmp_path, made_up.TABLE, row, "cifar10", "small", some)
    build(tmp_path, tmp_path / "site", made_up.VERSION)
    shown = pages.compared(pages.Page(tmp_path / "site" / "pogodin2021" / "table4.html"))
    top1 = "CIFAR-10 top-1 (%)"
    assert [shown[SMALL, row, top1, "ours"] for row in ("conv", "lc")] == ["49.50 ± 0.71 2 runs", "50.00 ± 1.00 3 runs"]


def test_misprints_stand_below_with_a_link_from_their_number(made):
    page = made[2]["pogodin2021/table4.html"]
    assert "#small-note1" in page.links
    assert "The text says 16.8 < 16.9." in "".join(page.text)


def test_what_does_not_count_is_in_no_table_and_has_its_reason(made):
    for page in made[2].values():
        cells = [cell for grid in page.grids for row in grid.body for cell in row]
        assert not [cell for cell in cells if any(number in cell for number in ("99.1", "98.1", "97.1"))]
    text = "".join(made[2]["pogodin2021/table4.html"].text)
    assert "lc-ws10@cifar100.json: made with changes that are in no commit, on top of 0123456789" in text
    assert "paper/conv@cifar100.json: of another protocol: epochs 7, now 200" in text
    assert "small+mine/conv@cifar10.json: with changes of somebody's own: epochs=3" in text
    assert "paper/conv.json: " in "".join(made[2]["pogodin2021/figure5.html"].text)


def test_what_the_scale_changed_where_it_comes_from_and_how_to_make_it_again(made):
    page = made[2]["pogodin2021/table4.html"]
    (grid,) = [grid for grid in page.grids if grid.caption == "By key of the configuration"][:1]
    assert grid.body == [["epochs", "200", "12", "all"], ["width", "64", "32", "all"]]
    text = " ".join("".join(page.text).split())
    for words in (
        "A fifth of the images, 12 epochs instead of 200 & half the width.",
        "commit0123456789",
        "cifar10_jpeg.npz, in place of the data set, whose images were saved as JPEG",
        "A processor, threads in a run: 1",
        "at most 768 MiB",
        "36.0 Wh, in 18 of 18 runs",
        "weightshare reproduce pogodin2021/table4 --scale small --data cifar10=FOLDER/cifar10_jpeg.npz "
        "--data cifar100=FOLDER/cifar10_jpeg.npz",
        "Not all is there: 6 of 7 cells.",
        "test accuracy, cifar10 of conv: seed 0 ends at 83, seed 1 ends at 84, seed 2 ends at 85",
    ):
        assert words in text
    (runs,) = [grid for grid in page.grids if grid.caption == "Every run, small"]
    assert len(runs.body) == 18
    assert runs.body[0] == ["conv, cifar10", "0", "83", "", "7,083", "", "2 min"]


def test_tables_like_another_show_its_cells_and_derived_ones_what_is_computed(made):
    main = made[2]["pogodin2021/table1.html"]
    assert pages.compared(main) == pages.compared(made[2]["pogodin2021/table4.html"])
    assert "../pogodin2021/table4.html" in main.links
    half = pages.compared(made[2]["pogodin2021/table6.html"])
    assert half[SMALL, "conv", "CIFAR-10 top-1 (%)", "ours"] == "42.00 ± 0.50"
    assert "computed from" in "".join(made[2]["pogodin2021/table6.html"].text)


def test_the_index_says_how_much_is_there(made):
    grids = {grid.caption: {row[0].split()[0]: row[1:] for row in grid.body} for grid in made[2]["index.html"].grids}
    listed = grids["Tables and figures of pogodin2021: cells that are there at each scale"]
    assert listed["table4"] == ["nothing yet", "6 of 7", "1 of 7"]
    assert listed["figure5"] == ["nothing yet", "all 2", "nothing yet"]


def test_nothing_made_shows_what_is_printed(made):
    shown = pages.compared(made[2]["lin2022/table9.html"])
    assert shown["paper's numbers alone", "conv", "CIFAR-100 top-1 (%)", "paper"] == "50.27"
    assert {kind for *_, kind in shown} == {"paper"}
    assert "prints no number here" in "".join(made[2]["beyond/figure1.html"].text)


def test_trade_offs_have_every_network_that_says_what_it_stores(made):
    page = made[2]["trade-offs.html"]
    ten, hundred = page.grids
    assert ten.caption == "Networks on cifar10, small"
    assert [row[3:6] for row in ten.body] == [
        ["7,084", "84.00 ± 1.00", "3"],
        ["7,066", "66.00 ± 1.00", "3"],
        ["7,080", "80.50 ± 1.00", "3"],
    ]
    assert len(hundred.body) == 2


def test_earlier_studies_are_listed_apart_with_their_notes(made):
    page = made[2]["earlier.html"]
    (grid,) = page.grids
    assert grid.body == [
        ["one", "test accuracy", "0.625 ± 0.18", "2", "0.75", "not recorded", "1"],
        ["two", "test accuracy", "0.5 ± 0", "2", "0.75", "0123456789", "2"],
    ]
    text = "".join(page.text)
    assert "Of one <b>." in text
    assert "broken.json: cannot be read" in text
    assert "curves.json: numbers that a study" in text


def test_a_figure_that_wants_more_cells_says_so_and_one_that_has_all_is_drawn(made, tmp_path, monkeypatch):
    whole_page = made[2]["pogodin2021/figure5.html"].path.read_text(encoding="utf-8")
    assert "<title>A figure of two curves</title>" in whole_page
    monkeypatch.setattr(papers, "tables", lambda: {made_up.FIGURE.name: made_up.FIGURE})
    made_up.write(tmp_path, made_up.FIGURE, "conv", "", "small", {0: made_up.outcome(0.5, 1, "snr")})
    build(tmp_path, tmp_path / "site", made_up.VERSION)
    page = (tmp_path / "site" / "pogodin2021" / "figure5.html").read_text(encoding="utf-8")
    assert "cannot be drawn from the cells that are there: KeyError" in page


def test_a_picture_that_fails_with_all_cells_is_an_error(tmp_path, monkeypatch):
    broken = replace(made_up.FIGURE, picture=lambda found: 1 // 0)
    monkeypatch.setattr(papers, "tables", lambda: {broken.name: broken})
    for row in broken.rows:
        runs = {seed: made_up.outcome(0.5, 1, "snr") for seed in range(3)}
        made_up.write(tmp_path, broken, row, "", "small", runs)
    with pytest.raises(ZeroDivisionError):
        build(tmp_path, tmp_path / "site", made_up.VERSION)


def test_made_twice_it_is_the_same_and_results_are_untouched(made, tmp_path, monkeypatch):
    out, results, _ = made
    monkeypatch.setattr(papers, "tables", lambda: made_up.TABLES)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    for written in build(results, tmp_path, made_up.VERSION):
        assert written.read_bytes() == (out / written.relative_to(tmp_path)).read_bytes()
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}


def test_without_results_it_says_how_to_make_some(tmp_path):
    with pytest.raises(ConfigError, match="weightshare reproduce NAME"):
        build(tmp_path / "gone", tmp_path, "0.1.0")


def test_the_committed_results_make_whole_pages(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["site", "--results", str(ROOT / "results"), "--out", str(tmp_path)])
    assert stopped.value.code == 0
    site = pages.site(tmp_path)
    assert capsys.readouterr().out == f"{len(site)} pages. Open {tmp_path / 'index.html'}\n"
    assert {*site} >= {f"{name}.html" for name in papers.tables()}
    assert whole(site) == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser_pages_fit_a_phone_load_nothing_and_work_by_keyboard(made):
    with browser() as tab:
        for address, page in made[2].items():
            tab.open(page.path.as_uri(), width=360, height=740, phone=True)
            tab.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert tab.ask("Math.max(document.documentElement.scrollWidth, innerWidth)") == 360, address
        ground = {}
        for dark in (False, True):
            tab.open(made[2]["pogodin2021/table4.html"].path.as_uri(), dark=dark)
            ground[dark] = tab.ask("getComputedStyle(document.body).backgroundColor")
            inks = tab.ask(
                "[...new Set([...document.querySelectorAll('svg text')].map(one => getComputedStyle(one).fill))]"
            )
            assert inks == [tab.ask("getComputedStyle(document.querySelector('.lead')).color")]
        assert ground[False] != ground[True]
        tab.press("Tab", 9)
        assert tab.ask("document.activeElement.className") == "skip"
        assert tab.ask("document.activeElement.getBoundingClientRect().left >= 0")
        met = []
        for _ in range(60):
            tab.press("Tab", 9)
            met.append(tab.ask("document.activeElement.outerHTML.slice(0, 400)"))
            assert tab.ask("getComputedStyle(document.activeElement).outlineStyle") != "none", met[-1]
            if "Copy" in met[-1]:
                break
        text = "\n".join(met)
        for part in ("index.html", 'role="region"', "<summary>", "-note1", "Copy"):
            assert part in text
        assert tab.failures == []
        assert [one for one in tab.requests if not one.startswith(("file:", "data:", "about:"))] == []
