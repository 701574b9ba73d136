"""Share the layers of a BERT, and let it learn from what it was: from its logits and hidden states, without labels."""

from collections import Counter
import copy
from pydoc_data.topics import topics  # the language reference, which comes with Python
import re

import torch
from torch.nn.functional import cross_entropy

import weightshare as ws
from weightshare.models.by_name import mend_torchvision
from weightshare.models.pretrained import from_pretrained, save_pretrained
from weightshare.training.distil import hidden_loss, logits_loss

mend_torchvision()  # only where torch is a CPU build and torchvision is not
from transformers import BertConfig, BertForSequenceClassification  # noqa: E402

torch.manual_seed(0)
NAMES, LENGTH = ("debugger", "specialnames", "string-methods", "compound"), 24
texts = [re.findall(r"\w+", topics[name].lower())[:7000] for name in NAMES]
known = {w: 1 + at for at, (w, _) in enumerate(Counter(w for text in texts for w in text).most_common(999))}  # or 0
coded = [torch.tensor([known.get(word, 0) for word in text]) for text in texts]
train, test = ([rows[at].unfold(0, LENGTH, LENGTH // 3) for rows in coded] for at in (slice(800, None), slice(800)))
tokens = torch.cat(train + test)
labels = torch.cat([torch.full((len(rows),), at % len(NAMES)) for at, rows in enumerate(train + test)])
train, test = torch.arange(len(tokens)).split([sum(map(len, train)), sum(map(len, test))])


def accuracy(model):
    with torch.no_grad():
        return (model.eval()(tokens[test]).logits.argmax(1) == labels[test]).float().mean()


def fit(model, epochs, loss):
    optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.01), lr=1e-3)
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train))].split(32):
            loss(model.train(), batch).backward()
            optimizer.step()
            optimizer.zero_grad()


def from_teacher(model, batch):
    with torch.no_grad():
        wanted = bert.eval()(tokens[batch], output_hidden_states=True)
    got = model(tokens[batch], output_hidden_states=True)
    return logits_loss(got.logits, wanted.logits) + hidden_loss(got.hidden_states, wanted.hidden_states)


sizes = {"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 96}
others = {"vocab_size": 1000, "num_labels": len(NAMES), "initializer_range": 0.1, "hidden_dropout_prob": 0.0}
bert = BertForSequenceClassification(BertConfig(**sizes, **others))  # or one that is pretrained
fit(bert, 3, lambda model, batch: cross_entropy(model(tokens[batch]).logits, labels[batch]))
shared = copy.deepcopy(bert)
print(ws.share_(shared, ws.Tie(rate=3), where=["bert.encoder.layer.*", "!*LayerNorm*"]))  # each slot the first reader's
print(f"unshared: {accuracy(bert):.1%}\nshared: {accuracy(shared):.1%}")
fit(shared, 2, from_teacher)
print(f"distilled: {accuracy(shared):.1%}, {save_pretrained(shared, 'shared'):,} bytes")
print("read again:", torch.equal(from_pretrained("shared").eval()(tokens[test]).logits, shared(tokens[test]).logits))
