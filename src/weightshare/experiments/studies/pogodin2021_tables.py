"""The tables of Pogodin 2021, as printed: accuracies, their spread over five runs, learning rates and weight decays.

Numbers of tables are those of the main text; the appendix counts one more from table 3 on.
"""

Numbers = tuple[float, ...]

# fmt: off
ACCURACY: dict[int, dict[str, Numbers]] = {
    0: {
        "conv": (84.1, 49.5, 78.2, 26.0, 51.2),
        "lc": (67.2, 34.9, 62.2, 12.0, 30.4),
        "lc-ws1": (74.8, 41.8, 70.1, 24.9, 49.1),
        "lc-ws10": (75.9, 44.4, 72.0, 28.1, 52.5),
        "lc-ws100": (75.4, 43.4, 71.9, 27.4, 51.9),
    },
    4: {
        "conv": (88.3, 59.2, 84.9, 38.6, 65.1),
        "lc": (80.9, 49.8, 75.5, 29.6, 52.7),
        "lc-reps4": (82.9, 52.1, 76.4, 31.9, 54.9),
        "lc-reps8": (83.8, 54.3, 77.9, 33.0, 55.6),
        "lc-reps16": (85.0, 55.9, 78.8, 34.0, 56.2),
        "lc-ws1": (87.4, 58.7, 83.4, 41.6, 66.1),
        "lc-ws10": (85.1, 55.7, 80.9, 37.4, 61.8),
        "lc-ws100": (82.0, 52.8, 80.1, 37.1, 62.8),
    },
    8: {
        "conv": (88.7, 59.6, 85.4, 42.6, 68.7),
        "lc": (80.7, 47.7, 74.8, 31.9, 55.4),
        "lc-reps4": (82.8, 50.6, 76.2, 35.5, 58.6),
        "lc-reps8": (83.6, 53.0, 77.4, 35.8, 59.0),
        "lc-reps16": (85.0, 55.6, 78.4, 37.9, 60.3),
        "lc-ws1": (87.8, 59.2, 84.0, 43.6, 67.9),
        "lc-ws10": (84.3, 53.7, 80.4, 39.6, 64.5),
        "lc-ws100": (79.5, 50.0, 78.6, 39.2, 64.8),
    },
}
# fmt: on
"""Tables 3, 4 and 5, by padding and row, in percent: CIFAR-10, CIFAR-100 top-1 and top-5, TinyImageNet top-1 and top-5;
the mean over five runs."""

# fmt: off
SPREAD: dict[int, dict[str, Numbers]] = {
    0: {
        "conv": (0.5, 1.0, 1.7, 1.0, 0.4),
        "lc": (0.4, 1.6, 1.5, 1.0, 1.7),
        "lc-ws1": (0.5, 1.3, 1.3, 1.2, 2.0),
        "lc-ws10": (0.8, 1.0, 0.7, 1.8, 2.1),
        "lc-ws100": (0.9, 0.7, 0.9, 1.0, 1.3),
    },
    4: {
        "conv": (0.7, 1.5, 0.2, 1.2, 1.1),
        "lc": (0.8, 1.1, 0.4, 0.7, 0.8),
        "lc-reps4": (0.8, 1.3, 0.8, 0.5, 0.8),
        "lc-reps8": (0.3, 1.4, 1.3, 0.7, 1.2),
        "lc-reps16": (0.7, 0.7, 0.6, 0.9, 0.5),
        "lc-ws1": (0.5, 1.1, 0.9, 0.9, 0.6),
        "lc-ws10": (0.6, 1.1, 0.3, 0.6, 1.2),
        "lc-ws100": (0.7, 1.0, 0.6, 0.2, 0.9),
    },
    8: {
        "conv": (0.9, 1.5, 1.2, 1.7, 1.0),
        "lc": (0.5, 0.6, 0.5, 0.5, 0.9),
        "lc-reps4": (0.4, 0.9, 0.3, 0.6, 0.8),
        "lc-reps8": (0.6, 0.9, 0.5, 0.5, 0.6),
        "lc-reps16": (0.9, 0.9, 0.6, 0.5, 1.1),
        "lc-ws1": (0.4, 1.2, 1.5, 0.7, 0.7),
        "lc-ws10": (0.2, 1.4, 0.9, 1.4, 1.2),
        "lc-ws100": (0.4, 0.5, 0.7, 0.7, 0.9),
    },
}
# fmt: on
"""Tables 6, 7 and 8, likewise: the highest less the lowest of five runs."""

# fmt: off
RATES: dict[int, dict[str, tuple[tuple[float, float], ...]]] = {
    0: {
        "conv": ((0.01, 0.01), (0.01, 0.01), (0.005, 0.01)),
        "lc": ((0.001, 0.01), (0.001, 0.01), (0.001, 0.0001)),
        "lc-ws1": ((0.001, 0.01), (0.001, 0.01), (0.001, 0.0001)),
        "lc-ws10": ((0.0005, 0.01), (0.0005, 0.0001), (0.0005, 0.01)),
        "lc-ws100": ((0.0001, 0.01), (0.0001, 0.01), (0.001, 0.0001)),
    },
    4: {
        "conv": ((0.01, 0.0001), (0.01, 0.01), (0.005, 0.0001)),
        "lc": ((0.001, 0.0001), (0.0005, 0.01), (0.0005, 0.0001)),
        "lc-reps4": ((0.001, 0.01), (0.001, 0.01), (0.0005, 0.01)),
        "lc-reps8": ((0.0005, 0.01), (0.0005, 0.0001), (0.0005, 0.01)),
        "lc-reps16": ((0.0005, 0.01), (0.0005, 0.01), (0.0005, 0.01)),
        "lc-ws1": ((0.001, 0.01), (0.001, 0.0001), (0.001, 0.01)),
        "lc-ws10": ((0.0005, 0.01), (0.0005, 0.01), (0.001, 0.0001)),
        "lc-ws100": ((0.0005, 0.01), (0.0005, 0.01), (0.001, 0.01)),
    },
    8: {
        "conv": ((0.01, 0.01), (0.01, 0.01), (0.005, 0.01)),
        "lc": ((0.001, 0.01), (0.0005, 0.0001), (0.001, 0.01)),
        "lc-reps4": ((0.0005, 0.01), (0.001, 0.0001), (0.0005, 0.01)),
        "lc-reps8": ((0.001, 0.01), (0.0005, 0.0001), (0.0005, 0.0001)),
        "lc-reps16": ((0.0005, 0.0001), (0.0005, 0.01), (0.0005, 0.01)),
        "lc-ws1": ((0.001, 0.0001), (0.001, 0.01), (0.001, 0.01)),
        "lc-ws10": ((0.0005, 0.01), (0.0005, 0.0001), (0.001, 0.0001)),
        "lc-ws100": ((0.0005, 0.01), (0.0005, 0.0001), (0.001, 0.0001)),
    },
}
# fmt: on
"""Tables 9, 10 and 11, by padding and row: learning rate and weight decay for CIFAR-10, CIFAR-100 and TinyImageNet."""

IMAGENET = {
    "conv": (63.5, 84.7),
    "lc": (46.7, 70.0),
    "lc-ws1": (61.7, 83.1),
    "lc-ws10": (59.3, 81.1),
    "lc-ws100": (54.5, 77.7),
    "first-conv": (52.2, 75.1),
    "first-conv-ws1": (63.6, 84.5),
    "first-conv-ws10": (61.6, 83.1),
    "first-conv-ws100": (59.1, 81.1),
}
"""Tables 2 and 12, by row: top-1 and top-5 on ImageNet, in percent, of one run."""

IMAGENET_RATES = {row: (1e-3 if row in ("conv", "lc-ws1") else 5e-4, 1e-2) for row in IMAGENET}
"""Section B.2, by row: learning rate and weight decay."""

SMALL = (1e-2, 1e-4)
GRIDS: dict[tuple[str, str], tuple[Numbers, Numbers]] = {
    ("cifar10", "conv"): ((1e-1, 5e-2, 1e-2, 5e-3), SMALL),
    ("cifar10", "lc"): ((1e-3, 5e-4, 1e-4, 5e-5), SMALL),
    ("cifar100", "conv"): ((1e-1, 5e-2, 1e-2, 5e-3), SMALL),
    ("cifar100", "lc"): ((1e-3, 5e-4, 1e-4, 5e-5), SMALL),
    ("tiny-imagenet", "conv"): ((5e-3, 1e-3, 5e-4), SMALL),
    ("tiny-imagenet", "lc"): ((1e-3, 5e-4), SMALL),
    ("imagenet", "conv"): ((1e-3, 5e-4), (1e-2, 1e-4, 1e-6)),
    ("imagenet", "lc"): ((1e-3, 5e-4, 1e-4, 5e-5), (1e-2,)),
    ("imagenet", "first-conv"): ((1e-3, 5e-4), (1e-2, 1e-4, 1e-6)),
}
"""Sections B.1 and B.2: learning rates and weight decays that were tried, by data set and connectivity."""
