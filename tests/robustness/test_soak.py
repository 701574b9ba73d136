"""A short soak; and that a soak sees what it is there to see, and prints what fails."""

from collections import Counter

import pytest

from tests.robustness import record, soak
from tests.robustness.drawing import KINDS
from tests.robustness.sequences import MODULES, replayed, sequence
from tests.support import python
from weightshare import planning
from weightshare.surgery import edit

SEQUENCES = 30


def test_random_sequences_keep_every_promise():
    counts: Counter[tuple[str, str]] = Counter()
    modules = set()
    for seed in range(SEQUENCES):
        name, lines, failure = sequence(seed)
        assert failure is None, f"{failure.error}\n{failure.script}"
        counts += lines
        modules.add(name)
    assert modules == {*MODULES}
    assert {kind for kind, outcome in counts if outcome == "done"} >= {
        "share",
        "train",
        "fold",
        "unshare",
        "file",
        "state",
    }
    assert {kind for kind, _ in counts} <= {*KINDS}


def test_the_same_seed_is_the_same_sequence():
    assert sequence(3)[1] == sequence(3)[1]


def test_what_is_left_behind_is_found_and_told_in_as_few_lines_as_it_takes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "forget", lambda edits, model: None)
    failure = next(failure for seed in range(SEQUENCES) if (failure := sequence(seed)[2]) is not None)
    assert 1 <= len(failure.lines) <= 2
    again = replayed(failure.name, failure.seed, failure.lines)
    assert again is not None
    assert again.where == failure.where
    monkeypatch.undo()
    assert replayed(failure.name, failure.seed, failure.lines) is None


def test_a_refusal_that_is_not_undone_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(edit.Transaction, "roll_back", lambda self: None)
    failures = [failure for seed in range(SEQUENCES) if (failure := sequence(seed)[2]) is not None]
    assert failures


def test_the_script_of_a_failure_runs_by_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "forget", lambda edits, model: None)
    failure = next(failure for seed in range(SEQUENCES) if (failure := sequence(seed)[2]) is not None)
    assert python(f"{failure.script}\nprint(type(case).__name__)").strip() == "Case"


def test_a_soak_goes_on_where_it_was_stopped(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(record, "PROGRESS", tmp_path)
    monkeypatch.setattr(soak, "EVERY", 2)
    seen = []
    monkeypatch.setattr(
        soak, "sequence", lambda seed: seen.append(seed) or ("chain", Counter({("fold", "done"): 1}), None)
    )
    soak.soaked(2)
    found = soak.soaked(5)
    assert seen == [0, 1, 2, 3, 4]
    assert (found["sequences"], found["lines"], found["modules"]) == (5, {"fold: done": 5}, {"chain": 5})
