"""The learning rate of each step: by hand for short trainings, and what a recipe refuses."""

from dataclasses import asdict
import math

import numpy as np
import pytest

from weightshare.errors import ConfigError
from weightshare.training.recipe import Recipe, strict
from weightshare.training.schedule import learning_rate


def rates(recipe, total):
    return [learning_rate(recipe, step, total) for step in range(total)]


def test_the_papers_steps():
    """Divided by 4 at 100 and at 150 of 200 epochs, here of 7 steps each."""
    found = rates(Recipe(epochs=200, lr=0.5, warmup=0.0, schedule="step"), 1400)
    assert [step for step in range(1, 1400) if found[step] != found[step - 1]] == [700, 1050]
    assert [found[0], found[700], found[1399]] == [0.5, 0.125, 0.03125]


def test_a_warm_up_comes_before_steps():
    recipe = Recipe(lr=3.0, warmup=0.2, schedule="step", milestones=[0.2, 0.9], factor=0.5)
    assert rates(recipe, 10) == [1.5, 3.0, *[1.5] * 7, 0.75]


def test_milestones_are_the_nearest_steps():
    """In floats, 0.29 · 100 is below 29 and 1/3 · 300 is 100."""
    found = rates(Recipe(lr=1.0, warmup=0.0, schedule="step", milestones=[0.29], factor=0.5), 100)
    assert (found[28], found[29]) == (1.0, 0.5)


def test_no_milestones_is_a_constant():
    assert set(rates(Recipe(lr=0.3, warmup=0.0, schedule="step", milestones=[]), 11)) == {0.3}


def test_the_cosine_is_what_it_was():
    recipe = Recipe(lr=2.0, warmup=0.25)
    half = [1 + math.cos(math.pi * step / 6) for step in range(6)]
    assert rates(recipe, 8) == pytest.approx([1.0, 2.0, *half])


def test_convmixers_cycle():
    """0 to 1 at two fifths, 1/20 at four fifths, 0 at the end, and straight lines between."""
    found = rates(Recipe(lr=7.0, warmup=0.4, schedule="onecycle"), 1000)
    assert found[399] == 7.0
    expected = np.interp(range(400, 1000), [400, 800, 1000], [7.0, 0.35, 0.0])
    assert found[400:] == pytest.approx(expected.tolist())
    assert found[:400] == pytest.approx(np.linspace(7.0 / 400, 7.0, 400).tolist())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schedule": "steps"}, "did you mean 'step'"),
        ({"milestones": [0.3]}, "train.milestones goes with schedule: step, not with cosine"),
        ({"factor": 0.1}, "train.factor goes with schedule: step, not with cosine"),
        ({"schedule": "step", "milestones": [0.7, 0.5]}, r"train.milestones=\[0.7, 0.5\]: need rising fractions"),
        ({"schedule": "step", "milestones": [0.5, 0.5]}, "need rising fractions"),
        ({"schedule": "step", "milestones": [1.0]}, "to below 1"),
        ({"schedule": "step", "milestones": [0.05]}, r"from warmup, 0\.1"),
        ({"schedule": "step", "milestones": [float("nan")]}, "need rising fractions"),
        ({"schedule": "step", "factor": 0.0}, "train.factor=0.0: need above 0 and at most 1"),
        ({"schedule": "step", "factor": 1.5}, "train.factor=1.5"),
        ({"batch_size": 10, "augment": {"repeats": 4}}, "train.batch_size=10: need a multiple of augment.repeats, 4"),
    ],
)
def test_values_that_do_not_go_together(given, said):
    with pytest.raises(ConfigError, match=said):
        strict(Recipe, given, "train.")


def test_a_configuration_from_before_is_a_cosine():
    old = asdict(Recipe(lr=0.7))
    for name in ("schedule", "milestones", "factor"):
        del old[name]
    for name in ("pad", "repeats", "rand_augment_std"):
        del old["augment"][name]
    assert strict(Recipe, old) == Recipe(lr=0.7)
