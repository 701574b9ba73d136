"""Fuzz every parser: `python -m tests.robustness.fuzz [--seconds 60] [--parser GLOB] [--seed 0] [--plain]`.

Each parser has a fork of its own, in which atheris (libFuzzer) chooses inputs by the branches of the library that
they reach; half of its mutations are `mutations.mutated`, which knows JSON, YAML and words. `--plain`, or where atheris
is not installed, does these alone. Exit status 1 if there is any defect; inputs that show one are kept.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.util import find_spec
import json
import os
from pathlib import Path
import random
import tempfile
import time
import traceback
from typing import Any

EVERY = 1.0
"""Seconds after which a process tells what it has found: libFuzzer ends it without a word."""
INSTRUMENTED = [
    f"weightshare.{name}"
    for name in (
        *("files", "parts", "sharing", "planning", "depth.tie", "surgery.sites", "cli.options", "models.by_name"),
        *("training.recipe", "training.plain_yaml", "training.sweep_plan", "training.share", "training.snapshot"),
        *("training.data", "experiments.cells", "experiments.studies.results"),
    )
]
"""What parses: the branches by which inputs are chosen. What trains and computes is left alone."""
LONGEST = 2**17
"""Bytes of an input."""


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--parser", default="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    asked = parser.parse_args(arguments)
    guided = not asked.plain and find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
            return every(asked.parser, asked.seconds, asked.seed, guided)
    return every(asked.parser, asked.seconds, asked.seed, guided)


def every(glob: str, seconds: float, seed: int, guided: bool) -> int:
    """Fuzz the parsers whose names match, one after the other, and write down what was found."""
    from tests.robustness import fuzzed, record
    from tests.robustness.parsers import parsers

    fuzzed.one_thread()  # a fork copies no other
    found = {}
    for name in (name for name in parsers() if fnmatchcase(name, glob)):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = apart(name, Path(folder), seconds, seed, guided)
        print(f"{name}: {_line(found[name])}", flush=True)
        for what, trace in found[name]["defects"].items():
            print(f"  DEFECT {what}\n{trace}", flush=True)
    engine = "atheris" if guided else "mutations alone"
    result = {"engine": engine, "seconds": seconds, "seed": seed, "parsers": found}
    if glob == "*":
        record.write("fuzz", f"make fuzz SECONDS={seconds:g}", result)
    return int(any(told["defects"] for told in found.values()))


def apart(name: str, folder: Path, seconds: float, seed: int, guided: bool) -> dict[str, Any]:
    """Fuzz one parser in a fork of this process, which has imported the library; what it told."""
    told, said = folder / "told.json", folder / "said"
    child = os.fork()
    if not child:
        try:
            with open(said, "wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            one(name, told, seconds, seed, guided)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = json.loads(told.read_text()) if told.exists() else {"defects": {}}
    if status or not told.exists():
        found["defects"]["the process died"] = f"{status}: {said.read_text(errors='replace')[-3000:]}"
    return found


def _line(told: dict[str, Any]) -> str:
    if "inputs" not in told:
        return "nothing was read"
    return f"{told['inputs']:,} inputs, {told['outcomes'].get('taken', 0):,} taken, {len(told['defects'])} defects"


def one(name: str, told: Path, seconds: float, seed: int, guided: bool) -> None:
    """Fuzz one parser in this process, and write to a file what was found, again and again."""
    from tests.robustness.mutations import mutated  # not earlier: the library has to be imported under atheris

    bench = _bench(name, told.parent)
    drawn, last = random.Random(seed), time.monotonic()

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
        _guided(read, mutate, bench.seeds, told, seconds, seed, drawn)
    ends = time.monotonic() + seconds
    while not guided and time.monotonic() < ends:
        read(mutate(b""))
    told.write_text(json.dumps(bench.told()))


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
