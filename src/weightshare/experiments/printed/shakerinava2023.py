"""The numbers of Shakerinava 2023: accuracies in percent, of its key results."""

from weightshare.experiments.printed import Table, table

METRICS = ("accuracy",)

TABLES: dict[str, Table] = {
    "torus": table("key results: MNIST on a torus", METRICS, {"plain": (92.40,), "regularised": (95.04,)}),
    "cifar10": table("key results: CIFAR10", METRICS, {"regularised": (73.50,)}),
}
"""By table and row: the fully connected network plain, and with weight-sharing regularisation."""

MISPRINTS: dict[str, str] = {
    "average": "R is called the average of |w_i − w_j|. Divided by d − 1, as its formula is, the sum over pairs is d/2 "
    "times their average; we take the formula.",
    "pairs": "The formula does not say over which pairs it sums: i > j is read, each pair once.",
}
"""What else the text gets wrong or leaves open."""
