"""Linear regression whose true coefficients share: can the sharing be found from the data alone?

`y = X w* + noise`, where `w*` has few distinct values, on about as many observations as coefficients. The convex answer
(`regress_shared`) follows a path of strengths from one value for all down to almost none; rewinding
(`regress_rewound`) starts from the best of it and goes back up; least squares on the clusters that were found (refit)
takes the pull off. Beside them: least squares, ridge, lasso, k-means on lasso's coefficients with a refit, and the
oracle, which is told the clusters. A validation split chooses every strength and number; nobody is trained on it.

Source: Shakerinava 2023, linear regression with shared coefficients. Differs: its sizes and numbers are not in the text
that the project has, so the problems are ours.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
from torch import Tensor

from weightshare.errors import ConfigError
from weightshare.experiments.jobs import Outcome
from weightshare.experiments.studies.regression_picture import METHODS, draw_regression
from weightshare.experiments.table import Found
from weightshare.values.refine import regress_clusters, regress_rewound
from weightshare.values.solve import Method, one_value_strength, regress_shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST_ROWS = 1000
DOWN = tuple(10 ** (-3 * step / 19) for step in range(20))  # strengths of the convex path, of the one for one value
UP = tuple(10 ** (step / 4) for step in range(13))  # of the rewound path, of the convex one's choice
STRONGEST = 3.0  # where the rewound path ends, of the strength for one value
MOST_MEANS = 10  # of k-means; the true numbers of values are 3 and 4
CLOSE = 1e-6  # the gap to which the methods are timed
MANY = 20_000  # steps are enough for the slowest of them


@dataclass(frozen=True)
class Problem:
    """Which data are drawn.

    Args:
        rows: Observations to learn from.
        values: What a coefficient can be, each equally often; a value that stands here twice twice as often.
        coefficients: How many there are.
        validation: Further observations, to choose strengths by.
        noise: Standard deviation of the noise, as a fraction of that of `X w*`.
        l1: λ as a fraction of α.
    """

    rows: int
    values: tuple[float, ...]
    coefficients: int = 120
    validation: int = 60
    noise: float = 0.05
    l1: float = 0.0

    def __post_init__(self) -> None:
        if min(self.rows, self.validation, self.coefficients - len(self.values) + 1) < 1 or not any(self.values):
            raise ConfigError(
                f"{self}: needs observations to learn from and to choose by, a value that is not 0, and no more values "
                "than coefficients."
            )


PROBLEMS = {
    "more": Problem(rows=140, values=(-1.0, 0.0, 0.0, 1.0, 2.0)),
    "fewer": Problem(rows=110, values=(-2.0, 0.0, 0.0, 0.0, 1.0), l1=0.3),
}


class Data(NamedTuple):
    """Observations of one seed, in float64, and the truth."""

    x: Tensor
    y: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    truth: Tensor

    def choose(self, fits: Iterable["Fit"]) -> "Fit":
        """The fit with the least error on the validation split; of equal ones the first."""
        x, y = self.validation
        return min(fits, key=lambda fit: float((x @ fit.coefficients - y).square().mean()))


class Fit(NamedTuple):
    """Coefficients, which of them count as one value, and the strength that gave them."""

    coefficients: Tensor
    labels: Tensor
    strength: float = 0.0


def draw(problem: Problem, seed: int) -> Data:
    """The data of a seed: independent normal `x`, shuffled coefficients, noise on all splits."""
    generator = torch.Generator().manual_seed(seed)
    d, rows = problem.coefficients, problem.rows + problem.validation
    values = torch.tensor(problem.values, dtype=torch.float64)
    truth = values[torch.arange(d) % len(values)][torch.randperm(d, generator=generator)]
    x = torch.randn(rows + TEST_ROWS, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(x), generator=generator, dtype=torch.float64)
    y = x @ truth + problem.noise * truth.norm() * noise  # of unit columns: the deviation of `x @ truth` is its norm
    own, choosing, test = ((x[at], y[at]) for at in map(slice, (0, problem.rows, rows), (problem.rows, rows, None)))
    return Data(*own, choosing, test, truth)


def convex(problem: Problem, data: Data) -> list[Fit]:
    """The path of `regress_shared`, from strong to weak, each started from the one before."""
    most, start, path = one_value_strength(data.x, data.y), None, []
    for strength in (most * step for step in DOWN):
        found = regress_shared(
            data.x, data.y, strength, problem.l1 * strength, tolerance=1e-4, max_iterations=1000, start=start
        )
        start = found.coefficients
        path.append(Fit(start, found.labels, strength))
    return path


def rewound(problem: Problem, data: Data, start: Fit) -> list[Fit]:
    """The path of `regress_rewound`, from a convex answer upwards."""
    most, w, path = STRONGEST * one_value_strength(data.x, data.y), start.coefficients, []
    for strength in (start.strength * step for step in UP):
        if strength <= most:
            w, labels, _ = regress_rewound(data.x, data.y, strength, w, problem.l1 * strength)
            path.append(Fit(w, labels, strength))
    return path


def refit(data: Data, path: Iterable[Fit]) -> Fit:
    """The best of a path after least squares on its clusters; what is exactly 0 stays so."""
    return data.choose(
        fit._replace(coefficients=regress_clusters(data.x, data.y, fit.labels, fit.coefficients == 0)) for fit in path
    )


def least_squares(data: Data) -> Fit:
    """The shortest of the least squares solutions."""
    return _unclustered(torch.linalg.pinv(data.x) @ data.y)


def ridge(data: Data) -> Fit:
    """scikit-learn's ridge regression."""
    from sklearn.linear_model import Ridge

    strengths = [len(data.x) * 10 ** (-5 + 7 * step / 49) for step in range(50)]
    return data.choose(_learned(Ridge(alpha=alpha, fit_intercept=False), data, alpha) for alpha in strengths)


def lasso(data: Data) -> Fit:
    """scikit-learn's lasso."""
    from sklearn.linear_model import Lasso

    most = float((data.x.T @ data.y).abs().max()) / len(data.x)
    strengths = [most * 10 ** (-3 * step / 49) for step in range(50)]
    return data.choose(
        _learned(Lasso(alpha=alpha, fit_intercept=False, max_iter=100_000), data, alpha) for alpha in strengths
    )


def kmeans(data: Data, fit: Fit) -> Fit:
    """The obvious rival: k-means on coefficients that were found without sharing, then a refit."""
    from sklearn.cluster import KMeans

    starts: Any = 10  # scikit-learn's stubs know 'auto' alone
    points = fit.coefficients[:, None].numpy()
    found = (KMeans(k, n_init=starts, random_state=0).fit(points).labels_ for k in range(1, MOST_MEANS + 1))
    every = (torch.from_numpy(labels).long() for labels in found)
    return data.choose(Fit(regress_clusters(data.x, data.y, labels), labels, fit.strength) for labels in every)


def oracle(data: Data) -> Fit:
    """Least squares by one who knows which coefficients share, but not their values."""
    labels = data.truth.unique(return_inverse=True)[1]
    return Fit(regress_clusters(data.x, data.y, labels), labels)


@dataclass(frozen=True)
class Case:
    """A problem, the data of a seed, and the convex path, which several ways to fit go along."""

    problem: Problem
    data: Data

    @cached_property
    def path(self) -> list[Fit]:
        return convex(self.problem, self.data)

    @property
    def shared(self) -> Fit:
        """The best of the path."""
        return self.data.choose(self.path)


@lru_cache(maxsize=32)
def case(problem: Problem, seed: int) -> Case:
    """The case of a seed, kept for the next way to fit it."""
    return Case(problem, draw(problem, seed))


FITS: Mapping[str, Callable[[Case], Fit]] = {
    "least-squares": lambda at: least_squares(at.data),
    "ridge": lambda at: ridge(at.data),
    "lasso": lambda at: lasso(at.data),
    "lasso-kmeans": lambda at: kmeans(at.data, lasso(at.data)),
    "shared": lambda at: at.shared,
    "shared-refit": lambda at: refit(at.data, at.path),
    "rewound-refit": lambda at: refit(at.data, rewound(at.problem, at.data, at.shared)),
    "oracle": lambda at: oracle(at.data),
}
STEPS = "steps-"
ROWS = {
    "least-squares": "least squares",
    "ridge": "ridge",
    "lasso": "lasso",
    "lasso-kmeans": "lasso, k-means, refit",
    "shared": "R (convex)",
    "shared-refit": "R, refit",
    "rewound-refit": "R, rewound, refit",
    "oracle": "oracle: knows the clusters",
    **{f"{STEPS}{method}": f"steps of {title} on R" for method, title in METHODS.items()},
}
"""By name what they are: ways to fit, and ways to the convex answer."""


def measure(fit: Fit, data: Data) -> dict[str, float]:
    """How well the coefficients, the predictions and the clusters are those of the truth; `error` is in percent."""
    from sklearn.metrics import adjusted_rand_score, r2_score

    x, y = data.test
    clusters = data.truth.unique(return_inverse=True)[1].numpy(), fit.labels.numpy()
    return {
        "error": 100 * float((fit.coefficients - data.truth).norm() / data.truth.norm()),
        "r2": float(r2_score(y.numpy(), (x @ fit.coefficients).numpy())),
        "distinct": len(fit.labels.unique()),
        "rand": float(adjusted_rand_score(*clusters)),
    }


def regression(row: str, column: str, problem: Mapping[str, Any], seed: int) -> Outcome:
    """Fit a problem in one way, or count the steps of one method.

    Args:
        row: A key of `ROWS`.
        column: Names the metrics.
        problem: What `Problem` takes.
        seed: Of the data.

    Returns:
        Of a fit, what `measure` gives, and `truth` and `found` as curves; of `steps-...`, how many steps from zeros to
        a relative gap of 1e-6 at the strength that is chosen for `shared`, and as curves a few steps and how far the
        objective is above its least there.

    Raises:
        ConfigError: If there is no such row, or a method needs more than 20,000 steps.
    """
    made = Problem(**{**problem, "values": tuple(problem["values"])})
    at = case(made, seed)
    data = at.data
    if row in FITS:
        fit = FITS[row](at)
        curves = {"truth": data.truth.tolist(), "found": fit.coefficients.tolist()}
        numbers = {"strength": fit.strength, "zeros": int((fit.coefficients == 0).sum())}
        return Outcome({f"{column}/{key}": value for key, value in measure(fit, data).items()}, numbers, curves)
    methods = {f"{STEPS}{method}": method for method in get_args(Method)}
    if row not in methods:
        raise ConfigError(f"row={row!r}: need one of {', '.join((*FITS, *methods))}.")
    strength = at.shared.strength
    heights = way(made, data, strength, methods[row])
    least = regress_shared(data.x, data.y, strength, made.l1 * strength, tolerance=1e-10).objectives.min()
    steps = sorted({round((len(heights) - 1) ** (part / 60)) - (part == 0) for part in range(61)})
    gaps = (heights[steps] / least - 1).clamp(min=1e-12)
    curves = {"step": [float(step) for step in steps], "gap": [float(f"{gap:.3g}") for gap in gaps.tolist()]}
    return Outcome({f"{column}/steps": len(heights) - 1}, {"strength": strength}, curves)


def way(problem: Problem, data: Data, strength: float, method: Method) -> Tensor:
    """The objectives of a method, from zeros to a relative gap of 1e-6.

    Raises:
        ConfigError: If it has not come so far in 20,000 steps.
    """
    found = regress_shared(data.x, data.y, strength, problem.l1 * strength, method, CLOSE, MANY)
    if not found.converged:
        raise ConfigError(
            f"{problem}: {method} needs more than {MANY} steps at strength {strength}; use a stronger one."
        )
    return found.objectives


def picture(found: Found) -> "Figure":
    """Coefficients beside the truth, and the objective over steps, of the first problem and its first seed."""
    column = next(iter(PROBLEMS))
    curves = {row: outcomes[min(outcomes)].curves for (row, at), outcomes in found.items() if at == column and outcomes}
    return draw_regression(curves)


def _learned(model: Any, data: Data, strength: float) -> Fit:
    return _unclustered(torch.from_numpy(model.fit(data.x.numpy(), data.y.numpy()).coef_.copy()), strength)


def _unclustered(w: Tensor, strength: float = 0.0) -> Fit:
    """Coefficients that share where they are equal to the bit."""
    return Fit(w, w.unique(return_inverse=True)[1], strength)
