"""Fuzz every parser: `python -m tests.robustness.fuzz [--seconds 60] [--parser GLOB] [--seed 0] [--plain]`.

Each parser has a process of its own, in which atheris (libFuzzer) chooses inputs by the branches of the library that
they reach; half of its mutations are `mutations.mutated`, which knows JSON, YAML and words. `--plain`, or where atheris
is not installed, does these alone. Exit status 1 if there is any defect; inputs that show one are kept.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.util import find_spec
import json
from pathlib import Path
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

EVERY = 5.0
"""Seconds after which a process tells what it has found: libFuzzer ends it without a word."""
INSTRUMENTED = "weightshare"
LONGEST = 2**17
"""Bytes of an input."""


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--parser", default="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--alone", type=Path)
    asked = parser.parse_args(arguments)
    guided = not asked.plain and find_spec("atheris") is not None
    if asked.alone is not None:
        return one(asked.parser, asked.alone, asked.seconds, asked.seed, guided)
    return every(asked.parser, asked.seconds, asked.seed, guided)


def every(glob: str, seconds: float, seed: int, guided: bool) -> int:
    """Fuzz the parsers whose names match, one after the other, and write down what was found."""
    from tests.robustness import record
    from tests.robustness.parsers import parsers
    from tests.support import ROOT

    found = {}
    for name in (name for name in parsers() if fnmatchcase(name, glob)):
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder) / "told.json"
            mode = [] if guided else ["--plain"]
            words = ["--parser", name, "--alone", str(told), "--seconds", str(seconds), "--seed", str(seed), *mode]
            done = subprocess.run(
                [sys.executable, "-m", "tests.robustness.fuzz", *words],
                cwd=ROOT,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            found[name] = json.loads(told.read_text()) if told.exists() else {"defects": {}}
            if done.returncode or not told.exists():
                found[name]["defects"]["the process died"] = done.stderr[-3000:]
        print(f"{name}: {_line(found[name])}", flush=True)
        for what, trace in found[name]["defects"].items():
            print(f"  DEFECT {what}\n{trace}", flush=True)
    engine = "atheris" if guided else "mutations alone"
    result = {"engine": engine, "seconds": seconds, "seed": seed, "parsers": found}
    if glob == "*":
        record.write("fuzz", f"make fuzz SECONDS={seconds:g}", result)
    return int(any(told["defects"] for told in found.values()))


def _line(told: dict[str, Any]) -> str:
    if "inputs" not in told:
        return "nothing was read"
    return f"{told['inputs']:,} inputs, {told['outcomes'].get('taken', 0):,} taken, {len(told['defects'])} defects"


def one(name: str, told: Path, seconds: float, seed: int, guided: bool) -> int:
    """Fuzz one parser in this process, and write to a file what was found, again and again."""
    if guided:
        import atheris

        with atheris.instrument_imports(include=[INSTRUMENTED], enable_loader_override=False):
            bench = _bench(name, told.parent)
    else:
        bench = _bench(name, told.parent)
    drawn, last = random.Random(seed), time.monotonic()

    from tests.robustness.mutations import mutated  # not earlier: the library has to be imported under atheris

    def mutate(content: bytes) -> bytes:
        chosen = content if content and drawn.random() < 0.6 else drawn.choice(bench.seeds)
        return mutated(chosen, bench.parser.form, drawn, bench.seeds)[:LONGEST]

    def read(content: bytes) -> None:
        nonlocal last
        bench.read(content)
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            told.write_text(json.dumps(bench.told()))

    told.write_text(json.dumps(bench.told()))
    if guided:
        _guided(read, mutate, bench.seeds, told, seconds, seed, drawn)  # ends the process
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        read(mutate(b""))
    told.write_text(json.dumps(bench.told()))
    return 0


def _bench(name: str, folder: Path) -> Any:
    from tests.robustness import fuzzed, record
    from tests.robustness.parsers import parsers

    inputs = folder / "inputs"
    inputs.mkdir()
    kept = record.PROGRESS / "fuzz" / name.replace(" ", "-")
    bench = fuzzed.Bench(parsers()[name](inputs), kept)
    fuzzed.limit()
    return bench


def _guided(
    read: Callable[[bytes], None],
    mutate: Callable[[bytes], bytes],
    seeds: Sequence[bytes],
    told: Path,
    seconds: float,
    seed: int,
    drawn: random.Random,
) -> None:
    import atheris

    def custom(content: bytes, most: int, _: int) -> bytes:
        if drawn.random() < 0.5:
            with suppress(Exception):
                return mutate(content)[:most]
        return atheris.Mutate(content, most)

    corpus = told.parent / "corpus"
    corpus.mkdir()
    for number, content in enumerate(seeds):
        (corpus / str(number)).write_bytes(content)
    flags = {"max_total_time": int(seconds), "seed": seed + 1, "max_len": LONGEST, "rss_limit_mb": 0, "timeout": 0}
    words = [f"-{flag}={value}" for flag, value in flags.items()]
    atheris.Setup(["fuzz", *words, "-handle_alrm=0", str(corpus)], read, custom_mutator=custom)
    atheris.Fuzz()


if __name__ == "__main__":
    raise SystemExit(main())
