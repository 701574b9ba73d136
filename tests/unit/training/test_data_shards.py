"""WebDataset shards: the same images, labels and interface as any other set, by an index that is kept beside them."""

import pickle
import tarfile

import numpy as np
import pytest
import torch

from tests.unit.training.made_up import check_same
from tests.unit.training.made_up_shards import COUNTS, HEIGHT, WIDTH, fill_shards, samples, write_tar
from weightshare.errors import FileError
from weightshare.training.data import InMemory, Lazy, Prepare, convert, listed, load_data, shard_index
from weightshare.training.data.tar_members import members as members_of
from weightshare.training.loop import fit
from weightshare.training.recipe import Recipe


@pytest.fixture
def everything_lazy(monkeypatch):
    monkeypatch.setattr(listed, "IN_MEMORY", 0)


@pytest.mark.parametrize("limit", [0, 10**9], ids=["lazy", "in memory"])
@pytest.mark.parametrize("layout", ["{part}-{number:04}.tar", "{part}/{number}.tar", "big_{part}_{number}.tar"])
def test_images_come_in_the_order_of_shards_and_members(layout, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(listed, "IN_MEMORY", limit)
    expected = fill_shards(tmp_path, layout)
    data = load_data(str(tmp_path))
    assert isinstance(data.train, Lazy if limit == 0 else InMemory)
    assert (data.name, data.classes, data.class_names) == (str(tmp_path), 3, ("0", "1", "2"))
    check_same(data, expected["train"], expected["val"])


@pytest.mark.parametrize(("ending", "label"), [("PNG", "cls"), ("webp", "json"), ("jpg", "cls"), ("jpeg", "json")])
def test_every_ending_counts_and_what_is_in_a_file_says_how_it_is_read(ending, label, tmp_path):
    expected = fill_shards(tmp_path, ending=ending, label=label)
    check_same(load_data(str(tmp_path)), expected["train"], expected["val"])


def test_other_members_are_no_samples_and_cls_counts(tmp_path):
    expected = fill_shards(tmp_path)
    members, *_ = samples("train", 1)
    more = [("train1/000.txt", b"a caption"), ("train1/000.json", b'{"label": 77}'), ("train1/._000.png", b"a Mac's")]
    more += [("train1/000.mask.png", b""), ("train1", b"")]
    write_tar(tmp_path / "train-0001.tar", [*more, *members])
    check_same(load_data(str(tmp_path)), expected["train"], expected["val"])


def test_long_names_and_members_apart_are_found(tmp_path):
    """Names beyond the 100 bytes of a header, and labels far from their images."""
    expected = fill_shards(tmp_path)
    members, *_ = samples("train", 0)
    long = [(f"{'deep/' * 60}{name}", content) for name, content in members]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        write_tar(tmp_path / "train-0000.tar", long[::2] + long[1::2][::-1], format=form)
        check_same(load_data(str(tmp_path)), expected["train"], expected["val"])


def test_classes_may_have_names(tmp_path):
    fill_shards(tmp_path)
    (tmp_path / "classes.txt").write_text("ant\nbee\ncow\n")
    assert load_data(str(tmp_path)).class_names == ("ant", "bee", "cow")
    for text in ("ant\n\ncow\n", "ant\nbee\nant\n", ""):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(FileError, match=r"classes\.txt' is damaged: need one class in each line"):
            load_data(str(tmp_path))


def test_any_rows_any_number_of_times_in_workers_too(everything_lazy, tmp_path):
    (images, labels), _ = fill_shards(tmp_path).values()
    split = load_data(str(tmp_path)).train
    rows = [torch.tensor([12, 0, 5]), torch.tensor([3, 3]), torch.tensor([7])]
    for workers in (0, 2):
        split = Lazy(split.stored, split.labels, split.mean, split.std, split.shape, workers)
        for batch, (got, told) in zip(rows, split.batches(rows), strict=True):
            torch.testing.assert_close(got, torch.from_numpy(images[batch.numpy()]).float() / 255)
            assert told.tolist() == labels[batch.numpy()].tolist()


def test_parts_are_held_out_and_cut(everything_lazy, tmp_path):
    (images, labels), _ = fill_shards(tmp_path).values()
    data = Prepare(validation=0.4, cut=3)(load_data(str(tmp_path)))
    of_class = [(labels == label).nonzero()[0] for label in range(3)]
    held = sorted(row for rows in of_class for row in rows[len(rows) - round(0.4 * len(rows)) :])
    got, told = next(data.test.batches([torch.arange(len(data.test))]))
    assert told.tolist() == labels[held].tolist()
    wanted = images[held][..., 1:4, 2:5]
    np.testing.assert_array_equal((got * 255).round().to(torch.uint8).numpy(), wanted)


def test_shards_and_memory_train_the_same(tmp_path, monkeypatch):
    """The order of rows is all that an epoch depends on: shards give what a set in memory gives, to the last bit."""
    fill_shards(tmp_path)
    memory = load_data(str(tmp_path))
    monkeypatch.setattr(listed, "IN_MEMORY", 0)
    lazy = load_data(str(tmp_path))
    weights = []
    for data in (memory, lazy):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * HEIGHT * WIDTH, 3))
        fit(model, data, Recipe(epochs=2, batch_size=4), seed=5, folder=None)
        weights.append(model[1].weight.detach().clone())
    assert torch.equal(*weights)


def test_shards_become_one_file(everything_lazy, tmp_path):
    expected = fill_shards(tmp_path / "set")
    data = convert(str(tmp_path / "set"), tmp_path / "a.npz")
    assert isinstance(data.train, InMemory)
    check_same(data, expected["train"], expected["val"])


# The index


@pytest.fixture
def counted(monkeypatch):
    """How many archives are read for an index."""
    read = []
    monkeypatch.setattr(shard_index, "members", lambda path: read.append(path.name) or members_of(path))
    return read


def test_the_index_is_made_once(counted, tmp_path):
    expected = fill_shards(tmp_path)
    for _ in range(2):
        check_same(load_data(str(tmp_path)), expected["train"], expected["val"])
        assert counted == [f"train-000{number}.tar" for number in range(3)] + ["val-0000.tar"]
    assert {path.name for path in tmp_path.glob(".*")} == {".weightshare-train.npz", ".weightshare-val.npz"}


def test_shards_that_change_are_read_again(counted, tmp_path):
    fill_shards(tmp_path)
    load_data(str(tmp_path))
    counted.clear()
    members, *_ = samples("train", 1)
    write_tar(tmp_path / "train-0001.tar", members[2:])
    assert len(load_data(str(tmp_path)).train) == sum(COUNTS["train"]) - 1
    assert counted == [f"train-000{number}.tar" for number in range(3)]
    (tmp_path / "train-0001.tar").unlink()
    assert len(load_data(str(tmp_path)).train) == sum(COUNTS["train"]) - COUNTS["train"][1]


def test_a_folder_that_cannot_be_written_has_its_index_in_memory(counted, tmp_path, monkeypatch):
    expected = fill_shards(tmp_path)
    monkeypatch.setattr(shard_index, "replacing", refusing)
    for times in (1, 2):
        check_same(load_data(str(tmp_path)), expected["train"], expected["val"])
        assert len(counted) == 4 * times
    assert list(tmp_path.glob(".*")) == []


def refusing(path):
    raise FileError(f"Cannot write '{path}': Read-only file system.")


@pytest.mark.parametrize(
    "harm",
    [
        lambda arrays: arrays | {"offset": arrays["offset"][1:]},
        lambda arrays: arrays | {"offset": -arrays["offset"]},
        lambda arrays: arrays | {"archive": arrays["archive"] + 2},
        lambda arrays: arrays | {"label": arrays["label"].astype(float)},
        lambda arrays: arrays | {"names": np.arange(len(arrays["names"]))},
        lambda arrays: {key: value for key, value in arrays.items() if key != "size"},
        None,
    ],
    ids=["short", "below 0", "no such shard", "floats", "no names", "an entry missing", "no file of numpy"],
)
def test_a_damaged_index_is_made_again(harm, counted, tmp_path):
    expected = fill_shards(tmp_path)
    load_data(str(tmp_path))
    path = tmp_path / ".weightshare-train.npz"
    writers = {True: lambda: path.write_bytes(b"nothing"), False: lambda: np.savez(path, **harm(dict(np.load(path))))}
    writers[harm is None]()
    counted.clear()
    check_same(load_data(str(tmp_path)), expected["train"], expected["val"])
    assert len(counted) == 3


def test_a_split_is_sent_to_workers_as_a_few_arrays(everything_lazy, tmp_path):
    fill_shards(tmp_path)
    stored = load_data(str(tmp_path)).train.stored
    assert [str(source) for source in pickle.loads(pickle.dumps(stored))] == [str(source) for source in stored]
    assert str(stored[4]) == f"{tmp_path / 'train-0001.tar'}: train1/000.png"
    assert [str(source) for source in stored[2:4]] == [str(stored[2]), str(stored[-10])]
