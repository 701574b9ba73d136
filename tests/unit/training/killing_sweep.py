"""Start a sweep, kill it at random moments, start it again: `python killing_sweep.py FILE OUT KILLS SEED`.

Moments are drawn in epochs that all runs have made together, so that a slow machine is killed at the same ones. In turn
everything is killed, the driver alone, and one worker followed by everything. Prints one JSON line: for each run how
often it was started and came to its end, and what was killed when.
"""

import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

from weightshare.training.keeper import METRICS
from weightshare.training.run import SUMMARY
from weightshare.training.sweep import SweepConfig
from weightshare.training.sweep_plan import planned
from weightshare.training.sweep_runs import look

KINDS = ("all", "driver", "worker")


def descendants(process: int) -> list[int]:
    """All processes below one, by what /proc says."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    found, new = [], {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found += new
    return found


def is_worker(process: int) -> bool:
    try:
        return b"ImplicitFunc" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def killed(processes: list[int]) -> None:
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself when the one above it did


def epochs(folder: Path) -> int:
    """How many all runs have made together."""
    return sum(path.read_text().count("\n") for path in folder.glob(f"*/{METRICS}"))


def main(file: str, out: Path, kills: int, seed: int) -> None:
    """See the module's docstring."""
    from dataclasses import replace

    from weightshare.training.sweep import read_sweep

    settings: SweepConfig = replace(read_sweep(file), out=str(out))
    runs = planned(settings)
    total = sum(run.config.train.epochs for run in runs)
    drawn = random.Random(seed)
    moments = sorted(drawn.uniform(0.03, 0.95) * total for _ in range(kills))
    command = [sys.executable, "-m", "weightshare", "sweep", file, "--out", str(out)]
    done: dict[Path, bytes] = {}
    told = []
    for number, moment in enumerate(moments):
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while epochs(out) < moment and driver.poll() is None:
            time.sleep(0.1)
        time.sleep(drawn.uniform(0, 2))
        assert driver.poll() is None, "the sweep ended before it could be killed"
        below, kind = descendants(driver.pid), KINDS[number % len(KINDS)]
        if kind == "worker":
            workers = [one for one in below if is_worker(one)]
            killed(workers[:1])
            told.append(["worker", len(workers[:1]), epochs(out)])
            time.sleep(drawn.uniform(5, 15))  # the sweep starts another one
            below = descendants(driver.pid)
        told.append([kind, 1 if kind == "driver" else 1 + len(below), epochs(out)])
        killed([driver.pid] if kind == "driver" else [driver.pid, *below])
        driver.wait()
        for run in runs:
            look(run)  # readable, whatever was killed
        for path, content in done.items():
            assert path.read_bytes() == content, f"{path} was written twice"
        done |= {path: path.read_bytes() for path in out.glob(f"*/{SUMMARY}")}
    code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    for path, content in done.items():
        assert path.read_bytes() == content, f"{path} was written twice"
    found = {run.name: [one.status, one.attempts, one.finishes] for run in runs for one in [look(run)]}
    print(json.dumps({"code": code, "killed": told, "finished_before_the_last": len(done), "runs": found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
