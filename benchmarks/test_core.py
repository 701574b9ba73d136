"""What the core costs, each against a rival in the same run: read the ratios, not the seconds.

| benchmark | ours | rival | goal |
|---|---|---|---|
| import | `import weightshare` | `import torch` | 1.3 × |
| step | forward and backward of a tied ConvMixer-256/8 | the same network untied | 1.02 × |
| plan | planning DeiT-S | building it | well below 1 |
"""

import statistics
import subprocess
import sys
import time

import pytest
import torch

import weightshare as ws
from weightshare.models.by_name import import_timm


def paired(ours, rival, rounds):
    """Median over rounds of ours / rival, the two in turn, after one round that is not counted."""
    ratios, seconds = [], []
    for _ in range(rounds + 1):
        taken = []
        for run in (ours, rival):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        ratios.append(taken[0] / taken[1])
        seconds.append(taken)
    return statistics.median(ratios[1:]), [statistics.median(column) for column in zip(*seconds[1:], strict=True)]


@pytest.fixture
def against(benchmark):
    """Measure two callables in turn, and put the ratio into the table and the JSON of the run."""

    def measure(ours, rival, rounds):
        ratio, (ours_s, rival_s) = benchmark.pedantic(paired, (ours, rival, rounds), rounds=1)
        benchmark.extra_info.update(ratio=ratio, ours_seconds=ours_s, rival_seconds=rival_s)
        print(f"\n{benchmark.name}: ours {ours_s:.4f} s, rival {rival_s:.4f} s, ratio {ratio:.3f}")
        return ratio

    return measure


def python(code):
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


def test_import(against):
    assert against(python("import weightshare"), python("import torch"), rounds=9) > 0


def test_step_of_a_tied_network(against):
    images = torch.randn(32, 3, 32, 32)
    untied = ws.models.convmixer(256, 8, 2, 5, classes=10)
    tied = ws.models.convmixer(256, 8, 2, 5, classes=10)
    ws.share_(tied, ws.Tie(rate=2), where="blocks.*.pointwise")

    def step(model):
        def run():
            model.zero_grad()
            model(images).sum().backward()

        return run

    assert against(step(tied), step(untied), rounds=9) > 0


def test_plan_of_a_vision_transformer(against):
    timm = import_timm()
    model = timm.create_model("deit_small_patch16_224")
    where = ["blocks.*.attn", "blocks.*.mlp"]
    build = lambda: timm.create_model("deit_small_patch16_224")  # noqa: E731
    assert against(lambda: ws.plan(model, ws.Tie(rate=2), where), build, rounds=5) > 0
