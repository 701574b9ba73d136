"""Heat maps: what is written where, for few layers and for many."""

import pytest
import torch

from weightshare.analysis.heat import draw_similarity, short_names
from weightshare.depth.measure import Similarity
from weightshare.errors import SpecError


def made(layers: int, measure: str = "linear CKA") -> Similarity:
    names = tuple(f"blocks.{index}.fc1.weight" for index in range(layers))
    return Similarity(measure, names, names, torch.linspace(-0.25, 1, layers**2).view(layers, layers).double())


@pytest.mark.parametrize(("layers", "numbers", "names"), [(6, 36, 6), (12, 144, 12), (17, 0, 17), (64, 0, 22)])
def test_few_layers_have_numbers_and_many_have_every_other_name(layers: int, numbers: int, names: int) -> None:
    axes, bar = draw_similarity(made(layers)).axes
    assert len(axes.texts) == numbers
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == names
    assert axes.get_xticklabels()[1].get_text() == ("1" if layers < 25 else "3")
    assert axes.get_ylabel() == "blocks.*.fc1.weight"
    assert bar.get_ylabel() == "linear CKA"


def test_the_first_layer_is_above_and_colours_reach_from_least_to_one() -> None:
    (axes, _) = draw_similarity(made(5)).axes
    (mesh,) = axes.collections
    assert mesh.get_array().shape == (5, 5)
    assert mesh.get_clim() == (-0.25, 1.0)
    assert axes.get_ylim() == (5, 0)
    assert axes.texts[0].get_text() == "-0.25"
    assert (axes.texts[0].get_position(), axes.texts[1].get_position()) == ((0.5, 0.5), (1.5, 0.5))


def test_distances_reach_to_the_greatest_and_limits_can_be_given() -> None:
    found = Similarity("relative distance", ("a", "b"), ("a", "b"), torch.tensor([[0, 0.25], [0.25, 0]]))
    assert draw_similarity(found).axes[0].collections[0].get_clim() == (0.0, 0.25)
    assert draw_similarity(found, low=-1, high=3).axes[0].collections[0].get_clim() == (-1, 3)


def test_several_share_one_scale_and_one_bar() -> None:
    small = Similarity("linear CKA", ("a", "b"), ("c", "d", "e"), torch.zeros(2, 3))
    figure = draw_similarity({"one": small, "other": made(3)})
    one, other, _ = figure.axes
    assert (one.get_title(), other.get_title()) == ("one", "other")
    assert one.collections[0].get_clim() == other.collections[0].get_clim() == (-0.25, 1.0)
    assert [label.get_text() for label in one.get_xticklabels()] == ["c", "d", "e"]


def test_a_pair_without_a_value_has_no_number() -> None:
    found = Similarity("linear CKA", ("a", "b"), ("a", "b"), torch.tensor([[1, float("nan")], [float("nan")] * 2]))
    assert [text.get_text() for text in draw_similarity(found).axes[0].texts] == ["1.00"]


def test_other_measures_do_not_mix() -> None:
    with pytest.raises(SpecError, match="one measure, got \\['cosine', 'linear CKA'\\]"):
        draw_similarity({"one": made(2), "other": made(2, "cosine")})
    with pytest.raises(SpecError, match="got none"):
        draw_similarity({})


def test_names_are_cut_at_dots_alone() -> None:
    assert short_names(["a.10.w", "a.11.w"]) == ("a.*.w", ["10", "11"])
    assert short_names(["a.b", "a.b.c"]) == ("a.*", ["b", "b.c"])
    assert short_names(["a.b"]) == ("", ["a.b"])
    assert short_names(["stem.w", "blocks.0.w"]) == ("*.w", ["stem", "blocks.0"])
