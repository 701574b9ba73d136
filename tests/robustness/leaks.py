"""Look for what grows: `python -m tests.robustness.leaks [--cycles 1000]`.

Each loop does and undoes one thing. Memory, objects, hooks, open files and threads are counted again and again. What is
told is the slope of a line through the counts of the second half: caches and allocators fill in the first, as they do
once, and a leak goes on for ever.
"""

import argparse
import atexit
from collections.abc import Callable, Mapping, Sequence
import gc
import os
from pathlib import Path
import shutil
import tempfile
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.robustness import record
from tests.zoo import chain, local_images
import weightshare as ws

POINTS = 20
"""How often is counted; a line is laid through the second half."""
MEMORY, OBJECTS = 512, 0.02
"""Most bytes, and most objects, that a cycle may add. A leaked tensor of the smallest model would be 1,000 bytes and
five objects; what an allocator keeps back is a few hundred bytes at most."""

Cycle = Callable[[], object]


def share_and_unshare() -> Cycle:
    model = chain().model

    def cycle() -> None:
        ws.share_(model, ws.Tie(rate=2))
        ws.unshare_(model)

    return cycle


def generate_and_fold() -> Cycle:
    model, example = chain()

    def cycle() -> Tensor:
        ws.share_(model, ws.Templates(2))
        made = ws.fold(model)(example)
        ws.unshare_(model)
        return made

    return cycle


def decode_and_undo() -> Cycle:
    model, example = chain()

    def cycle() -> None:
        ws.share_(model, ws.Codebook(clusters=2, init="quantiles"))
        model(example).sum().backward()
        ws.unshare_(model)
        model.zero_grad()

    return cycle


def refuse() -> Cycle:
    model = chain().model

    def cycle() -> None:
        for where in ("nobody", "stem", 5):
            try:
                ws.share_(model, ws.Tie(rate=2), where)  # pyright: ignore[reportArgumentType]
            except ws.SharingError:
                continue
            raise AssertionError(f"where={where!r} was taken")

    return cycle


def attach_proximal() -> Cycle:
    return _attached(chain().model, ws.Proximal(strength=1e-3, rewind=0.98))


def attach_sleep() -> Cycle:
    return _attached(local_images().model, ws.Sleep(every=1))


def _folder() -> Path:
    """A folder that is gone when the process ends."""
    made = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, made)
    return made


def save_and_load() -> Cycle:
    path, model = _folder() / "m", chain().model
    ws.share_(model, ws.Tie(rate=2))

    def cycle() -> None:
        ws.save(model, path)
        ws.load(path, model)
        ws.tensors(path)

    return cycle


def load_damaged() -> Cycle:
    path, model = _folder() / "m", chain().model
    ws.save(model, path)
    path.write_bytes(path.read_bytes()[:-1])

    def cycle() -> None:
        try:
            ws.load(path, model)
        except ws.SharingError:
            return
        raise AssertionError("a cut file was taken")

    return cycle


def report_and_plan() -> Cycle:
    model = chain().model
    ws.share_(model, ws.Tie(rate=2))
    return lambda: ws.Plan.from_json(ws.plan(chain().model, ws.Tie(rate=3)).to_json()) and ws.report(model).to_json()


LOOPS: Mapping[str, Callable[[], Cycle]] = {
    one.__name__: one
    for one in (
        share_and_unshare,
        generate_and_fold,
        decode_and_undo,
        refuse,
        attach_proximal,
        attach_sleep,
        save_and_load,
        load_damaged,
        report_and_plan,
    )
}


def grown(make: Callable[[], Cycle], cycles: int, points: int = POINTS) -> dict[str, float]:
    """What each cycle adds: bytes of memory and objects as slopes; files, threads and hooks as last less first."""
    cycle, counts = make(), list[tuple[float, ...]]()
    every = max(1, cycles // points)
    for number in range(cycles + every):
        cycle()
        if number >= every - 1 and (number + 1) % every == 0:
            counts.append(_counted())
    memory, objects, files, threads, hooks = np.array(counts[len(counts) // 2 :]).T
    at = every * np.arange(len(memory))
    return {
        "bytes": round(float(np.polyfit(at, memory, 1)[0]), 1),
        "objects": round(float(np.polyfit(at, objects, 1)[0]), 4),
        "files": float(files[-1] - files[0]),
        "threads": float(threads[-1] - threads[0]),
        "hooks": float(hooks[-1] - hooks[0]),
    }


def leaks(found: Mapping[str, float]) -> list[str]:
    """Which of these numbers are no rounding of zero."""
    limits = {"bytes": MEMORY, "objects": OBJECTS, "files": 0, "threads": 0, "hooks": 0}
    return [name for name, limit in limits.items() if found[name] > limit]


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="leaks", description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    loops = {}
    for name, make in LOOPS.items():
        loops[name] = grown(make, asked.cycles)
        print(f"{name}: {loops[name]}{''.join(f' LEAK: {one}' for one in leaks(loops[name]))}", flush=True)
    limits = {"bytes": MEMORY, "objects": OBJECTS}
    record.write("leaks", "make leaks", {"cycles": asked.cycles, "limits": limits, "loops": loops})
    return int(any(leaks(found) for found in loops.values()))


def _attached(model: nn.Module, hook: Any) -> Cycle:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def cycle() -> None:
        handle = hook.attach_(optimizer, model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        handle.remove()
        optimizer.zero_grad()
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks

    return cycle


def _counted() -> tuple[float, ...]:
    """Bytes of resident memory; objects that Python tracks; open files; threads; hooks of all modules."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    every = gc.get_objects()
    hooks = sum(
        len(value)
        for module in every
        if issubclass(type(module), nn.Module)  # and not isinstance, which asks some proxies for their class
        for key, value in vars(module).items()
        if key.endswith("_hooks") and isinstance(value, dict)
    )
    return resident, len(every), len(os.listdir("/proc/self/fd")), threading.active_count(), hooks


if __name__ == "__main__":
    raise SystemExit(main())
