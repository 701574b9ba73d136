"""Corrupts valid files and reads them, in a process of bounded memory: `python fuzzing.py FOLDER NEVER SIGNED SEED`.

Each file has to be refused with an error of ours, within seconds, with nothing changed, run, opened or written. A file
that its author signed may be taken instead, if what was read is valid. Prints one JSON line.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice, zip_longest
import json
from pathlib import Path
import random
import resource
import signal
import sys
import time
import traceback
from typing import Any, NamedTuple
import warnings

import torch

from tests.unit.files import corrupting
from tests.unit.files.samples import Reader, Sample, samples
from weightshare.errors import SharingError

MEMORY, SECONDS = 256 * 2**20, 20
"""Bytes that all files together may add to the process, and time for one on a busy machine."""
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir", "os.chmod")
FORBIDDEN += ("subprocess.", "socket.", "pickle.", "ctypes.", "import", "exec", "marshal.", "shutil.", "urllib.")


class TooLong(BaseException):
    """Raised in a file that takes too long."""


class File(NamedTuple):
    """A corrupted file: of which sample, in which way, and whether it may be valid all the same."""

    sample: Sample
    kind: str
    content: bytes
    may_be_valid: bool


def never_valid(whole: list[Sample], drawn: random.Random) -> Iterator[File]:
    """Files that are damaged, or that nobody signed, and texts that are cut; without end."""
    checked = [sample for sample in whole if sample.checked]
    once = [
        *(File(one, "cut_at_pages", cut, False) for one in checked for cut in corrupting.cut_at_pages(one.content)),
        *(File(one, "no such text", text, False) for one in whole if one not in checked for text in corrupting.TEXTS),
    ]
    drawn.shuffle(once)
    for file, others in zip_longest(once, _batches(_at_random(checked, drawn), 2)):
        yield from (file, *others) if file else others


def _batches(files: Iterator[File], size: int) -> Iterator[tuple[File, ...]]:
    while True:
        yield tuple(islice(files, size))


def _at_random(checked: list[Sample], drawn: random.Random) -> Iterator[File]:
    ways = {**corrupting.BY_ACCIDENT, **corrupting.ON_PURPOSE}
    for sample, (kind, corrupt) in zip(_forever(checked, drawn), cycle(ways.items()), strict=False):
        content = corrupt(sample.content, drawn)
        if content != sample.content:
            yield File(sample, kind, content, False)


def perhaps_valid(whole: list[Sample], drawn: random.Random) -> Iterator[File]:
    """Files that somebody made on purpose and signed, and texts with other values; without end."""
    for sample in _forever(whole, drawn):
        ways = corrupting.SIGNED if sample.checked else {"hostile_text": corrupting.hostile_text}
        for kind, corrupt in ways.items():
            yield File(sample, kind, corrupt(sample.content, drawn), True)
        if not sample.checked:
            kind, corrupt = drawn.choice(list(corrupting.BY_ACCIDENT.items()))
            yield File(sample, f"text {kind}", corrupt(sample.content, drawn), True)


def _forever(whole: list[Sample], drawn: random.Random) -> Iterator[Sample]:
    while True:
        yield from drawn.sample(whole, len(whole))


class Watch:
    """Notes what Python's audit events say that a reader did beyond reading its file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.active, self.seen = str(folder), False, list[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        elsewhere = (
            event == "open" and not isinstance(arguments[0], int) and not str(arguments[0]).startswith(self.folder)
        )
        if elsewhere or event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {str(arguments)[:200]}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        self.active = True
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.active = False


class Bench:
    """Reads corrupted files one after the other, and remembers what was wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.watch = Watch(folder)
        self.counts, self.wrong, self.slowest = Counter[tuple[str, str]](), list[str](), (0.0, "")
        self.held: dict[str, tuple[Reader, object]] = {}

    def fresh(self, sample: Sample) -> tuple[Reader, object]:
        reader = sample.reader()
        torch.manual_seed(3)
        self.held[sample.name] = reader, reader.state()
        return self.held[sample.name]

    def read(self, file: File) -> None:
        """Read one file; see the module's docstring."""
        reader, before = self.held.get(file.sample.name) or self.fresh(file.sample)
        path = self.folder / "corrupted"
        path.write_bytes(file.content)
        torch.manual_seed(3)
        began, outcome = time.monotonic(), "taken"
        try:
            with self.watch.reading():
                reader.read(path)
        except SharingError as error:
            outcome = type(error).__name__
        except (Exception, TooLong) as error:
            outcome = f"not ours: {type(error).__name__}"
            self.note(file, traceback.format_exc()[-1500:])
        self.slowest = max(self.slowest, (time.monotonic() - began, f"{file.sample.name}, {file.kind}"))
        self.counts[file.kind, outcome] += 1
        if self.watch.seen:
            self.note(file, f"it did more than read: {self.watch.seen}")
            self.watch.seen.clear()
        if outcome == "taken":
            self.taken(file, reader)
        elif reader.also_taken and not file.may_be_valid:
            self.note(file, "tensors or sizes took it")
        elif reader.state() != before:
            self.note(file, "it was refused, and something was changed")
            del self.held[file.sample.name]

    def taken(self, file: File, reader: Reader) -> None:
        del self.held[file.sample.name]
        if not file.may_be_valid:
            self.note(file, "it was taken")
            return
        try:
            reader.check(self.folder)
        except Exception:
            self.note(file, f"it was taken, and is not valid: {traceback.format_exc()[-1500:]}")

    def note(self, file: File, what: str) -> None:
        if len(self.wrong) < 40:
            (self.folder / f"wrong-{len(self.wrong)}").write_bytes(file.content)
        self.wrong.append(f"{file.sample.name}, {file.kind}: {what}")


def _too_long(*_: object) -> None:
    raise TooLong(f"more than {SECONDS} seconds")


def main(folder: Path, never: int, signed: int, seed: int) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Batch norm is shared")
    signal.signal(signal.SIGALRM, _too_long)
    whole, bench = list(samples(folder)), Bench(folder)
    for sample in whole:  # what is read first imports and compiles
        (folder / "corrupted").write_bytes(sample.content)
        reader, _ = bench.fresh(sample)
        reader.read(folder / "corrupted")
        reader.check(folder)
    bench.held.clear()
    drawn = random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * MEMORY, size + 4 * MEMORY))
    files = [*islice(never_valid(whole, drawn), never), *islice(perhaps_valid(whole, drawn), signed)]
    for file in files:
        bench.read(file)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    counts = [[*key, count] for key, count in sorted(bench.counts.items())]
    print(json.dumps({"counts": counts, "wrong": bench.wrong, "grown": grown, "slowest": bench.slowest}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
