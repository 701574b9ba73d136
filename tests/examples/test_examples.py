"""The examples: short, quick, quiet, what they print is so, and their recipes show just that."""

from pathlib import Path
import re
import runpy

import pytest
import torch

from tests.examples.checks import CHECKS
from tests.printed import differences
from tests.support import ROOT
from weightshare.training.sweep import read_sweep
from weightshare.training.sweep_plan import planned
from weightshare.training.sweep_runs import carry_out

RECIPES = runpy.run_path(str(ROOT / "docs" / "refresh_recipes.py"))
run, shown = RECIPES["run"], RECIPES["shown"]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BY_NAME = pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
BROKEN = {
    "cluster_mlp": (r"^16 values: \d+", "16 values: 7"),
    "eight_gpus": ("blocks.2, blocks.3 ", "blocks.2, blocks.4 "),
    "halve_a_vit": (r"^distilled: \d+", "distilled: 1"),
    "local_cnn": (r"^slept: (.*)where it was trained, \d+", r"slept: \1where it was trained, 1"),
    "share_bert": ("read again: True", "read again: False"),
    "sweep": ("^rate=4_lr=0.03: finished", "rate=4_lr=0.03: failed"),
    "vit": (r"^trained: \d+", "trained: 1"),
    "wrn_loop": (r"0 → 2 × \(1\)", "0 → 1 → 2"),
}
"""For each example something in what it prints that must not pass."""


def page(name: str) -> str:
    return (ROOT / "docs" / "recipes" / f"{name}.md").read_text(encoding="utf-8")


def test_every_example_has_its_claims_checked_and_a_recipe() -> None:
    names = {path.stem for path in EXAMPLES}
    assert names == set(CHECKS) == set(BROKEN)
    assert names == {path.stem for path in (ROOT / "docs" / "recipes").glob("*.md") if path.stem != "index"}


@BY_NAME
def test_short_enough_to_read(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 60


@BY_NAME
def test_the_recipe_shows_the_example(example: Path) -> None:
    code, _ = shown(page(example.stem))
    assert code == example.read_text(encoding="utf-8")


SLOW = ("sweep",)  # Ray takes long to start, and on a busy machine does not: a run of it without Ray is below
RUN = [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in EXAMPLES]


@pytest.mark.parametrize("example", RUN)
def test_runs_and_what_it_prints_is_so_and_stands_in_the_recipe(example: Path, tmp_path: Path) -> None:
    printed = run(example, tmp_path)
    CHECKS[example.stem](printed, tmp_path)
    _, said = shown(page(example.stem))
    assert differences(said, printed) == []


def test_a_run_of_the_sweep_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = runpy.run_path(str(ROOT / "examples" / "sweep.py"))["SWEEP"]
    (tmp_path / "sweep.yaml").write_text(text)
    runs = planned(read_sweep(tmp_path / "sweep.yaml"))
    _, said = shown(page("sweep"))
    assert [run.name for run in runs] == re.findall(r"^(\S+): finished", said, re.MULTILINE)
    last = carry_out(runs[-1])
    assert (last.status, last.error) == ("finished", "")
    stored = re.findall(r"([\d,]+) numbers$", said, re.MULTILINE)[-1]
    assert f"{last.summary['stored']:,}" == stored
    assert len(last.history) == runs[-1].config.train.epochs


@BY_NAME
def test_the_checks_notice_what_is_not_so(example: Path, tmp_path: Path) -> None:
    _, said = shown(page(example.stem))
    pattern, wrong = BROKEN[example.stem]
    broken, times = re.subn(pattern, wrong, said, count=1, flags=re.MULTILINE)
    assert times == 1
    with pytest.raises(AssertionError):
        CHECKS[example.stem](broken, tmp_path)


def test_an_example_that_warns_fails(tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text("import warnings\nwarnings.warn('noisy')\n")
    with pytest.raises(AssertionError, match="noisy"):
        run(failing, tmp_path)
    assert torch.get_num_threads() == 1  # so the time above is that of one core


@BY_NAME
def test_recipes_link_to_what_is_there_and_say_what_can_go_wrong(example: Path) -> None:
    text = page(example.stem)
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    assert f"../../examples/{example.name}" in targets
    assert [target for target in targets if not (ROOT / "docs" / "recipes" / target).exists()] == []
    assert all(heading in text for heading in ("**When.**", "**What came out.**", "**What can go wrong.**"))
