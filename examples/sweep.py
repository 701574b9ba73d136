"""Sweep over settings on Ray, on this machine or, with RAY_ADDRESS set, on a cluster, and say what came out best."""

from dataclasses import replace
import os
from pathlib import Path

from weightshare.training.sweep import read_sweep, sweep

SWEEP = """
base:
  model: convmixer:16/4/2/3
  data: digits
  device: cpu
  prepare: {validation: 0.25}                 # settings are chosen on training images that are held out
  share: [{rate: 1, where: "blocks.*.pointwise"}]
  train: {epochs: 3}
grid:
  share.0.rate: [1, 4]                        # how many layers read one weight
  train.lr: [0.01, 0.03]
metric: test_accuracy
concurrent: 2
out: sweep
"""


def main():
    Path("sweep.yaml").write_text(SWEEP)
    config = replace(read_sweep("sweep.yaml"), address=os.environ.get("RAY_ADDRESS"))
    for run in sweep(config, echo=lambda line: None):  # the same as `weightshare sweep sweep.yaml`
        best, stored = max(row["test_accuracy"] for row in run.history), run.summary["stored"]
        print(f"{run.planned.name}: {run.status}, {best:.1%}, {stored:,} numbers")
    print("sweep/index.html compares them:", Path("sweep/index.html").is_file())


if __name__ == "__main__":
    main()
