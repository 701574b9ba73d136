"""A few spoiled inputs for every parser; and that the bench sees what it is there to see."""

from contextlib import suppress
import json
from pathlib import Path
import random
import signal
import tempfile
import time
import warnings

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from tests.robustness import fuzz
from tests.robustness.fuzzed import Bench, _too_long
from tests.robustness.mutations import mutated
from tests.robustness.parsers import Parser, parsers
from tests.support import python
from weightshare.errors import FileError

NAMES = list(parsers())
HEAVY = ("sharded checkpoints", "command lines")
"""Whose library takes seconds to import."""


@pytest.fixture
def a_limit_of_time():
    before = signal.signal(signal.SIGALRM, _too_long)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("a_limit_of_time")
@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_errors_of_ours_comes_out(name: str):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = Bench(parsers()[name](Path(folder)))

        @settings(max_examples=4 if name in HEAVY else 8, derandomize=True, deadline=None, database=None)
        @given(st.sampled_from(bench.seeds), st.integers(0, 2**32))
        def check(seed: bytes, number: int) -> None:
            bench.read(mutated(seed, bench.parser.form, random.Random(number), bench.seeds))

        check()
    assert {what: (content[:500], trace) for what, (content, trace) in bench.defects.items()} == {}


@pytest.mark.usefixtures("a_limit_of_time")
@pytest.mark.parametrize("name", ["YAML", "globs", "names of models", "plans", "lists of classes"])
def test_nor_of_any_text_at_all(name: str):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = Bench(parsers()[name](Path(folder)))

        @settings(max_examples=25, derandomize=True, deadline=None, database=None)
        @given(st.one_of(st.binary(max_size=200), st.text(max_size=99).map(lambda text: text.encode())))
        def check(content: bytes) -> None:
            bench.read(content)

        check()
    assert bench.defects == {}


@pytest.mark.parametrize("form", ["bytes", "json", "text"])
def test_mutations_change_and_do_not_end_in_an_error(form):
    drawn = random.Random(0)
    content = json.dumps({"a": [1, 2.5, {"b": "text here"}], "c": None}).encode()
    made = [mutated(content, form, drawn, [content]) for _ in range(200)]
    assert len({*made}) > 100
    for strange in (b"", b"\xff", b"[", b"5"):
        assert isinstance(mutated(strange, form, drawn), bytes)


class Faulty(Parser):
    """Refuses what it should, but for some inputs."""

    held = 0

    def seeds(self):
        return [b"seed"]

    def read(self, content: bytes) -> None:
        if content == b"hang":
            while True:
                with suppress(ValueError):
                    time.sleep(0.01)
        if content == b"exit":
            raise SystemExit(3)
        if content == b"index":
            [][len(content)]
        if content == b"change":
            self.held += 1
        if content != b"seed":
            raise FileError("refused")

    def state(self):
        return self.held


@pytest.mark.usefixtures("a_limit_of_time")
def test_errors_hangs_and_changes_are_defects(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.robustness.fuzzed.SECONDS", 0.1)
    bench = Bench(Faulty(tmp_path), tmp_path / "kept")
    for content in (b"seed", b"fine", b"index", b"exit", b"hang", b"change"):
        bench.read(content)
    told = bench.told()
    assert told["outcomes"] == {"FileError": 2, "defect": 3, "taken": 1}
    assert {what.partition(" ")[0] for what in told["defects"]} == {"IndexError", "SystemExit", "TooLong", "a"}
    assert {path.read_bytes() for path in (tmp_path / "kept").iterdir()} == {b"index", b"exit", b"hang", b"change"}
    assert told["seeds refused"] == 0


def test_one_parser_in_a_process_of_its_own(tmp_path):
    code = """
import json, sys
from pathlib import Path
from tests.robustness import fuzz, fuzzed
fuzzed.one_thread()
print(json.dumps(fuzz.apart("YAML", Path(sys.argv[1]), 0.5, 0, guided=False)))
"""
    told = json.loads(python(code, tmp_path))
    assert told["inputs"] > 10
    assert told["defects"] == {}
    assert fuzz._line(told).startswith(f"{told['inputs']:,} inputs")
