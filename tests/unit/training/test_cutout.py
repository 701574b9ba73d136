"""Cutout against a loop over pixels; the recipe's Nesterov momentum against its equations."""

from dataclasses import replace

from lightning_fabric import Fabric
import pytest
import torch
from torch import nn

from tests.unit.training.varied import BATCH, CLASSES, HEIGHT, SHAPE, WIDTH
from weightshare.errors import ConfigError
from weightshare.training.data import Augment, augmentation, load_data
from weightshare.training.data.cutting import covered
from weightshare.training.loop import fit, rows_of
from weightshare.training.recipe import Recipe
from weightshare.training.schedule import learning_rate

MEAN = torch.tensor([0.2, 0.3, 0.7])


def by_hand(images, side, rows, columns, fill):
    """DeVries 2017: every pixel that lies within the square and the image."""
    images = images.clone()
    for image, row, column in zip(images, rows.tolist(), columns.tolist(), strict=True):
        for y in range(row - side // 2, row - side // 2 + side):
            for x in range(column - side // 2, column - side // 2 + side):
                if 0 <= y < HEIGHT and 0 <= x < WIDTH:
                    image[:, y, x] = fill
    return images


@pytest.mark.parametrize("side", [1, 2, 3, 4, 13])
def test_the_square_is_that_of_a_loop_over_pixels(side):
    torch.manual_seed(side)
    images = torch.rand(BATCH, *SHAPE)
    rows, columns = torch.randint(HEIGHT, (BATCH,)), torch.randint(WIDTH, (BATCH,))
    before = images.clone()
    assert torch.equal(covered(images, side, rows, columns, MEAN), by_hand(images, side, rows, columns, MEAN))
    assert torch.equal(images, before)


def test_centres_are_all_pixels_with_equal_chances():
    """A square of one pixel shows its centre: each of 35 pixels comes up in a thirty-fifth of 7,000 images."""
    count = 200 * HEIGHT * WIDTH
    vary = augmentation(Augment(cutout=1), (1, HEIGHT, WIDTH), CLASSES, torch.zeros(1))
    torch.manual_seed(0)
    images, _ = vary(torch.ones(count, 1, HEIGHT, WIDTH), torch.zeros(count, dtype=torch.int64))
    holes = (images == 0).sum((0, 1))
    assert holes.sum() == count
    assert (holes - 200).abs().max() < 5 * 200**0.5


def test_covered_pixels_are_zero_once_images_are_normalised():
    """The mean is that of the training images, which `fit` gives."""
    data = load_data("digits").train
    mean = torch.tensor(data.mean)
    vary = augmentation(Augment(cutout=4), data.shape, 10, mean)
    images, labels = data[:23]
    seen = data.normalised(vary(images, labels)[0])
    assert ((seen == 0).flatten(1).sum(1) >= 4).all()  # a centre in a corner leaves 2 by 2 pixels, or more


def test_it_comes_after_crops_and_before_mixing():
    """A crop that came after would move the square; the border of the crop is not the mean."""
    torch.manual_seed(3)
    images, labels = torch.rand(BATCH, *SHAPE), torch.randint(0, CLASSES, (BATCH,))
    both = Augment(crop=2, flip=True, cutout=3)
    torch.manual_seed(4)
    got, _ = augmentation(both, SHAPE, CLASSES, MEAN)(images, labels)
    torch.manual_seed(4)
    moved, _ = augmentation(replace(both, cutout=0), SHAPE, CLASSES)(images, labels)
    rows, columns = torch.randint(HEIGHT, (BATCH,)), torch.randint(WIDTH, (BATCH,))
    assert torch.equal(got, by_hand(moved, 3, rows, columns, MEAN))


@pytest.mark.parametrize("mean", [None, torch.zeros(2)])
def test_a_mean_is_needed(mean):
    with pytest.raises(ConfigError, match=r"augment\.cutout=3: need the mean of each of 3 channels"):
        augmentation(Augment(cutout=3), SHAPE, CLASSES, mean)


@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_sides_that_cannot_be(value, unchecked):
    with pytest.raises(ConfigError, match=r"augment\.cutout=.*need a whole number of pixels"):
        Augment(cutout=value)


class Linear(nn.Module):
    """A classifier that is linear in the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images):
        return self.fc(images.flatten(1))


NESTEROV = Recipe(
    epochs=2,
    batch_size=503,
    lr=0.3,
    weight_decay=0.0,
    warmup=0.0,
    clip=None,
    optimizer="sgd",
    momentum=0.9,
    nesterov=True,
    schedule="step",
    milestones=[0.3, 0.6, 0.8],
    factor=0.2,
)


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_is_nesterovs_when_asked_for(nesterov):
    """v = 0.9·v + g, then w -= lr·(g + 0.9·v), or lr·v without: by hand, over two epochs of the paper's steps."""
    data, recipe, seed = load_data("digits"), replace(NESTEROV, nesterov=nesterov), 5
    model, twin = Linear(), Linear()
    fit(model, data, recipe, seed, fabric=Fabric(accelerator="cpu", devices=1))
    steps = len(data.train) // recipe.batch_size
    speed = [torch.zeros_like(parameter) for parameter in twin.parameters()]
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        rows = rows_of(order, recipe.batch_size, 1, 0, 1)[:steps]
        for step, (images, labels) in enumerate(data.train.batches(rows), epoch * steps):
            loss = nn.functional.cross_entropy(twin(data.train.normalised(images)), labels)
            gradients = torch.autograd.grad(loss, list(twin.parameters()))
            lr = learning_rate(recipe, step, recipe.epochs * steps)
            with torch.no_grad():
                for parameter, v, g in zip(twin.parameters(), speed, gradients, strict=True):
                    v.mul_(0.9).add_(g)
                    parameter -= lr * (g + 0.9 * v if nesterov else v)
    torch.testing.assert_close(model.fc.weight, twin.fc.weight)


@pytest.mark.parametrize("values", [{"optimizer": "adamw", "momentum": 0.0}, {"momentum": 0.0}])
def test_nesterov_needs_momentum(values):
    with pytest.raises(ConfigError, match=r"train\.nesterov=True: need false, or sgd with momentum above 0"):
        replace(NESTEROV, **values)
