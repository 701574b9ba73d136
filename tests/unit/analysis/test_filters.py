"""Filters on a torus: local ones, translated ones, and the picture of them."""

import pytest
import torch

from weightshare.analysis.filters import aligned, draw_filters, translated_similarity, window_energy
from weightshare.errors import SpecError


def random(n: int = 5, height: int = 7, width: int = 11, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_window_is_the_best_of_all_on_the_torus():
    filters = random()
    for size in (1, 2, 3, 7):
        slow = [
            max(
                float(one.roll((-top, -left), (0, 1))[:size, :size].square().sum())
                for top in range(7)
                for left in range(11)
            )
            / float(one.square().sum())
            for one in filters
        ]
        assert window_energy(filters, size).tolist() == pytest.approx(slow)
    assert float(window_energy(torch.zeros(1, 3, 5), 2)) == 0


@pytest.mark.parametrize("size", [0, 8])
def test_a_window_that_does_not_fit(size):
    with pytest.raises(SpecError, match="need 1 to 7"):
        window_energy(random(), size)


def test_similarity_is_the_greatest_cosine_over_shifts():
    filters = random()
    got = translated_similarity(filters)
    for i, one in enumerate(filters):
        for j, other in enumerate(filters):
            slow = max(
                float((one * other.roll((down, right), (0, 1))).sum() / one.norm() / other.norm())
                for down in range(7)
                for right in range(11)
            )
            assert float(got[i, j]) == pytest.approx(slow)
    assert torch.allclose(got, got.T)
    assert float(translated_similarity(torch.cat([filters[:1], torch.zeros(1, 7, 11).double()]))[0, 1]) == 0


def test_translations_fit_each_other_once_aligned():
    one = random(1)
    shifted = torch.cat([one.roll(shift, (1, 2)) for shift in ((0, 0), (3, 4), (6, 10))])
    assert torch.equal(aligned(shifted), one.expand(3, -1, -1))


def test_the_picture_shows_every_filter():
    figure = draw_filters({"a": random(5), "b": random(3, seed=1)}, columns=4)
    sheets = [axes.images[0].get_array() for axes in figure.axes]
    assert [sheet.shape for sheet in sheets] == [(15, 47), (7, 47)]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert int(torch.isfinite(torch.as_tensor(sheets[0].filled(float("nan")))).sum()) == 5 * 77
