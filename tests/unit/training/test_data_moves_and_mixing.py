"""Crops, flips, mixup and CutMix against slow twins that go pixel by pixel, and what is drawn for them."""

import pytest
import torch

from tests.unit.training.varied import BATCH, CLASSES, HEIGHT, SHAPE, WIDTH, made
from weightshare.training.data import Augment, augmentation, mixing, moves


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.rand(BATCH, *SHAPE), torch.randint(0, CLASSES, (BATCH,))


# Crop and flip


def slow_move(image, padding, down, right, mirrored):
    """One image, pixel by pixel: read where the pixel comes from, black outside."""
    out = torch.zeros_like(image)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            from_row = row + down - padding
            from_column = (WIDTH - 1 - column if mirrored else column) + right - padding
            if 0 <= from_row < HEIGHT and 0 <= from_column < WIDTH:
                out[:, row, column] = image[:, from_row, from_column]
    return out


@pytest.mark.parametrize("padding", [0, 1, 2, 9])
def test_crops_and_flips_are_those_of_the_slow_twin(padding, batch):
    images, _ = batch
    down, right = torch.randint(0, 2 * padding + 1, (2, BATCH))
    mirrored = torch.arange(BATCH) % 2 == 0
    got = moves.moved(images, padding, down, right, mirrored)
    for row in range(BATCH):
        where = int(down[row]), int(right[row]), bool(mirrored[row])
        assert torch.equal(got[row], slow_move(images[row], padding, *where))
    assert got.is_contiguous()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_borders_can_be_filled_and_cuts_be_smaller_however_images_lie(layout, batch):
    images, fill = batch[0], torch.rand(SHAPE[0])
    down, right = torch.randint(0, 5, (2, BATCH))
    mirrored = torch.arange(BATCH) % 3 == 0
    got = moves.moved(images.to(memory_format=layout), 1, down, right, mirrored, fill, (HEIGHT - 2, WIDTH - 2))
    for row in range(BATCH):
        place = int(down[row]), int(right[row]), False
        # Less the filling the border is black.
        whole = slow_move(images[row] - fill.view(-1, 1, 1), 1, *place)[:, : HEIGHT - 2, : WIDTH - 2]
        whole = whole + fill.view(-1, 1, 1)
        torch.testing.assert_close(got[row], whole.flip(-1) if mirrored[row] else whole)


def test_every_place_of_a_crop_comes_up_and_half_are_mirrored():
    """3 × 3 places and two sides, about 500 of each: a place that is missing or twice as likely is far outside."""
    count = 9000
    images = torch.zeros(count, 1, HEIGHT, WIDTH)
    images[:, :, 2, 2] = 1  # not in the middle of a row, so its place tells the crop, and the side
    torch.manual_seed(0)
    moved, _ = augmentation(Augment(crop=1, flip=True), (1, HEIGHT, WIDTH), CLASSES)(
        images, torch.zeros(count, dtype=torch.int64)
    )
    places = moved[:, 0].flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=HEIGHT * WIDTH).view(HEIGHT, WIDTH)
    # Columns 1 to 3 as they are, 3 to 5 mirrored: both in column 3.
    assert (counts[1:4, [1, 2, 4, 5]] - 500).abs().max() < 120
    assert (counts[1:4, 3] - 1000).abs().max() < 160
    assert counts.sum() == counts[1:4, 1:6].sum()


def test_without_flip_nothing_is_mirrored():
    ramp = torch.arange(WIDTH).expand(BATCH, 1, HEIGHT, WIDTH) / WIDTH
    moved, _ = augmentation(Augment(crop=1), (1, HEIGHT, WIDTH), CLASSES)(ramp, torch.zeros(BATCH, dtype=torch.int64))
    assert (moved[:, :, 1:4, 2:5].diff() > 0).all()


# Mixing


def slow_cut(image, other, share, row, column):
    """One image, pixel by pixel, by CutMix's equation 2."""
    tall, wide = int(HEIGHT * (1 - share) ** 0.5), int(WIDTH * (1 - share) ** 0.5)
    out, stays = image.clone(), 0
    for y in range(HEIGHT):
        for x in range(WIDTH):
            inside = (
                row - tall // 2 <= y < row - tall // 2 + tall and column - wide // 2 <= x < column - wide // 2 + wide
            )
            out[:, y, x] = other[:, y, x] if inside else image[:, y, x]
            stays += not inside
    return out, stays / (HEIGHT * WIDTH)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.93, 1.0])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 6), (1, 6)])
def test_a_rectangle_is_that_of_the_slow_twin(share, row, column, batch):
    images, _ = batch
    others = images.flip(0)
    got, stayed = mixing.cut_in(images, others, share, row, column)
    for number in range(BATCH):
        expected, stays = slow_cut(images[number], others[number], share, row, column)
        assert torch.equal(got[number], expected)
        assert stayed == pytest.approx(stays)


@pytest.mark.parametrize("augment", [Augment(mixup=0.7), Augment(cutmix=0.7), Augment(mixup=0.2, cutmix=1.0)], ids=str)
def test_targets_have_the_shares_of_the_images(augment):
    """Image k is all of the one value k + 1 and of class k: the mean of what comes out says which shares went in."""
    values = torch.arange(1, CLASSES + 1)
    images = (values / 16).view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()
    vary = augmentation(augment, SHAPE, CLASSES)
    torch.manual_seed(1)
    whole = 0
    for _ in range(50):
        mixed, targets = vary(images, torch.arange(CLASSES))
        torch.testing.assert_close(targets.sum(1), torch.ones(CLASSES))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ (values / 16))
        assert (targets >= 0).all()
        whole += int((targets.max(1).values == 1).sum())
    assert whole < 25 * CLASSES


def test_mixup_weights_are_of_the_beta_distribution():
    """Beta(α, α) has the mean 1/2 and the variance 1 / (4 (2 α + 1))."""
    alpha, count = 0.4, 4000
    vary = augmentation(Augment(mixup=alpha), (1, 1, 1), 2)
    torch.manual_seed(0)
    images, labels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    weights = torch.stack([vary(images, labels)[0][0, 0, 0, 0] for _ in range(count)])
    swapped = weights[weights > 0]  # in half of the cases an image is its own partner
    assert len(swapped) == pytest.approx(count / 2, rel=0.1)
    assert float(swapped.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(swapped.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_both_kinds_of_mixing_come_up_alone(monkeypatch):
    """An image mixed by CutMix has only values of the two; one mixed by mixup has others."""
    images = torch.zeros(2, 1, HEIGHT, WIDTH)
    images[1] = 1
    vary = augmentation(Augment(mixup=1.0, cutmix=1.0), (1, HEIGHT, WIDTH), 2)
    torch.manual_seed(0)
    kinds = [
        torch.logical_or(mixed == 0, mixed == 1).all()
        for mixed, _ in (vary(images, torch.arange(2)) for _ in range(400))
    ]
    # Half by CutMix; of the others half again are mixed with themselves, which changes nothing.
    assert sum(map(int, kinds)) == pytest.approx(300, abs=40)


@pytest.mark.parametrize("alpha", [1e-4, 1e4])
def test_extreme_mixing_is_finite(alpha):
    for images, targets in made(Augment(mixup=alpha, cutmix=alpha), count=50):
        assert images.isfinite().all()
        assert targets.isfinite().all()


def test_one_image_alone_can_be_mixed():
    vary = augmentation(Augment(1, True, [1, 5], 1.0, 0.5, 0.5), SHAPE, CLASSES)
    images, targets = vary(torch.rand(1, *SHAPE), torch.tensor([4]))
    assert images.shape == (1, *SHAPE)
    torch.testing.assert_close(targets[0, 4], torch.tensor(1.0))
