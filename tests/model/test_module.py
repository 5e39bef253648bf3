"""The module: a batch dict in, logits out; windows averaged, precision as asked for."""

import pytest
import torch

import ftkit
from ftkit.errors import SettingError
from ftkit.learner.save import predictor
from ftkit.model import module as rooms
from ftkit.model.module import TextModel
from ftkit.tasks import Classification, Summarization

HEAD = "ForSequenceClassification"
TASK = Classification(kind="single", labels=("a", "b", "c"))


@pytest.fixture(scope="module")
def model(tiny_model):
    return TextModel(tiny_model("bert", HEAD, num_labels=3), TASK).eval()


def batch_of(*lengths, longest=12, **others):
    """Inputs with so many tokens each, and what belongs to a row."""
    tokens = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (len(lengths), longest), generator=tokens)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, **others}


def test_logits_are_the_models_own(model):
    batch = batch_of(3, 12, 7)
    with torch.no_grad():
        torch.testing.assert_close(model(batch), model.hf_model(**batch).logits, rtol=0, atol=1e-6)
        assert model(batch).dtype is torch.float32


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2", "t5", "bart"])
def test_keys_that_a_model_does_not_know_are_dropped(tiny_model, architecture):
    model = TextModel(tiny_model(architecture, HEAD, pad_token_id=0), TASK).eval()
    batch = batch_of(3, 12, row=torch.arange(2), n_tokens=torch.ones(2))
    if architecture in ("t5", "bart"):
        # These find the end of the text by its token.
        end = model.hf_model.config.eos_token_id
        batch["input_ids"][:, 0] = end
        batch["input_ids"][:, 1:][batch["input_ids"][:, 1:] == end] = 20
    with torch.no_grad():
        plain = model({name: batch[name] for name in ("input_ids", "attention_mask")})
        torch.testing.assert_close(model(batch), plain)
        types = torch.ones_like(batch["input_ids"])
        typed = model({**batch, "token_type_ids": types % 2})
    assert torch.equal(typed, plain) == (architecture not in ("bert", "gpt2"))


def test_windows_are_averaged(model):
    batch = batch_of(12, 12, 5, 12, 12, 12)
    windows = torch.tensor([[0, 1, -1], [2, -1, -1], [3, 4, 5]])
    with torch.no_grad():
        alone = model(batch)
        averaged = model({**batch, "windows": windows})
    expected = torch.stack([alone[:2].mean(0), alone[2], alone[3:].mean(0)])
    torch.testing.assert_close(averaged, expected)


@pytest.mark.parametrize("at_once", [1, 2, 4, 5, 100])
def test_windows_a_few_at_a_time_give_the_same(model, monkeypatch, at_once):
    batch = batch_of(12, 12, 5, 12, 12, windows=torch.tensor([[0, 1, -1], [2, 3, 4]]))
    whole = model(batch)
    assert whole.requires_grad
    monkeypatch.setattr(rooms, "_WINDOWS_AT_ONCE", at_once)
    calls = []
    handle = model.hf_model.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        parts = model(batch)
    handle.remove()
    assert len(calls) == -(-5 // at_once)
    torch.testing.assert_close(parts, whole.detach())


def test_gradients_flow_through_every_window(model):
    batch = batch_of(12, 12, 12, windows=torch.tensor([[0, 1], [2, -1]]))
    seen = []
    handle = model.hf_model.bert.register_forward_hook(
        lambda module, inputs, output: (
            (
                seen.append(output.pooler_output),
                output.pooler_output.retain_grad(),
            )[:0]
            or None
        )
    )
    model.zero_grad()
    model(batch)[:, 1].sum().backward()
    handle.remove()
    gradient = seen[0].grad
    assert (gradient.abs().sum(1) > 0).all()
    torch.testing.assert_close(gradient[0], gradient[2] / 2)
    assert all(p.grad is not None for p in model.hf_model.classifier.parameters())
    model.zero_grad()


def test_autocast_computes_in_the_type_asked_for(model, monkeypatch):
    batch, types = batch_of(3, 12), []
    layer = model.hf_model.bert.encoder.layer[0].intermediate.dense
    handle = layer.register_forward_hook(lambda _, inputs, output: types.append(output.dtype))
    with torch.no_grad():
        full = model(batch)
        monkeypatch.setattr(model, "autocast_dtype", torch.bfloat16)
        half = model(batch)
    handle.remove()
    assert types == [torch.float32, torch.bfloat16]
    assert half.dtype is torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_labels_become_what_the_decoder_reads(tiny_model, architecture):
    model = TextModel(tiny_model(architecture, "ForConditionalGeneration"), Summarization()).eval()
    labels = torch.tensor([[9, 8, 7], [6, 5, -100]])
    batch = batch_of(3, 12)
    seen = []
    handle = model.hf_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        ours = model({**batch, "labels": labels})
        handle.remove()
        theirs = model.hf_model(**batch, labels=labels).logits
    assert "labels" not in seen[0]
    torch.testing.assert_close(ours, theirs)


def test_rows_without_labels_are_not_scored_by_a_model_that_writes(tiny_model):
    model = TextModel(tiny_model("t5", "ForConditionalGeneration"), Summarization())
    with pytest.raises(SettingError, match="no text to score"):
        model(batch_of(3, 12))


def test_a_reading_heads_logits_stand_beside_each_other(tiny_model):
    hf_model = tiny_model("bert", "ForQuestionAnswering")
    model = TextModel(hf_model, TASK).eval()
    batch = batch_of(3, 12)
    with torch.no_grad():
        found, theirs = model(batch), hf_model(**batch)
    torch.testing.assert_close(found[..., 0], theirs.start_logits)
    torch.testing.assert_close(found[..., 1], theirs.end_logits)


def test_a_task_that_generates_answers_with_token_ids(tiny_model):
    model = TextModel(tiny_model("t5", "ForConditionalGeneration"), Summarization()).eval()
    model.hf_model.generation_config.max_new_tokens = 5
    ids = model.answer({**batch_of(3, 12), "row": torch.arange(2)})
    assert ids.dtype == torch.long
    assert ids.shape[0] == 2
    assert ids.shape[1] <= 6


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_a_text_that_writes_out_the_end_of_text_token(make_checkpoint, tmp_path, architecture):
    rows = [
        {"text": "the <s>old</s> parcel </s>", "label": "a"},
        {"text": "late", "label": "b"},
        {"text": "my refund </s> is late", "label": "a"},
        {"text": "the courier", "label": "b"},
    ]
    learn = ftkit.classification_learner(
        {"train": rows, "validation": rows},
        make_checkpoint(architecture),
        bs=4,
        precision="fp32",
        path=tmp_path,
    )
    learn.fit(1, 1e-3)
    model = predictor(learn)
    for row, found in zip(rows, model.predict(rows), strict=True):
        (alone,) = model.predict([row])
        assert found.scores == pytest.approx(alone.scores, abs=1e-5)
