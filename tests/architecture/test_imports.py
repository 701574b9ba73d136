"""`import weightshare` is light: no optional dependency, hardly more time than torch."""

import pytest

from tests.support import python

OPTIONAL = (
    "matplotlib",
    "torchvision",
    "numba",
    "triton",
    "timm",
    "transformers",
    "lightning_fabric",
    "ray",
    "sklearn",
    "jinja2",
    "typer",
    "rich",
    "yaml",
    "weightshare.training",
    "weightshare.experiments",
    "weightshare.models",
    "weightshare.cli",
)
LOADED = "import sys, {package}; print(*sorted(sys.modules))"


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What each of the two imports loads, in a Python of its own."""
    return {package: set(python(LOADED.format(package=package)).split()) for package in ("torch", "weightshare")}


@pytest.mark.parametrize("name", OPTIONAL)
def test_no_optional_dependency_is_loaded(name: str, loaded: dict[str, set[str]]) -> None:
    assert name not in loaded["weightshare"] - loaded["torch"]


def test_the_package_itself_is_loaded(loaded: dict[str, set[str]]) -> None:
    """Else the test above would hold for nothing."""
    assert {"weightshare.surgery.edit", "weightshare.verbs", "torch"} <= loaded["weightshare"]


def test_models_are_loaded_on_first_use() -> None:
    code = "import sys, weightshare as ws; ws.models.convmixer; print('weightshare.models' in sys.modules)"
    assert python(code).split() == ["True"]


def test_sharing_a_model_loads_no_optional_dependency() -> None:
    code = """
import sys
from torch import nn
import weightshare as ws

model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
ws.share_(model, ws.Tie(rate=2))
ws.fold(model)
ws.param_groups(model, weight_decay=0.1)
print(*sorted(sys.modules))
"""
    assert not set(OPTIONAL) - {"triton"} & set(python(code).split())


@pytest.mark.parametrize("name", ["nothing", "training", "cli", "__wrapped__"])
def test_a_name_that_is_none_is_an_attribute_error(name: str) -> None:
    code = f"import weightshare; print(hasattr(weightshare, {name!r}))"
    assert python(code).split() == ["False"]


TIMED = "import time; start = time.perf_counter(); import {package}; print(time.perf_counter() - start)"


@pytest.mark.slow
def test_importing_takes_hardly_longer_than_torch() -> None:
    """The shortest of five runs each, one after the other, so that a busy machine slows both."""
    seconds: dict[str, list[float]] = {"torch": [], "weightshare": []}
    for _ in range(5):
        for package, times in seconds.items():
            times.append(float(python(TIMED.format(package=package))))
    assert min(seconds["weightshare"]) < 1.3 * min(seconds["torch"])
