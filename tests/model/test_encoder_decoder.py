"""Warm starts: both halves from an encoder, ready to generate, the same after save and load."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from ftkit.errors import CheckpointError
from ftkit.model.encoder_decoder import WARM_STARTED, check_architecture, warm_start

# Sizes that only some architectures know.
_SIZES = {
    "electra": {"embedding_size": 16},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roformer": {"embedding_size": 32},
    "roc_bert": {"shape_vocab_size": 9, "pronunciation_vocab_size": 9},
}


@pytest.fixture
def encoder(tiny_tokenizer, tmp_path):
    """A function from a model type to the folder of a tiny random encoder."""
    tokenizer = tiny_tokenizer("bert")

    def make(model_type):
        config = CONFIG_MAPPING[model_type](
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=70,
            initializer_range=0.3,
            pad_token_id=tokenizer.pad_token_id,
            **_SIZES.get(model_type, {}),
        )
        torch.manual_seed(0)
        MODEL_MAPPING[type(config)](config).save_pretrained(tmp_path / model_type)
        return str(tmp_path / model_type)

    return make


def warm(folder, name, tokenizer):
    return warm_start(str(folder), name, AutoConfig.from_pretrained(folder), tokenizer)


@pytest.mark.parametrize("model_type", WARM_STARTED)
def test_it_generates_and_does_so_after_loading(encoder, tiny_tokenizer, tmp_path, model_type):
    tokenizer = tiny_tokenizer("bert")
    torch.manual_seed(1)
    model = warm(encoder(model_type), model_type, tokenizer)[0].eval()
    encoded = tokenizer(["hello my refund is late", "parcel"], padding=True, return_tensors="pt")
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    # An end this early would hide a difference.
    found = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, num_beams=2)
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved")
    again = loaded.generate(**inputs, max_new_tokens=8, min_new_tokens=8, num_beams=2)
    assert torch.equal(found, again)
    assert found[:, 0].tolist() == [tokenizer.cls_token_id] * 2
    for settings in (loaded.config, loaded.generation_config):
        assert settings.decoder_start_token_id == tokenizer.cls_token_id
        assert settings.eos_token_id == tokenizer.sep_token_id
        assert settings.pad_token_id == tokenizer.pad_token_id


def test_both_halves_have_the_checkpoints_weights(tiny_checkpoint, tiny_model, tiny_tokenizer):
    model, _ = warm(tiny_checkpoint, "tiny", tiny_tokenizer("bert"))
    decoder = model.decoder.state_dict()
    for name, weight in tiny_model("bert").state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], weight)
        if not name.startswith("pooler."):
            assert torch.equal(decoder[f"bert.{name}"], weight)
    assert any(".crossattention." in name for name in decoder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_decoder_reads_backwards_only_and_the_encoder_always(tiny_checkpoint, tiny_tokenizer):
    model = warm(tiny_checkpoint, "tiny", tiny_tokenizer("bert"))[0].eval()
    source, labels = torch.tensor([[2, 9, 8, 3]]), torch.tensor([[2, 7, 8, 9, 3]])
    ids = model.prepare_decoder_input_ids_from_labels(labels)
    assert ids.tolist() == [[2, 2, 7, 8, 9]]
    with torch.no_grad():
        logits = model(input_ids=source, decoder_input_ids=ids).logits
        other_end = ids.clone()
        other_end[0, 3:] = 20
        same_start = model(input_ids=source, decoder_input_ids=other_end).logits
        other_source = model(input_ids=source + 1, decoder_input_ids=ids).logits
    torch.testing.assert_close(same_start[:, :3], logits[:, :3])
    assert (same_start[:, 3] - logits[:, 3]).abs().max() > 1e-3
    assert (other_source - logits).abs().max(dim=2).values.min() > 1e-4


@pytest.mark.parametrize("architecture", ["distilbert", "albert", "gpt2"])
def test_architectures_that_cannot_decode_are_refused(
    make_checkpoint, tiny_tokenizer, architecture
):
    folder = make_checkpoint(architecture)
    with pytest.raises(CheckpointError, match=f"is a {architecture}, which has no .* bert, "):
        warm(folder, "mine", tiny_tokenizer(architecture))
    with pytest.raises(CheckpointError, match='"mine" is a'):
        check_architecture(AutoConfig.from_pretrained(folder), "mine")


def test_a_tokenizer_that_marks_no_start_is_refused(tiny_checkpoint, tiny_tokenizer):
    with pytest.raises(CheckpointError, match="does not mark where a text starts and ends"):
        warm(tiny_checkpoint, "mine", tiny_tokenizer("gpt2"))


def test_weights_that_lack_a_layer_are_refused(tiny_tokenizer, make_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint("bert")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"lack 1 of the tensors .*output.dense.weight"):
        warm(tmp_path, "mine", tiny_tokenizer("bert"))
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match='weights of "mine" cannot be opened'):
        warm(tmp_path, "mine", tiny_tokenizer("bert"))
