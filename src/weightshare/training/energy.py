"""Energy that the machine has used, from the counters of its processors, where they can be read."""

from pathlib import Path

import torch

COUNTERS = "/sys/class/powercap"


def joules(root: str = COUNTERS) -> float | None:
    """Energy since some moment in the past, in joules, of all processor packages and GPUs whose counters are readable.

    The difference of two calls is what the whole machine used in between, whoever used it. A counter that has started
    again at zero makes it negative: such a difference says nothing.

    Args:
        root: Where Linux shows the counters of processor packages.

    Returns:
        Joules, or `None` where nothing can be read.
    """
    found = [*_packages(Path(root)), *_gpus()]
    return sum(found) if found else None


def _packages(root: Path) -> list[float]:
    values = []
    for counter in sorted(root.glob("intel-rapl:?/energy_uj")):
        try:
            values.append(int(counter.read_text(encoding="ascii")) / 1e6)
        except (OSError, ValueError):  # root alone may read it on most machines
            return []
    return values


def _gpus() -> list[float]:
    if not torch.cuda.is_available():
        return []
    try:
        import pynvml  # type: ignore[import-not-found]  # comes with some builds of torch

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles]
    except Exception:
        return []
