"""Sweep over settings on Ray, on this machine or, with RAY_ADDRESS set, on a cluster, and say what came out best."""

from pathlib import Path

from weightshare.training.sweep import read_sweep, sweep

SWEEP = """
base:
  model: convmixer:16/4/2/3
  data: digits
  device: cpu
  prepare: {validation: 0.25}                 # settings are chosen on training images that are held out
  train: {epochs: 4}
grid:
  share: [[], [{rate: 2, where: "blocks.*.pointwise"}]]
  train.lr: [0.01, 0.03]
metric: test_accuracy
concurrent: 2
out: sweep
"""


def main():
    Path("sweep.yaml").write_text(SWEEP)
    runs = sweep(read_sweep("sweep.yaml"))  # the same as `weightshare sweep sweep.yaml`
    for run in sorted(runs, key=lambda run: -run.history[-1]["test_accuracy"]):
        stored = run.summary
        print(f"{run.planned.name}: {run.history[-1]['test_accuracy']:.1%}", stored)


if __name__ == "__main__":
    main()
