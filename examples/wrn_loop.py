"""Train a wide residual network whose layers mix templates, and fold it into one with loops."""

from sklearn.datasets import load_digits
import torch
from torch.nn.functional import cross_entropy

import weightshare as ws
from weightshare.depth.fold import plan_loops
from weightshare.depth.regularise import SimilarityPenalty

torch.manual_seed(0)
images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16
order = torch.randperm(len(images))
train, test = order[:-360], order[-360:]


def accuracy(model):
    with torch.no_grad():
        return (model.eval()(images[test]).argmax(1) == labels[test]).float().mean()


def fit(model, epochs, lr, attach=lambda optimizer: None):
    optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=5e-4), lr=lr, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    attach(optimizer)
    for _ in range(epochs):
        model.train()
        for batch in train[torch.randperm(len(train))].split(128):
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()


net = ws.models.wrn(22, 1, in_channels=1)
repeated = ["layer*.conv*", "!layer*.0.*"]  # the first block of each stage has shapes of its own
print(ws.share_(net, ws.Templates(4), where=repeated))
fit(net, 6, lr=0.1, attach=lambda optimizer: SimilarityPenalty(strength=1.0).attach_(optimizer, net))
print(f"trained: {accuracy(net):.1%}")

loops = plan_loops(net, threshold=0.95, batches=[images[train[:256]]])
print(loops)  # which layers are one, which loops that closes, and how far outputs move
small = loops.fold(net)
print(f"folded: {accuracy(small):.1%}")
fit(small, 2, lr=0.02)
print(f"trained on: {accuracy(small):.1%}")
print(f"{ws.save(ws.fold(net), 'net.safetensors'):,} bytes without loops, {ws.save(small, 'small.safetensors'):,} with")
