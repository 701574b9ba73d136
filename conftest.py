"""Kernels whose compiler is not installed have no examples to run."""

from importlib.util import find_spec

_COMPILERS = {"numba": "cpu.py", "triton": "cuda.py"}
collect_ignore = [f"src/weightshare/kernels/{file}" for name, file in _COMPILERS.items() if find_spec(name) is None]
