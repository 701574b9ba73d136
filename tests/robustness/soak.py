"""Run random sequences of verbs on the zoo: `python -m tests.robustness.soak [--sequences 10000] [--seed N]`.

A sequence follows from its seed. A soak that was stopped goes on, what failed first; `--fresh` begins again. `--seed N`
runs one sequence alone and prints it. Exit status 1 if any failed; each is printed as the shortest script that does.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
import time
from typing import Any

import torch

from tests.robustness import record
from tests.robustness.sequences import Failure, sequence
from weightshare.files.atomic import read_json, write_json

EVERY = 100
"""Sequences after which what was found is kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--sequences", type=int, default=10_000)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--fresh", action="store_true")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if asked.seed is not None:
        name, counts, failure = sequence(asked.seed)
        print(f"{name}: {dict(counts)}")
        _tell(failure)
        return int(failure is not None)
    found = soaked(asked.sequences, asked.fresh)
    path = record.write("soak", f"make soak SEQUENCES={asked.sequences}", found)
    print(f"{found['sequences']:,} sequences in {found['seconds']:.0f} s, {len(found['failed'])} failed: {path}")
    return int(bool(found["failed"]))


def soaked(sequences: int, fresh: bool = False) -> dict[str, Any]:
    """Run the sequences of all seeds below a number that have not been run yet."""
    kept = record.PROGRESS / "soak.json"
    found: dict[str, Any] = {"sequences": 0, "seconds": 0.0, "modules": {}, "lines": {}, "failed": []}
    if kept.exists() and not fresh:
        found = read_json(kept)
    found["failed"] = _again(found["failed"])
    modules, lines = Counter(found["modules"]), Counter({tuple(k.split(": ")): n for k, n in found["lines"].items()})
    while found["sequences"] < sequences:
        began = time.perf_counter()
        upto = min(sequences, found["sequences"] + EVERY)
        for seed in range(found["sequences"], upto):
            name, counts, failure = sequence(seed)
            modules[name] += 1
            lines += counts
            if failure is not None:
                _tell(failure)
                found["failed"].append(asdict(failure))
        found |= {"sequences": upto, "seconds": round(found["seconds"] + time.perf_counter() - began, 1)}
        found |= {"modules": dict(modules), "lines": {": ".join(key): n for key, n in sorted(lines.items())}}
        write_json(kept, found)
        print(f"{upto:,} of {sequences:,}, {found['seconds']:.0f} s, {len(found['failed'])} failed", flush=True)
    return found


def _again(failed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What still fails of the sequences that failed before."""
    failures = [sequence(one["seed"])[2] for one in failed]
    for failure in failures:
        _tell(failure)
    return [asdict(failure) for failure in failures if failure is not None]


def _tell(failure: Failure | None) -> None:
    if failure is not None:
        print(f"{failure.error}\nReplay: python -m tests.robustness.soak --seed {failure.seed}, or\n\n{failure.script}")


if __name__ == "__main__":
    raise SystemExit(main())
