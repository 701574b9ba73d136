"""Models of transformers: plain checkpoints, declared ties, and shared models in folders. Nothing is downloaded."""

import copy
import json

import pytest
import torch
from torch import nn

from tests.support import bits, state
import weightshare as ws
from weightshare.errors import FileError, SpecError
from weightshare.files.plain import load_plain
from weightshare.models.by_name import import_timm
from weightshare.models.pretrained import from_pretrained, save_pretrained

SMALL = {"vocab_size": 41, "hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 20}
OF_T5 = {"vocab_size": 41, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 4, "num_heads": 2}
OF_GPT = {"vocab_size": 41, "n_embd": 12, "n_layer": 4, "n_head": 2, "n_positions": 16}
OF_LLAMA = {**SMALL, "num_key_value_heads": 1, "tie_word_embeddings": True}
KINDS = {
    "BertForMaskedLM": ("BertConfig", {**SMALL, "max_position_embeddings": 16}, "*.intermediate.dense.weight"),
    "GPT2LMHeadModel": ("GPT2Config", OF_GPT, "*.mlp.c_fc.weight"),
    "T5ForConditionalGeneration": ("T5Config", OF_T5, "*.DenseReluDense.wi.weight"),
    "LlamaForCausalLM": ("LlamaConfig", OF_LLAMA, "*.mlp.up_proj.weight"),
    "AlbertForMaskedLM": ("AlbertConfig", {**SMALL, "embedding_size": 6}, "*.ffn.weight"),
}
SPECS = {"tie": ws.Tie(rate=2), "templates": ws.Templates(2), "codebook": ws.Codebook(3)}
every_kind = pytest.mark.parametrize("kind", KINDS)
WORDS = torch.arange(8)[None]


@pytest.fixture(scope="module")
def transformers():
    import_timm()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def built(transformers, kind="BertForMaskedLM", seed=0, **options):
    torch.manual_seed(seed)
    config, sizes, _ = KINDS[kind]
    return getattr(transformers, kind)(getattr(transformers, config)(**sizes | options)).eval()


def said(model):
    named = {"decoder_input_ids": WORDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return bits(model(WORDS, **named).logits)


def ties(model):
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return sorted(sorted(tie) for tie in names.values() if len(tie) > 1)


@every_kind
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
def test_a_plain_checkpoint_is_read_with_the_ties_that_transformers_declares(kind, shards, transformers, tmp_path):
    model = built(transformers, kind)
    model.save_pretrained(tmp_path, max_shard_size=3000 if shards else "1GB")
    held = ws.tensors(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shards
    if shards:
        assert sorted(ws.tensors(tmp_path / "model.safetensors.index.json")) == sorted(held)
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert model.state_dict().keys() - held.keys() == {name for tie in ties(model) for name in tie} - held.keys()
    other = load_plain(tmp_path, built(transformers, kind, seed=1))
    assert said(other) == said(model)
    assert ties(other) == ties(model)


def test_either_name_of_a_tie_will_do_and_copies_that_differ_are_refused(transformers, tmp_path):
    from safetensors.torch import save_file

    model, other = built(transformers), built(transformers, seed=1)
    entries = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head, words = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    for left_out in ({words}, {head}, set()):
        save_file({name: one for name, one in entries.items() if name not in left_out}, tmp_path / "m.safetensors")
        assert said(load_plain(tmp_path, built(transformers, seed=1))) == said(model)
    save_file(entries | {head: entries[head] + 1}, tmp_path / "m.safetensors")
    before = state(other)
    with pytest.raises(FileError, match=r"different numbers for '.*' and '.*', which the model ties"):
        load_plain(tmp_path, other)
    assert state(other) == before
    untied = load_plain(tmp_path, built(transformers, seed=1, tie_word_embeddings=False))
    assert torch.equal(untied.get_parameter(head), entries[head] + 1)


def test_albert_has_tied_its_layers_already(transformers):
    model = built(transformers, "AlbertForMaskedLM")
    for spec in ("tie", "templates"):
        with pytest.raises(ws.SharingError):
            ws.share_(model, SPECS[spec], KINDS["AlbertForMaskedLM"][2])


CELLS = [(kind, spec) for kind in KINDS for spec in SPECS if kind != "AlbertForMaskedLM" or spec == "codebook"]


@pytest.mark.parametrize(("kind", "spec"), CELLS)
def test_a_shared_model_comes_back_from_its_folder(kind, spec, transformers, tmp_path):
    model = built(transformers, kind)
    ws.share_(model, SPECS[spec], KINDS[kind][2])
    before = torch.get_rng_state()
    save_pretrained(model, tmp_path / "folder")
    again = from_pretrained(tmp_path / "folder")
    assert torch.equal(torch.get_rng_state(), before)
    assert type(again) is type(model)
    assert ties(again) == ties(model)
    assert [group.intact for group in ws.report(again).groups] == [one.intact for one in ws.report(model).groups]
    assert said(again) == said(model)
    assert {name: bits(one) for name, one in again.state_dict().items()} == {
        name: bits(one) for name, one in model.state_dict().items()
    }


@pytest.mark.parametrize("spec", SPECS)
def test_transformers_itself_reads_the_plain_copy_and_refuses_the_shared_one(spec, transformers, tmp_path):
    model = built(transformers)
    ws.share_(model, SPECS[spec], KINDS["BertForMaskedLM"][2])
    before = state(model)
    small = save_pretrained(model, tmp_path)
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert small == (tmp_path / "weightshare.safetensors").stat().st_size
    save_pretrained(model, tmp_path, plain=True)
    plain, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert said(plain) == said(model)
    assert said(from_pretrained(tmp_path)) == said(model)
    assert state(model) == before


@pytest.mark.parametrize("spec", ["templates", "codebook"])
def test_what_a_folded_model_saves_transformers_reads(spec, transformers, tmp_path):
    model = built(transformers)
    ws.share_(model, SPECS[spec], KINDS["BertForMaskedLM"][2])
    ws.fold(model).save_pretrained(tmp_path)
    assert said(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)) == said(model)


def test_transformers_refuses_to_save_layers_that_are_tied(transformers, tmp_path):
    """So the page says to unshare a copy first: that is read as it was."""
    model = built(transformers)
    ws.share_(model, SPECS["tie"], KINDS["BertForMaskedLM"][2])
    with pytest.raises(RuntimeError, match="shared tensors"):
        ws.fold(model).save_pretrained(tmp_path / "refused")
    apart = copy.deepcopy(model)
    ws.unshare_(apart)
    apart.save_pretrained(tmp_path)
    assert said(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)) == said(model)


def test_half_precision_and_settings_of_generation_come_back(transformers, tmp_path):
    model = built(transformers, "GPT2LMHeadModel").to(torch.bfloat16)
    model.generation_config.max_new_tokens = 7
    ws.share_(model, SPECS["tie"], "*.mlp.c_fc.weight")
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert again.generation_config.max_new_tokens == 7
    assert said(again) == said(model)


def test_what_is_no_model_of_transformers_is_refused(tmp_path):
    with pytest.raises(SpecError, match="Linear is no PreTrainedModel"):
        save_pretrained(nn.Linear(2, 3), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": None},
        {"architectures": ["os"]},
        {"architectures": ["pipeline"]},
        {"architectures": ["BertConfig"]},
        {"architectures": ["__class__"]},
        {"architectures": ["NoSuchModel"]},
        {"architectures": ["GPT2LMHeadModel"]},
        {"auto_map": {"AutoModel": "evil.Model"}, "architectures": ["evil.Model"]},
        {"hidden_size": 14},
        {"hidden_size": "x"},
        {"num_hidden_layers": 5},
        {"num_attention_heads": 5},
        {"dtype": "float64"},
        {"dtype": "os.system"},
    ],
    ids=str,
)
def test_a_configuration_that_was_edited_is_refused(change, transformers, tmp_path):
    model = built(transformers)
    ws.share_(model, SPECS["tie"], KINDS["BertForMaskedLM"][2])
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(FileError):
        from_pretrained(tmp_path)


def test_timm_reads_a_folded_model(tmp_path):
    timm = import_timm()
    sizes = {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 12, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", **sizes)
    ws.share_(model, SPECS["templates"], "blocks.*.mlp.fc1.weight")
    folded = ws.fold(model.eval())
    ws.save(folded, tmp_path / "m.safetensors")
    again = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(tmp_path / "m.safetensors"), **sizes).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert bits(again(image)) == bits(folded(image))
