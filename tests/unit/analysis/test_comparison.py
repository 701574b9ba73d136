"""The page of a sweep: what is best, what that rests on, and pictures with every number in its place."""

import pytest

from weightshare.analysis.comparison import Comparison, Entry, answer, compare_page, comparison_picture
from weightshare.analysis.grids import draw_many


def entry(accuracy, shared=None, status="finished", epochs=3, error="", **values):
    rows = [{"epoch": at + 1, "test_accuracy": accuracy * (at + 1) / epochs} for at in range(epochs)]
    if shared is not None:
        rows[-1]["distinct_share"] = shared
    ended = status in ("finished", "stopped early")
    summary = {"stored": 100 * values.get("width", 1), "training_seconds": 2.0} if ended else {}
    name = "_".join(f"{key}={value}" for key, value in values.items())
    return Entry(name, values, status, rows if ended else rows[:1], summary, error, 1)


STRENGTHS, REWINDS = (0.1, 1.0, 10.0), (0.9, 0.99)
ACCURACY = {(a, b): 0.5 + 0.1 * i + 0.04 * j for i, a in enumerate(STRENGTHS) for j, b in enumerate(REWINDS)}
SHARED = {key: value**4 for key, value in ACCURACY.items()}  # the better, the more values


def two_keys(*missing, seeds=(0, 1)):
    return [
        entry(ACCURACY[a, b] + 0.01 * seed, SHARED[a, b], strength=a, rewind=b, seed=seed)
        if (a, b) not in missing
        else entry(0.3, status="waiting", strength=a, rewind=b, seed=seed)
        for a in STRENGTHS
        for b in REWINDS
        for seed in seeds
    ]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_means_are_over_seeds_and_the_best_is_first():
    compared = Comparison(two_keys(), "test_accuracy")
    assert [axis.name for axis in compared.axes] == ["strength", "rewind"]
    assert [one.name for one in compared.ranked][:2] == ["strength=10.0, rewind=0.99", "strength=10.0, rewind=0.9"]
    assert compared.best().mean("test_accuracy") == pytest.approx(0.745)
    assert Comparison(two_keys(), "test_accuracy", "min").best().name == "strength=0.1, rewind=0.9"


def test_the_answer_says_the_best_and_what_fewer_values_cost():
    runs = [entry(0.8 + 0.01 * s, 0.9, lr=1, seed=s) for s in (0, 1)] + [entry(0.79, 0.5, lr=2), entry(0.77, 0.1, lr=3)]
    runs += [entry(0.7, 0.01, lr=4)]
    assert answer(Comparison(runs, "test_accuracy")) == [
        "Best test accuracy: lr=1 (80.50% ± 0.71% over 2 seeds, 90.00% of the regularised weights distinct).",
        "At most 5% worse with the fewest distinct values: lr=3 (77.00%, 10.00% of the regularised weights distinct).",
    ]
    runs = [entry(0.8, 0.9, lr=1), entry(0.83, 0.1, lr=2), entry(0.9, 0.01, lr=3)]
    assert Comparison(runs, "test_accuracy", "min").fewest_near_best().values == {"lr": 2}
    assert answer(Comparison([entry(0.3, status="waiting", lr=1)], "test_accuracy")) == ["No run has ended yet."]


def test_a_configuration_that_another_beats_in_both_is_not_on_the_front():
    runs = [entry(0.9, 0.5, lr=1), entry(0.8, 0.6, lr=2), entry(0.7, 0.1, lr=3), entry(0.9, 0.5, lr=4)]
    assert [one.values["lr"] for one in Comparison(runs, "test_accuracy").front()] == [1, 4, 3]
    page = compare_page("t", Comparison(runs, "test_accuracy"), "")
    assert page.count("%</td>") + page.count("% ●</td>") == 12
    assert page.count("% ●</td>") == 3


def test_a_best_whose_runs_all_came_to_their_end_goes_before_one_that_ended_early():
    runs = [entry(0.95, status="stopped early", lr=1), entry(0.9, lr=2), entry(0.0, status="failed", lr=3)]
    compared = Comparison(runs, "test_accuracy")
    assert compared.best().values == {"lr": 2}
    assert "an answer of some of the runs" in answer(compared)[-1]


def test_two_settings_are_heat_maps_of_the_metric_and_of_what_is_shared():
    figure = comparison_picture(Comparison(two_keys((1.0, 0.9)), "test_accuracy"))
    accuracy, shared = figure.axes[:2]
    assert texts(accuracy) == ["50.50%", "54.50%", "–", "64.50%", "70.50%", "74.50%"]
    assert texts(shared)[2] == "–"
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["0.1", "1.0", "10.0"]
    assert [label.get_text() for label in accuracy.get_xticklabels()] == ["0.9", "0.99"]
    assert (accuracy.get_title(), shared.get_title()) == ("test accuracy", "distinct share")


def test_a_third_setting_is_a_column_of_heat_maps_on_one_scale():
    runs = [
        entry(0.1 * a + 0.2 * b + 0.3 * c, lr=a, width=b, depth=c) for c in (0, 1) for a in (0, 1, 2) for b in (1, 2)
    ]
    figure = comparison_picture(Comparison(runs, "test_accuracy"))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ["depth 0", "depth 1"] * 2
    assert texts(figure.axes[1])[-1] == "90.00%"
    assert texts(figure.axes[2])[:2] == ["100", "200"]  # stored numbers differ, so they are shown too
    limits = [axes.collections[0].get_clim() for axes in figure.axes[:2]]
    assert limits[0] == limits[1] == pytest.approx((0.2, 0.9))


def test_one_setting_is_a_line_through_the_means_and_a_dot_for_each_seed():
    runs = [
        entry(0.5 + 0.1 * at + 0.02 * seed, lr=lr, seed=seed)
        for at, lr in enumerate((0.1, 0.001, 10.0))
        for seed in (0, 1)
    ]
    (axes,) = comparison_picture(Comparison(runs, "test_accuracy")).axes
    dots, line = axes.lines
    assert len(dots.get_xdata()) == 6
    assert list(line.get_xdata()) == [0.001, 0.1, 10.0]
    assert list(line.get_ydata()) == pytest.approx([0.61, 0.51, 0.71])
    assert axes.get_xscale() == "log"


def test_values_that_were_drawn_are_points_over_each_of_them():
    runs = [entry(0.1 * at, lr=0.1 * at, momentum=0.5 + 0.01 * at**2) for at in range(1, 6)]
    figure = comparison_picture(Comparison(runs, "test_accuracy"))
    assert [axes.get_xlabel() for axes in figure.axes] == ["lr", "momentum"]
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]


def test_names_stand_side_by_side():
    runs = [entry(0.5, optimizer=name) for name in ("adamw", "sgd")]
    (axes,) = comparison_picture(Comparison(runs, "test_accuracy")).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["adamw", "sgd"]


def test_seeds_alone_have_no_picture():
    assert comparison_picture(Comparison([entry(0.5, seed=0), entry(0.6, seed=1)], "test_accuracy")) is None


def test_the_page_escapes_links_and_stands_alone():
    runs = [entry(0.5, 0.1, lr=1), entry(0.4, 0.2, status="failed", error="<script>no</script>", lr="a b&c")]
    page = compare_page("t", Comparison(runs, "test_accuracy"), "grid: <x>")
    assert "<script" not in page
    assert 'href="lr%3D1/report.html"' in page
    assert "Failed: lr=a b&amp;c" in page
    assert page.count("<svg") == 2


def test_a_thousand_runs_are_drawn_and_the_best_ones_named():
    lines = [(f"run {at}", [(1, 0.1), (2, 0.001 * at)]) for at in range(1000)]
    (axes,) = draw_many(lines, "test accuracy").axes
    assert len(axes.lines) == 1000
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"run {at}" for at in range(8)]
