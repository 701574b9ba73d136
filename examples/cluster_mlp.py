"""Cluster the weights of a trained network into 16 values each, train the values on, and save four bits a weight."""

import copy

from sklearn.datasets import load_digits
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import weightshare as ws

torch.manual_seed(0)
images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
images = images.float() / 16
order = torch.randperm(len(images))
train, test = order[:-360], order[-360:]


def accuracy(model):
    with torch.no_grad():
        return (model.eval()(images[test]).argmax(1) == labels[test]).float().mean()


def fit(model, epochs, lr):
    optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=0.0), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train))].split(64):
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()


def mlp():
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


dense = mlp()
fit(dense, epochs=20, lr=0.1)
print(f"dense: {accuracy(dense):.1%}, {ws.save(dense, 'dense.safetensors'):,} bytes")

for clusters in (16, 4, 2):
    clustered = copy.deepcopy(dense)
    plan = ws.share_(clustered, ws.Codebook(clusters=clusters))
    before = accuracy(clustered)
    fit(clustered, epochs=5, lr=0.1)  # labels stay; each value moves by the mean of its members' gradients
    small = ws.fold(clustered)  # plain layers again, of few values
    size = ws.save(small, f"{clusters}.safetensors")
    print(f"{clusters} values: {before:.1%}, trained on {accuracy(clustered):.1%}, {size:,} bytes")
    again = ws.load(f"{clusters}.safetensors", mlp())
    assert torch.equal(again(images[test]), small(images[test]))
    assert len(again[0].weight.unique()) <= clusters
print(plan)  # of the last
