"""One parser under fuzz in this process: inputs one after the other, each with a limit of time, all with one of memory.

A defect is any of these: an error that is not ours, more than `SECONDS` for one input, memory beyond `MEMORY`, a change
of what a refused input must leave alone. Defects of one kind at one place are kept once, with the shortest input.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
import resource
import signal
import time
import traceback
from typing import Any
import warnings

import torch

from tests.robustness.parsers import Parser
from weightshare.errors import SharingError

MEMORY, SECONDS = 2**30, 20
"""Bytes that the process may have beyond what it begins with, and seconds for one input on a busy machine."""


class TooLong(BaseException):
    """Raised in an input that takes too long; no `except Exception` holds it up."""


@dataclass
class Bench:
    """Reads inputs, and keeps what was wrong.

    Args:
        parser: Reads them.
        kept: Where inputs that show a defect are written, or nothing.
    """

    parser: Parser
    kept: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    defects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    slowest: float = 0.0

    def __post_init__(self) -> None:
        self.seeds = self.parser.seeds()
        for seed in self.seeds:  # what is read first imports and compiles; and a seed that is refused tests nothing
            try:
                self.parser.read(seed)
            except SharingError:
                self.counts["seeds refused"] += 1
        self.before = self.parser.state()

    def read(self, content: bytes) -> None:
        """Read one input."""
        began, outcome = time.monotonic(), "taken"
        try:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")
                self.parser.read(content)
        except SharingError as error:
            outcome = type(error).__name__
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # torch has errors that are no `Exception`
            outcome = self._note(content, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.counts[outcome] += 1
        if outcome == "taken":
            self.before = self.parser.state()
        elif (now := self.parser.state()) != self.before:
            self._keep("a refused input changed something", content, outcome)
            self.before = now

    def told(self) -> dict[str, Any]:
        """What is written down of it."""
        outcomes = {name: count for name, count in sorted(self.counts.items()) if name != "seeds refused"}
        return {
            "inputs": sum(outcomes.values()),
            "seeds": len(self.seeds),
            "seeds refused": self.counts["seeds refused"],
            "outcomes": outcomes,
            "slowest": round(self.slowest, 2),
            "defects": {what: trace for what, (_, trace) in self.defects.items()},
        }

    def _note(self, content: bytes, error: BaseException) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "weightshare" in frame.filename] or frames
        kind = type(error).__name__
        place = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
        self._keep(f"{kind} in {place}", content, "".join(traceback.format_exception(error))[-3000:])
        return "defect"

    def _keep(self, what: str, content: bytes, trace: str) -> None:
        if what not in self.defects or len(content) < len(self.defects[what][0]):
            self.defects[what] = content, trace
            if self.kept is not None:
                self.kept.mkdir(parents=True, exist_ok=True)
                (self.kept / "".join(sign if sign.isalnum() else "-" for sign in what)).write_bytes(content)


def limit() -> None:
    """Bound this process's memory, and have a signal that stops an input which takes too long."""
    one_thread()
    signal.signal(signal.SIGALRM, _too_long)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))


def one_thread() -> None:
    """More threads only wait for each other on such small inputs."""
    torch.set_num_threads(1)


def _too_long(*_: object) -> None:
    raise TooLong(f"more than {SECONDS} seconds")
