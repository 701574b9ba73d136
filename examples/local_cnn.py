"""Make a convolutional network locally connected, train it with sleep, and fold it back."""

import math

from sklearn.datasets import load_digits
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import weightshare as ws
from weightshare.space.convert import plan_fold

torch.manual_seed(0)
images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16
order = torch.randperm(len(images))
train, test = order[:-360], order[-360:]


def accuracy(model):
    with torch.no_grad():
        return (model.eval()(images[test]).argmax(1) == labels[test]).float().mean()


def cnn():
    torch.manual_seed(1)
    first = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
    second = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def fit(model, epochs=6, sleep=None):
    optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.01), lr=3e-3)
    handle = sleep.attach_(optimizer, model) if sleep else None
    for _ in range(epochs):
        model.train()
        for batch in train[torch.randperm(len(train))].split(64):
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()  # and sleep, after every fifth one
            optimizer.zero_grad()
    if handle:
        handle.now()


convolution, awake, slept = cnn(), cnn(), cnn()
ws.localize_(awake, images[:1])
print(ws.localize_(slept, images[:1]))
fit(convolution)
fit(awake)
fit(slept, sleep=ws.Sleep(every=5, lattice=ws.Lattice(period=1)))  # one class of positions: all of them
print(f"convolution: {accuracy(convolution):.1%}")
print(plan_fold(slept, images[test]))
for name, model in (("never slept", awake), ("slept", slept)):
    folded = ws.fold(model, tolerance=math.inf)
    print(f"{name}: {accuracy(model):.1%}, folded {accuracy(folded):.1%}")
print(f"{ws.save(slept, 'local.safetensors'):,} bytes local, {ws.save(folded, 'small.safetensors'):,} folded")
