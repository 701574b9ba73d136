"""What a result was made with: versions, machine and commit, for every result file."""

from importlib.metadata import PackageNotFoundError, version
import os
from pathlib import Path
import platform
import subprocess
from typing import Any

import torch

PACKAGES = (
    "weightshare",
    "torch",
    "numpy",
    "safetensors",
    "lightning-fabric",
    "kornia",
    "matplotlib",
    "numba",
    "scikit-learn",
    "scipy",
    "timm",
    "transformers",
)


def environment() -> dict[str, Any]:
    """Versions, hardware and the commit of the working tree that the package is run from, as JSON-able values.

    Returns:
        `python`, `packages`, `system`, `processor`, `cores`, `threads`, `gpu` (or `None`), `commit` (or `None` outside
        a checkout of this project) and `dirty`, whether the package's files differ from that commit.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    commit, dirty = _commit()
    return {
        "python": platform.python_version(),
        "packages": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": commit,
        "dirty": dirty,
    }


def peak_memory() -> int:
    """Most memory that this process has held, in bytes: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if platform.system() == "Windows":
        return 0  # Python has no count of it there
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024


def _commit() -> tuple[str | None, bool | None]:
    package = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else it is installed inside of somebody else's checkout
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
