"""Heat maps of CKA: which numbers belong to which panel, and that images are from the whole test set."""

import json

import pytest
import torch

from weightshare.experiments.studies import lin2022_cifar_cka as maps
from weightshare.models import convmixer
from weightshare.training.data import load_data


@pytest.fixture
def networks(monkeypatch):
    """Untrained networks in the place of finished runs: one for each row and seed, and what was asked for."""
    asked = []

    def network(row, seed, *_):
        asked.append((row, seed))
        torch.manual_seed(len(row) + 31 * seed)
        return convmixer(7, 3, 2, 3, classes=10, in_channels=1)

    monkeypatch.setattr(maps, "_network", network)
    return asked


def test_every_panel_is_a_network_beside_the_unshared_one(tmp_path, networks):
    shown = []
    found = maps.draw_cka("runs", tmp_path, (3, 5), data="digits", echo=shown.append)
    assert networks == [("unshared", 3), *((row, (3, 5)[which]) for row, which in maps.PANELS.values())]
    assert {one.rows for one in found.values()} == {("blocks.0", "blocks.1", "blocks.2")}
    kept = json.loads((tmp_path / "lin2022" / "cifar10" / "cka.json").read_text())
    assert kept["seeds"] == [3, 5]
    for title, one in found.items():
        assert kept["cka"][title] == [[pytest.approx(x, abs=1e-5) for x in row] for row in one.values.tolist()]
    assert not torch.equal(found["unshared, another seed"].values, found["tied at rate 2"].values)
    assert (tmp_path / "lin2022" / "cifar10" / "cka.png").is_file()
    assert shown[0].count("of 3") == 6


def test_the_table_tells_the_same_layer_from_others():
    line = maps.table({"a": torch.tensor([[0.9, 0.2], [0.6, 0.5]])}).splitlines()[-1].split()
    assert line == ["a", "0.700", "0.400", "1", "of", "2"]


def test_images_come_from_the_whole_test_set(monkeypatch):
    monkeypatch.setattr(maps, "IMAGES", 40)
    batches = maps._batches("digits", None)
    assert [len(batch) for batch in batches] == [10, 10, 10, 10]
    data = load_data("digits")
    rows = torch.linspace(0, len(data.test) - 1, 40).long()
    wanted, _ = next(data.test.batches([rows[1::4]]))
    # As the training images of the table are normalised: a fifth of all, less the validation part.
    learnt = maps.config("unshared", 0, "unused", "digits").prepare(data).train
    torch.testing.assert_close(batches[1], learnt.normalised(wanted))
