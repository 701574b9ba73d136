"""Pages and pictures: escaped, self-contained, and as large as what they show."""

from torch import nn

from weightshare.analysis.page import Section, Tile, plan_sections, render_page
from weightshare.analysis.pictures import draw_assignment, draw_curves, svg
from weightshare.depth.tie import Tie
from weightshare.verbs import plan


def test_what_a_page_is_given_is_escaped():
    hostile = "<script>alert(1)</script>"
    page = render_page(
        hostile,
        hostile,
        [Tile(hostile, hostile, hostile)],
        [Section(hostile, hostile, [hostile], [[hostile]], listing=hostile)],
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 11


def test_columns_of_numbers_are_aligned_to_the_right():
    section = Section("t", columns=["a", "b", "c"], rows=[[1234, "± 0.5", "x"], [5, "98.1%", "7"]])
    assert section.numeric == [True, True, False]
    assert '<td class="number">1,234</td>' in render_page("t", "", [], [section])


def test_the_assignment_picture_has_a_cell_for_every_layer_of_every_group():
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(5)))
    figure = draw_assignment(plan(net, Tie(slots=[0, 1, 0, 2, 1])))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["0", "1", "0", "2", "1"] * 2
    filled = [patch.get_facecolor()[3] > 0 for patch in axes.patches]
    assert filled == [True, True, True, False, True] * 2


def test_many_groups_are_cut_and_the_picture_says_so():
    net = nn.Sequential(*(nn.ModuleList(nn.Linear(2, 3) for _ in range(23)) for _ in range(2)))
    made = plan(net, Tie(rate=2))
    assert len(made.groups) == 46
    assert draw_assignment(made).axes[0].get_title() == "the first 40 of 46 groups"


def test_a_curve_is_the_mean_over_seeds():
    runs = {"a": [[{"epoch": 1, "m": 1.0}, {"epoch": 2, "m": 3.0}], [{"epoch": 1, "m": 2.0}, {"epoch": 2, "m": 5.0}]]}
    figure = draw_curves(runs, "m", "metric")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.5, 4.0]
    drawn = svg(figure, "a < b")
    assert drawn.startswith("<svg")
    assert "<title>a &lt; b</title>" in drawn


def test_left_out_parameters_are_listed_with_their_reasons():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    _, left_out = plan_sections([plan(net, Tie(rate=2))])
    assert [row[0] for row in left_out.rows] == ["0.weight", "0.bias"]
