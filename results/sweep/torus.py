"""Write results/sweep/torus from the folder of a sweep that is done.

weightshare sweep examples/torus_sweep.yaml --out OUT
python results/sweep/torus.py OUT
"""

from pathlib import Path
import sys

from weightshare.experiments.sweep_results import collect

if __name__ == "__main__":
    collect(sys.argv[1], "torus", Path(__file__).resolve().parents[1])
