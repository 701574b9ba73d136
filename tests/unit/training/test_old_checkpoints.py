"""Checkpoints from before a setting existed: they go on with its default, and with no other value."""

from dataclasses import asdict, replace

from lightning_fabric import Fabric
import pytest
import torch

from weightshare.errors import TrainingError
from weightshare.files import archive
from weightshare.models import convmixer
from weightshare.training.data import Augment, Prepare, load_data
from weightshare.training.keeper import CHECKPOINT
from weightshare.training.loop import fit
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.regularise import Regularise
from weightshare.training.share import Share

RECIPE = Recipe(epochs=1, batch_size=479, warmup=0.0, regularise=[Regularise(strength=1e-9, where="head.weight")])
RUN = RunConfig("m", share=[Share(rate=2), Share(rate=3)])
CONFIG = {key: value for key, value in asdict(RUN).items() if key not in ("train", "seed", "out")}
LATER = {
    "recipe": ("schedule", "milestones", "factor", "nesterov", "fused"),
    "recipe.regularise.0": ("warmup",),
    "config.share.0": ("templates", "init", "within", "across_widths", "budget"),
    "config.share.1": ("templates", "init", "within"),
    "recipe.augment": ("pad", "repeats", "rand_augment_std", "cutout"),
    "config.prepare": ("cut", "margin", "normalise", "label_noise"),
}


def trained(folder, recipe=RECIPE, config=CONFIG):
    torch.manual_seed(0)
    cpu = Fabric(accelerator="cpu", devices=1)
    model = convmixer(3, 1, 2, 3, classes=10, in_channels=1)
    return fit(model, load_data("digits"), recipe, folder=folder, fabric=cpu, identity={"config": config})


@pytest.fixture
def old(tmp_path):
    """A finished checkpoint without the keys that came later."""
    history = trained(tmp_path)
    held = archive.read(tmp_path / CHECKPOINT, "training")
    run = held.content["progress"]["run"]
    for path, names in LATER.items():
        inner = run
        for part in path.split("."):
            inner = inner[int(part)] if part.isdecimal() else inner[part]
        for name in names:
            del inner[name]
    archive.write(tmp_path / CHECKPOINT, held.tensors, held.aliases, held.content)
    return tmp_path, history


def test_it_goes_on_with_the_defaults(old):
    folder, history = old
    assert trained(folder) == history


@pytest.mark.parametrize(
    ("recipe", "prepare", "said"),
    [
        (replace(RECIPE, schedule="step"), Prepare(), "recipe.schedule is 'cosine' there and 'step' here"),
        (replace(RECIPE, augment=Augment(crop=1, pad="mean")), Prepare(), "recipe.augment.pad is 'zero' there"),
        (replace(RECIPE, augment=Augment(cutout=3)), Prepare(), "recipe.augment.cutout is 0 there and 3 here"),
        (replace(RECIPE, regularise=[]), Prepare(), "recipe.regularise is"),
        (RECIPE, Prepare(cut=6), "config.prepare.cut is None there and 6 here"),
        (RECIPE, Prepare(label_noise=0.3), "config.prepare.label_noise is 0.0 there and 0.3 here"),
    ],
    ids=["schedule", "pad", "cutout", "regularise", "cut", "label_noise"],
)
def test_it_is_not_one_of_another_value(old, recipe, prepare, said):
    with pytest.raises(TrainingError, match=said):
        trained(old[0], recipe, CONFIG | {"prepare": asdict(prepare)})
