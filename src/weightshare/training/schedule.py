"""The learning rate of each step, as a recipe has it."""

import math

from weightshare.training.recipe import Recipe

STEEP, LOW = 2 / 3, 1 / 20
"""Of `onecycle`: the part of the fall that goes down to a low rate, and that rate, relative; the rest goes to zero."""


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """The learning rate of one step: it rises in equal steps over the warm-up, then falls as `recipe.schedule` says.

    Args:
        recipe: The highest rate, and how it rises and falls.
        step: From 0.
        total: Steps of the whole training.

    Example:
        >>> recipe = Recipe(lr=1.0, warmup=0.0, schedule="step")
        >>> [learning_rate(recipe, step, 200) for step in (0, 99, 100, 149, 150, 199)]
        [1.0, 1.0, 0.25, 0.25, 0.0625, 0.0625]
        >>> recipe = Recipe(lr=1.0, warmup=0.4, schedule="onecycle")
        >>> [round(learning_rate(recipe, step, 100), 3) for step in (19, 40, 60, 80, 90)]
        [0.5, 1.0, 0.525, 0.05, 0.025]
    """
    warmup = int(recipe.warmup * total)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if recipe.schedule == "step":
        # Rounded: a product such as 0.29 * 100 is a little less than the step that is meant.
        return recipe.lr * recipe.factor ** sum(step >= round(at * total) for at in recipe.milestones)
    fallen = (step - warmup) / max(1, total - warmup)
    if recipe.schedule == "onecycle":
        return recipe.lr * (1 - (1 - LOW) * fallen / STEEP if fallen < STEEP else LOW * (1 - fallen) / (1 - STEEP))
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * fallen))
