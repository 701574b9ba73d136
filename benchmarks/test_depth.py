"""What sharing across depth costs: a whole training step on ConvMixer-256/8, each against its rival in the same run.

| benchmark | ours | rival | goal |
|---|---|---|---|
| tied | tied at rate 2 | untied | 1.02 × |
| through | fusion trained through: mean, scalar, channel | tied at rate 2 | 1.05 × |
| transforms | LoRA of rank 16, channel scale | tied at rate 2 | |
| serving | the fold of a tied network, evaluation | untied | 1.02 × |
| from every reader | weights made once a pass | made by each reader | below 1 |

A step is a forward and a backward pass and AdamW, batch 32 of 32×32 images (256 channels, patch 2, kernel 5), float32.
The optimizer's time depends on the stored numbers, so it is left out of the first two: they time what layers do.
"""

import pytest
import torch

from benchmarks.contest import TINY
import weightshare as ws
from weightshare.depth.transform import LoRA, Scale

RESULTS = "depth"
WHERE = "blocks.*.pointwise"
WIDTH, IMAGES = (16, (2, 3, 8, 8)) if TINY else (256, (32, 3, 32, 32))


def mixer(spec=None):
    torch.manual_seed(0)
    net = ws.models.convmixer(WIDTH, 8, 2, 5, classes=10)
    if spec is not None:
        ws.share_(net, spec, WHERE)
    return net


def passes(model):
    images = torch.randn(IMAGES)

    def run():
        model.zero_grad()
        model(images).sum().backward()

    return run


def test_tied_over_untied(against):
    against(passes(mixer(ws.Tie(rate=2))), passes(mixer()), rounds=15)


FUSIONS = {"mean": ws.mean, "scalar": ws.scalar_weighted, "channel": ws.channel_weighted}


@pytest.mark.parametrize("name", FUSIONS)
def test_through_over_tied(against, name):
    ours = mixer(ws.Tie(rate=2, fuse=ws.through(FUSIONS[name])))
    against(passes(ours), passes(mixer(ws.Tie(rate=2))), rounds=15)


OWN = {"lora16": LoRA(16), "channel-scale": Scale("channel")}


@pytest.mark.parametrize("name", OWN)
def test_transforms_over_tied(against, name):
    ours = mixer(ws.Tie(rate=2, fuse=ws.mean, own=OWN[name]))
    against(passes(ours), passes(mixer(ws.Tie(rate=2))), rounds=15)


def test_serving_over_untied(against):
    small, plain, images = ws.fold(mixer(ws.Tie(rate=2))).eval(), mixer().eval(), torch.randn(IMAGES)

    def run(model):
        def serve():
            with torch.no_grad():
                model(images)

        return serve

    against(run(small), run(plain), rounds=15)


def test_once_a_pass_over_once_a_reader(against):
    """Transforms of a vision transformer's size, 12 layers of 384 by 1536, where making weights is what counts."""
    layers = torch.nn.Sequential(*(torch.nn.Linear(3 * WIDTH // 2, 3 * WIDTH // 2) for _ in range(24)))
    spec = ws.Tie(rate=4, fuse=ws.through(ws.mean))
    once = torch.nn.Sequential(layers)
    ws.share_(once, spec, "*.weight")
    x = torch.randn(64, 3 * WIDTH // 2)

    def every_reader():
        once.zero_grad()
        once[0].forward(x).sum().backward()

    def once_a_pass():
        once.zero_grad()
        once(x).sum().backward()

    against(once_a_pass, every_reader, rounds=15)
