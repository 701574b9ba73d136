"""A vision transformer of timm whose layers share weights, end to end, in a quarter of a minute on one core."""

from sklearn.datasets import load_digits
import torch

import weightshare as ws
from weightshare.models.by_name import import_timm

timm = import_timm()  # `import timm`, which also works where torch and torchvision are of two builds
import peft  # noqa: E402 - it imports torchvision too

torch.manual_seed(0)
images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16


def train(model, images, lr, steps, after_step=lambda model: None):
    """Train what is not frozen on all but the last 360 digits."""
    optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.05), lr=lr)  # each shared tensor once
    ws.check(optimizer, model)
    for batch in torch.randint(len(images) - 360, (steps, 64)):
        torch.nn.functional.cross_entropy(model.train()(images[batch]), labels[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
        after_step(model)


def score(what, model, images):
    """Print how many of the last 360 digits come out right, and how many numbers the model stores; return logits."""
    logits = model.eval()(images[-360:]).detach()
    print(f"{what}: {(logits.argmax(1) == labels[-360:]).float().mean():.1%}, {ws.report(model).stored:,} numbers")
    return logits


sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 64, "depth": 8, "num_heads": 4}
model = timm.create_model("vit_tiny_patch16_224", **sizes)
plan = ws.plan(model, ws.Tie(rate=2), where=["blocks.*.attn", "blocks.*.mlp"])
print(plan)
plan.apply_(model)
model.set_grad_checkpointing()  # the gradients stay the same to the last bit
ema = timm.utils.ModelEmaV3(model, decay=0.95, exclude_buffers=True)  # else what two layers share is averaged twice
train(model, images, lr=1e-3, steps=200, after_step=ema.update)
score("trained", model, images)
upright = score("its average", ema, images)
small = ws.fold(ema.module)
print(f"folded: {ws.save(small, 'vit.safetensors'):,} bytes on disk")

turned = images.rot90(2, (2, 3))  # a new task: digits upside down
lora = peft.get_peft_model(small, peft.LoraConfig(r=4, target_modules=["qkv", "fc1"]))
score("upside down", lora, turned)
train(lora, turned, lr=1e-2, steps=80)  # each layer learns an update of its own to the weight that it shares
adapted = score("with LoRA", lora, turned)
with lora.disable_adapter():
    print("nothing below LoRA has moved:", torch.equal(score("LoRA off, upright", lora, images), upright))
lora.save_pretrained("adapters")
ws.unshare_(ema.module)  # merged into a weight that two layers share, both updates would reach both, without a word
merged = peft.PeftModel.from_pretrained(ema.module, "adapters").merge_and_unload()
print(f"outputs differ by {(score('merged', merged, turned) - adapted).abs().max():.0e}")
