"""Images decoded batch by batch, in the process itself and in others."""

import pytest
import torch

from tests.unit.training.made_up_folder import HEIGHT, WIDTH, fill
from weightshare.errors import FileError
from weightshare.training.data import Lazy, listed, load_data


@pytest.fixture
def everything_lazy(monkeypatch):
    monkeypatch.setattr(listed, "IN_MEMORY", 0)


def test_lazy_and_in_memory_have_the_same_statistics(tmp_path, monkeypatch):
    fill(tmp_path)
    memory = load_data(str(tmp_path))
    monkeypatch.setattr(listed, "IN_MEMORY", 0)
    lazy = load_data(str(tmp_path))
    assert (lazy.train.mean, lazy.train.std) == (memory.train.mean, memory.train.std)
    assert torch.equal(lazy.example, memory.example)
    monkeypatch.setattr(listed, "SAMPLE", 4)
    sampled = load_data(str(tmp_path)).train
    rows = [0, 3, 6, 9]
    part = memory.train.images[rows].double().transpose(0, 1).flatten(1) / 255
    assert sampled.mean == pytest.approx(part.mean(1).tolist())
    assert sampled.std == pytest.approx(part.std(1).tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_lazy_batches_come_in_order_and_draw_nothing(workers, everything_lazy, tmp_path):
    expected = fill(tmp_path)["train"]
    split = load_data(str(tmp_path)).train
    split = Lazy(split.stored, split.labels, split.mean, split.std, split.shape, workers)
    rows = [torch.tensor([7, 0, 3]), torch.tensor([9]), torch.tensor([1, 1])]
    before = torch.get_rng_state()
    batches = list(split.batches(rows))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(batches) == 3
    for batch, (images, labels) in zip(rows, batches, strict=True):
        assert images.dtype == torch.float32
        torch.testing.assert_close(images, torch.from_numpy(expected[batch.numpy()]).float() / 255)
        assert torch.equal(labels, split.labels[batch])
    assert list(split.batches([])) == []
    assert split[3:3][0].shape == (0, 3, HEIGHT, WIDTH)


def test_a_lazy_split_moves_to_a_device(everything_lazy, tmp_path):
    fill(tmp_path)
    moved = load_data(str(tmp_path)).to("meta")
    assert moved.train.device == torch.device("meta")
    assert next(moved.train.batches([torch.tensor([1, 2])]))[0].shape == (2, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_damaged_later_is_named_without_a_traceback(workers, everything_lazy, tmp_path):
    fill(tmp_path)
    split = load_data(str(tmp_path)).train
    split = Lazy(split.stored, split.labels, split.mean, split.std, split.shape, workers)
    (tmp_path / "train" / "bee" / "1.png").write_bytes(b"no image")
    with pytest.raises(FileError) as caught:
        list(split.batches([torch.tensor([0, 1]), torch.tensor([4]), torch.tensor([2])]))
    assert str(caught.value).startswith(f"Cannot read the image '{tmp_path / 'train' / 'bee' / '1.png'}'")
    assert "Traceback" not in str(caught.value)
