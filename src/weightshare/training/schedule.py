"""The learning rate of each step, as a recipe has it."""

import math

from weightshare.training.recipe import Recipe


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
    """
    warmup = int(recipe.warmup * total)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if recipe.schedule == "step":
        # Rounded: a product such as 0.29 * 100 is a little less than the step that is meant.
        return recipe.lr * recipe.factor ** sum(step >= round(at * total) for at in recipe.milestones)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
