"""Put the committed results into docs/values.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_values.py
"""

from pathlib import Path

from weightshare.experiments.studies.results import costs
from weightshare.experiments.studies.results import filled as with_blocks

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


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    return {"costs": costs(ROOT / "results" / "benchmarks" / "values.json", COSTS)}


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
