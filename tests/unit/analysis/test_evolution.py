"""How layers became alike, as pictures and as a file: what is shown where, and what is refused."""

import pytest
import torch

from tests.support import bits
from weightshare.analysis.lsm import animate_evolution, draw_evolution
from weightshare.depth.record import Evolution
from weightshare.errors import FileError, SpecError
from weightshare.files import archive
from weightshare.files.evolution import KIND, load_evolution, save_evolution


@pytest.fixture
def evolution() -> Evolution:
    """Two groups, of 5 and of 13 layers; of the second a layer is all zeros in the end."""
    generator = torch.Generator().manual_seed(0)
    layers = {name: tuple(f"{name}.{i}.weight" for i in range(count)) for name, count in (("one", 5), ("two", 13))}
    rows = {name: torch.randn(4, len(paths), 3, generator=generator) for name, paths in layers.items()}
    rows["two"][-1, 7] = 0.0
    return Evolution((0, 2, 10, 101), layers, rows)


def test_a_row_for_each_group_and_a_column_for_each_moment(evolution):
    *cells, bar = draw_evolution(evolution, at=(0, 0.02, 0.021, 0.1, 1)).axes
    assert [axes.get_title() for axes in cells[:4]] == ["step 0", "step 2", "step 10", "step 101"]
    assert [cells[0].get_ylabel(), cells[4].get_ylabel()] == ["one.*.weight\n5 layers", "two.*.weight\n13 layers"]
    assert bar.get_ylabel() == "|cos| of coefficients"
    shown = torch.as_tensor(cells[3].collections[0].get_array())
    torch.testing.assert_close(shown, evolution.similarity(-1)["one"].values)
    assert cells[0].get_ylim() == (5, 0)
    assert cells[0].collections[0].get_clim() == (0.0, 1.0)
    assert cells[7].collections[0].get_array().mask.sum() == 25


def test_signs_can_be_seen(evolution):
    *cells, bar = draw_evolution(evolution, at=(1,), signed=True).axes
    assert [axes.collections[0].get_clim() for axes in cells] == [(-1.0, 1.0)] * 2
    assert bar.get_ylabel() == "cos of coefficients"


def test_a_frame_for_each_moment(evolution, tmp_path):
    from PIL import Image

    with Image.open(animate_evolution(evolution, tmp_path / "a.gif", seconds=2.0)) as film:
        assert film.n_frames == 4
        assert film.info["duration"] == 500


def test_what_cannot_be_shown(evolution, tmp_path):
    for wrong in ({"path": "a.png"}, {"path": "a.gif", "seconds": 0}):
        with pytest.raises(SpecError, match=r"need a \.gif"):
            animate_evolution(evolution, **{**wrong, "path": tmp_path / wrong["path"]})
    with pytest.raises(SpecError, match="nothing to show"):
        draw_evolution(evolution, at=())
    with pytest.raises(SpecError, match="nothing to show"):
        draw_evolution(Evolution((0,), {}, {}))
    with pytest.raises(SpecError, match="fraction"):
        draw_evolution(evolution, at=(3,))


def test_a_file_holds_it_to_the_bit(evolution, tmp_path):
    path = tmp_path / "similarity.safetensors"
    save_evolution(evolution, path)
    found = load_evolution(path)
    assert (found.steps, found.layers) == (evolution.steps, evolution.layers)
    assert {k: bits(v) for k, v in found.coefficients.items()} == {
        k: bits(v) for k, v in evolution.coefficients.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [0, 2]},
        {"steps": [0, 2, 2, 101]},
        {"steps": 7},
        {"steps": [0, 2, 10, "x"]},
        {"layers": {"one": ["a"]}},
        {"layers": {"three": ["a"]}},
        {"layers": []},
    ],
)
def test_a_damaged_file_is_refused(evolution, tmp_path, change):
    path = tmp_path / "similarity.safetensors"
    save_evolution(evolution, path)
    held = archive.read(path, KIND)
    archive.write(path, held.tensors, {}, {**held.content, **change})
    with pytest.raises(FileError, match="no record of coefficients"):
        load_evolution(path)
