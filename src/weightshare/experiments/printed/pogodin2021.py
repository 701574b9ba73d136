"""The tables of Pogodin 2021: accuracies in percent, their spread over five runs, learning rates and weight decays.

Numbers of tables are those of the main text; the appendix, as a text of its own, counts one more from table 3 on, and
has the same numbers in them. Rows are those of `experiments.pogodin2021`.
"""

from weightshare.experiments.printed import Table, table

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
DIFFERENCES: dict[int, dict[str, Numbers]] = {
    0: {
        "lc": (-16.8, -14.6, -16.0, -14.1, -20.7),
        "lc-ws1": (-9.3, -7.7, -8.1, -1.2, -2.1),
        "lc-ws10": (-8.1, -5.1, -6.2, 2.0, 1.3),
        "lc-ws100": (-8.6, -6.1, -6.3, 1.3, 0.8),
    },
    4: {
        "lc": (-7.4, -9.4, -9.4, -9.0, -12.4),
        "lc-reps4": (-5.4, -7.1, -8.5, -6.7, -10.2),
        "lc-reps8": (-4.5, -5.0, -7.0, -5.6, -9.5),
        "lc-reps16": (-3.3, -3.3, -6.1, -4.6, -8.8),
        "lc-ws1": (-0.8, -0.5, -1.6, 3.0, 1.1),
        "lc-ws10": (-3.2, -3.6, -4.0, -1.2, -3.2),
        "lc-ws100": (-6.3, -6.4, -4.8, -1.5, -2.3),
    },
    8: {
        "lc": (-8.0, -11.8, -10.6, -10.7, -13.3),
        "lc-reps4": (-6.0, -9.0, -9.2, -7.1, -10.1),
        "lc-reps8": (-5.1, -6.6, -8.0, -6.7, -9.7),
        "lc-reps16": (-3.8, -4.0, -7.0, -4.7, -8.4),
        "lc-ws1": (-0.9, -0.4, -1.4, 1.0, -0.9),
        "lc-ws10": (-4.5, -5.8, -5.0, -2.9, -4.3),
        "lc-ws100": (-9.3, -9.6, -6.8, -3.4, -3.9),
    },
}
# fmt: on
"""Tables 3, 4 and 5, likewise: accuracy less that of `conv`, rounded by itself."""

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
"""Tables 2 and 12, by row: top-1 and top-5 on ImageNet, in percent, of one run. Table 2 has no `first-conv`."""

IMAGENET_DIFFERENCES = {
    "lc": (-16.8, -14.7),
    "lc-ws1": (-1.8, -1.6),
    "lc-ws10": (-4.2, -3.6),
    "lc-ws100": (-9.0, -7.0),
    "first-conv": (-11.3, -9.6),
    "first-conv-ws1": (0.1, -0.2),
    "first-conv-ws10": (-1.9, -1.6),
    "first-conv-ws100": (-4.4, -3.6),
}
"""Likewise: accuracy less that of `conv`."""

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

PADDINGS = tuple(ACCURACY)
PERCENT = ("cifar10/top1", "cifar100/top1", "cifar100/top5", "tiny-imagenet/top1", "tiny-imagenet/top5")
SETTINGS = tuple(f"{data}/{of}" for data in ("cifar10", "cifar100", "tiny-imagenet") for of in ("lr", "weight_decay"))


def _accuracies(
    source: str, metrics: tuple[str, ...], accuracy: dict[str, Numbers], differences: dict[str, Numbers]
) -> Table:
    """Accuracies and the printed differences, with a note where these are not those of the printed accuracies."""
    notes = {}
    for row, printed in differences.items():
        for metric, value, a, base in zip(metrics, printed, accuracy[row], accuracy["conv"], strict=True):
            if round(a - base, 1) != value:
                notes[row, f"{metric}-diff"] = (
                    f"The printed accuracies differ by {a - base:.1f}: both were rounded by themselves, and stay."
                )
    made = table(source, metrics, accuracy)
    changes = table(source, [f"{metric}-diff" for metric in metrics], differences, notes)
    return {row: cells | changes.get(row, {}) for row, cells in made.items()}


def _imagenet(source: str, rows: tuple[str, ...]) -> Table:
    accuracy, differences = (
        {row: held[row] for row in rows if row in held} for held in (IMAGENET, IMAGENET_DIFFERENCES)
    )
    return _accuracies(source, ("imagenet/top1", "imagenet/top5"), accuracy, differences)


TABLES: dict[str, Table] = {
    "table1": _accuracies("table 1", PERCENT, ACCURACY[4], DIFFERENCES[4]),
    "table2": _imagenet("table 2", tuple(row for row in IMAGENET if not row.startswith("first-conv"))),
    **{
        f"table{number}": _accuracies(f"table {number}", PERCENT, ACCURACY[padding], DIFFERENCES[padding])
        for number, padding in enumerate(PADDINGS, 3)
    },
    **{
        f"table{number}": table(f"table {number}", PERCENT, SPREAD[padding])
        for number, padding in enumerate(PADDINGS, 6)
    },
    **{
        f"table{number}": table(
            f"table {number}", SETTINGS, {row: sum(pairs, ()) for row, pairs in RATES[padding].items()}
        )
        for number, padding in enumerate(PADDINGS, 9)
    },
    "table12": _imagenet("table 12", tuple(IMAGENET)),
}
"""The twelve tables. The first shows what table 4 does, and the second the first half of table 12."""

MISPRINTS: dict[str, str] = {
    "equation 27": "Its second w_i is w_j.",
    "equation 30": "‖W^init − W*‖ has no square; in equation 56, from which it follows, it has one.",
    "equation 44": "Half of what equation 42 bounds; that f is quadratic in X makes it right.",
    "condition before equation 55": "σ² has to be σ²‖W*‖² for equation 55 to follow.",
    "equation 57": "The product runs over the steps up to t; iterating equation 55 gives those after t.",
    "captions of figures 4 and 5": "4B is said to use equation 9, 5B equation 8b; the circuit is 8a and 8b.",
    "A.5, figure 5A": "Said to be figure 4A's simulation, so equation 4, but longer; A.2 and the caption say "
    "equation 21, which is simulated.",
    "A.5, limit": "It takes C = I, but inputs drawn from N(1, 1) have C = I + 11ᵀ; and −log SNR_min belongs to the "
    "greatest SNR.",
    "section 5.2, padding of 8": "All methods are said to improve; on CIFAR-10 tables 4 and 5 have LC fall from 80.9 "
    "to 80.7, 4 repeats from 82.9 to 82.8, ws(10) from 85.1 to 84.3 and ws(100) from 82.0 to 79.5.",
    "numbers of tables": "Where the appendix is a text of its own, tables 3 to 12 are its tables 4 to 13.",
}
"""What else the paper gets wrong or says in two ways; `space.noisy` has the proof of theorem 1 as it holds."""
