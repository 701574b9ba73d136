"""Halve a trained vision transformer: neighbouring layers get one weight, and learn from what they were apart."""

import copy

from sklearn.datasets import load_digits
import torch
from torch.nn.functional import cross_entropy

import weightshare as ws
from weightshare.models import build
from weightshare.training.distil import logits_loss

torch.manual_seed(0)
images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16
order = torch.randperm(len(images))
train, test = order[:-360], order[-360:]


def accuracy(model):
    with torch.no_grad():
        return (model.eval()(images[test]).argmax(1) == labels[test]).float().mean()


def fit(model, epochs, loss):
    optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.05), lr=2e-3)
    for _ in range(epochs):
        model.train()
        for batch in train[torch.randperm(len(train))].split(64):
            loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()


def from_labels(model, batch):
    return cross_entropy(model(images[batch]), labels[batch])


def from_teacher(model, batch):
    with torch.no_grad():
        wanted = vit.eval()(images[batch])
    return logits_loss(model(images[batch]), wanted)


sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 48, "depth": 6, "num_heads": 3}
vit = build("timm:vit_tiny_patch16_224", in_channels=1, classes=10, **sizes)  # or your own, pretrained
fit(vit, 15, from_labels)
print(f"trained: {accuracy(vit):.1%}")

halved = copy.deepcopy(vit)
print(ws.share_(halved, ws.Tie(rate=2, fuse=ws.mean), where=["blocks.*", "!*norm*"]))
print(f"fused: {accuracy(halved):.1%}")
fit(halved, 8, from_teacher)
print(f"distilled: {accuracy(halved):.1%}")

small = ws.fold(halved)
print(f"{ws.save(vit, 'vit.safetensors'):,} bytes before, {ws.save(small, 'halved.safetensors'):,} after")
