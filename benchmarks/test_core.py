"""What the core costs, each against a rival in the same run: read the ratios, not the seconds.

| benchmark | ours | rival | goal |
|---|---|---|---|
| import | `import weightshare` | `import torch` | 1.3 × |
| step | forward and backward of a tied ConvMixer-256/8 | the same network untied | 1.02 × |
| plan | planning DeiT-S | building it | well below 1 |
"""

import subprocess
import sys

import torch

from benchmarks.contest import TINY
import weightshare as ws
from weightshare.models.by_name import import_timm

RESULTS = "core"


VISION = "deit_tiny_patch16_224" if TINY else "deit_small_patch16_224"


def python(code):
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


def test_import(against):
    against(python("import weightshare"), python("import torch"), rounds=9)


def test_step_of_a_tied_network(against):
    images = torch.randn(2 if TINY else 32, 3, 32, 32)
    untied = ws.models.convmixer(8 if TINY else 256, 8, 2, 5, classes=10)
    tied = ws.models.convmixer(8 if TINY else 256, 8, 2, 5, classes=10)
    ws.share_(tied, ws.Tie(rate=2), where="blocks.*.pointwise")

    def step(model):
        def run():
            model.zero_grad()
            model(images).sum().backward()

        return run

    against(step(tied), step(untied), rounds=9)


def test_plan_of_a_vision_transformer(against):
    timm = import_timm()
    model = timm.create_model(VISION)
    where = ["blocks.*.attn", "blocks.*.mlp"]
    build = lambda: timm.create_model(VISION)  # noqa: E731
    against(lambda: ws.plan(model, ws.Tie(rate=2), where), build, rounds=5)
