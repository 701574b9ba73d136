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
moved = torch.stack([image.roll((row, row + 3), (1, 2)) for row, image in enumerate(images)])  # around the edges


def accuracy(model, images):
    with torch.no_grad():
        return (model.eval()(images[test]).argmax(1) == labels[test]).float().mean()


def cnn():
    torch.manual_seed(1)
    first = nn.Conv2d(1, 16, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(16), nn.ReLU()
    second = nn.Conv2d(16, 32, 3, padding=2, dilation=2, padding_mode="circular"), nn.BatchNorm2d(32), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def fit(model, epochs=8, sleep=None):
    optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.01), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    if sleep:
        sleep.attach_(optimizer, model)
    for _ in range(epochs):
        model.train()
        for batch in train[torch.randperm(len(train))].split(64):
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()  # and sleep, after every fifth one
            optimizer.zero_grad()
        schedule.step()


convolution, awake, slept = cnn(), cnn(), cnn()
ws.localize_(awake, images[:1])
print(ws.localize_(slept, images[:1]))
fit(convolution)
fit(awake)
fit(slept, sleep=ws.Sleep(every=5, lattice=ws.Lattice(period=1)))  # one class of positions: all of them
print(plan_fold(slept, images[test]))
folded = ws.fold(slept, tolerance=math.inf)
for name, model in {"convolution": convolution, "never slept": awake, "slept": slept, "slept, folded": folded}.items():
    print(f"{name}: {accuracy(model, images):.1%} where it was trained, {accuracy(model, moved):.1%} moved")
print(f"{ws.save(slept, 'local.safetensors'):,} bytes local, {ws.save(folded, 'small.safetensors'):,} folded")
