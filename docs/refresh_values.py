"""Put the committed results into docs/values.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_values.py
"""

from pathlib import Path

from weightshare._table import render
from weightshare.experiments.studies.results import Result, costs
from weightshare.experiments.studies.results import filled as with_blocks
from weightshare.experiments.studies.torus import PAPER, RETRAINED, ROWS, SWEEP, SWEEP_TABLE, TABLE
from weightshare.experiments.studies.torus_results import table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "values.md"
COSTS = {
    "test_over_argsort[exact-1e+06]": ("exact map, 1e6", "numpy.argsort", "at most 2.5"),
    "test_over_argsort[sort_free-1e+06]": ("sort-free map, 1e6", "numpy.argsort", "at most 0.5"),
    "test_over_argsort[exact-1e+07]": ("exact map, 1e7", "numpy.argsort", "at most 2.5"),
    "test_over_argsort[sort_free-1e+07]": ("sort-free map, 1e7", "numpy.argsort", "at most 0.5"),
    "test_over_argsort[torch_sort_and_scipy-1e+06]": ("torch.sort + scipy, 1e6", "numpy.argsort", ""),
    "test_over_argsort[torch_sort_and_sklearn-1e+06]": ("torch.sort + scikit-learn, 1e6", "numpy.argsort", ""),
    "test_over_argsort[torchisotonic-1e+06]": ("torchisotonic, 1e6", "numpy.argsort", ""),
    "test_over_argsort[imminent-1e+06]": ("imminent collisions, 1e6", "numpy.argsort", ""),
    "test_over_argsort[search-1e+06]": ("search collisions, 1e6", "numpy.argsort", ""),
    "test_over_imminent_collisions[exact-1e+06]": ("exact map, 1e6", "imminent collisions", "at most 0.25"),
    "test_over_imminent_collisions[sort_free-1e+06]": ("sort-free map, 1e6", "imminent collisions", "at most 0.05"),
    "test_over_imminent_collisions[exact-1e+07]": ("exact map, 1e7", "imminent collisions", "at most 0.25"),
    "test_over_imminent_collisions[sort_free-1e+07]": ("sort-free map, 1e7", "imminent collisions", "at most 0.05"),
    "test_sort_free_for_a_hundred_million": ("sort-free map, 1e8", "the same, 1e6", ""),
    "test_over_the_plain_step[sort_free]": ("training step, sort-free map", "plain step", "at most 1.25"),
    "test_over_the_plain_step[rewound]": ("training step, sort-free, ℓ1, rewound", "plain step", ""),
    "test_over_the_plain_step[exact]": ("training step, exact map", "plain step", "at most 2.5"),
    "test_over_the_plain_step[imminent]": ("training step, imminent collisions", "plain step", ""),
    "test_over_the_plain_step[search]": ("training step, search collisions", "plain step", ""),
}  # fmt: skip
"""For each benchmark what is measured, over what, and the goal."""


METHODS = {
    "least-squares": "least squares",
    "ridge": "ridge",
    "lasso": "lasso",
    "lasso-kmeans": "lasso, k-means, refit",
    "shared": "R (convex)",
    "shared-refit": "R, refit",
    "rewound-refit": "R, rewound, refit",
    "oracle": "oracle: knows the clusters",
}
"""Rows of the regression."""


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    return {
        "regression": regression(),
        "costs": costs(ROOT / "results" / "benchmarks" / "values.json", COSTS),
        "torus": _results(TABLE, [*ROWS, *RETRAINED]),
        "sweep": _results(SWEEP_TABLE, list(SWEEP)),
    }


def regression() -> str:
    """Errors and sharing that linear regression found, for both problems."""
    columns = ("coefficients from", "140 observations: error", "distinct", "ARI", "110: error", "distinct", "ARI")
    rows = []
    for row, name in METHODS.items():
        found = [Result.read(ROOT / "results" / PAPER / "regression" / f"{p}-{row}.json") for p in ("more", "fewer")]
        cells = [
            (f"{one.mean:.3f}", f"{one.numbers['distinct_values']:.1f}", f"{one.numbers['adjusted_rand_index']:.2f}")
            for one in found
        ]
        rows.append((name, *cells[0], *cells[1]))
    return render(columns, rows, numbers=columns[1:])


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks())


def _results(name: str, order: list[str]) -> str:
    folder = ROOT / "results" / PAPER / name
    return table([Result.read(folder / f"{row}.json") for row in order if (folder / f"{row}.json").is_file()])


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
