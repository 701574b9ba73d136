"""Train one network that shares on several processes: torchrun --nproc-per-node 8 eight_gpus.py"""

import os

from sklearn.datasets import load_digits
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

import weightshare as ws
from weightshare.training.distributed import shard_, unsharded_copy

gpu = torch.cuda.is_available()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
dist.init_process_group("nccl" if gpu else "gloo", device_id=device if gpu else None)
rank, world = dist.get_rank(), dist.get_world_size()
first = rank == 0

torch.manual_seed(0)  # the same numbers in every process: of the network, and of the order of the images
images, labels = (torch.tensor(array, device=device) for array in load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16
order = torch.randperm(len(images)).to(device)
train, test = order[:-360], order[-360:]

model = ws.models.convmixer(dim=32, depth=4, patch=2, kernel=3, classes=10, in_channels=1).to(device)
plan = ws.share_(model, ws.Tie(rate=2), where="blocks.*.pointwise")  # first share
sharding = shard_(model)  # then shard: layers that read one weight are gathered together
optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.01), lr=0.01)  # then the optimizer
if first:
    print(plan, sharding, sep="\n\n")

for _ in range(6):
    model.train()
    for batch in train[torch.randperm(len(train)).to(device)].split(128):
        mine = batch.tensor_split(world)[rank]
        loss = cross_entropy(model(images[mine]), labels[mine], reduction="sum") * world / len(batch)
        loss.backward()  # gradients are means over processes, so each gives its part of the sum, times their number
        optimizer.step()
        optimizer.zero_grad()

with torch.no_grad():
    right = (model.eval()(images[test]).argmax(1) == labels[test]).float().mean()
small = unsharded_copy(model, everywhere=False)  # the whole network, on the first process alone
if first:
    bytes_ = ws.save(ws.fold(small), "small.safetensors")
    print(f"{world} processes on {device.type}: {right:.1%}, {bytes_:,} bytes")
dist.destroy_process_group()
