"""Language modelling: packing, masking and perplexity by hand, and tiny models end to end."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from batches import as_tensors, merged
from datasets import Dataset, DatasetDict
from transformers import BartConfig, BertConfig, GPT2Config, RobertaConfig, XLMConfig, XLNetConfig

import ftkit
from ftkit.errors import CheckpointError, DataError, SettingError
from ftkit.features import IGNORED, Padding, prepare_rows
from ftkit.tasks.language_modeling import LanguageModeling

MASKED, CAUSAL = LanguageModeling(kind="masked"), LanguageModeling(kind="causal")
TEXTS = [
    "hello my parcel is late!",
    "",
    "i was charged a fee again and again, please refund the payment of today",
    "crash",
    "the app freezes with an error since the update [MASK] [SEP] of my order " * 3,
    "   ",
    "thank you",
]


def blocks_of(task, tokenizer, texts=TEXTS, limit=64):
    prepared = task.prepare({"text": texts}, tokenizer, limit)
    assert set(map(len, prepared.values())) == {len(prepared["input_ids"])}
    assert all(len(block) == 1 for block in prepared["input_ids"])
    assert not any(prepared["n_cut"])
    return [block[0] for block in prepared["input_ids"]], prepared


def batch_of(task, tokenizer, texts=TEXTS, limit=64, rng=None, rows=None, side="right"):
    """Inputs, targets and what they were filled from."""
    features = prepare_rows({"text": texts}, task, tokenizer, limit)
    padding = replace(Padding.of(tokenizer), side=side)
    rows = np.arange(len(features)) if rows is None else np.array(rows)
    columns = features.fill(rows, padding)
    return *as_tensors(task.collate({**columns}, rng)), columns


def restored(inputs, targets):
    """Input ids with the targets put back in their places."""
    ids = inputs["input_ids"].clone()
    for block, (places, wanted) in enumerate(zip(inputs["places"], targets, strict=True)):
        is_target = wanted != IGNORED
        ids[block, places[is_target]] = wanted[is_target]
    return ids


# Options


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mlm"}, 'kind is \'mlm\'.*"masked", "causal"'),
        ({"block": 7}, "block is 7 tokens"),
        ({"mask_share": 0.0}, "mask_share is 0.0"),
        ({"mask_share": 1.0}, "mask_share is 1.0"),
        ({"kind": "causal", "whole_words": True}, "whole_words has no meaning"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        LanguageModeling(**options)


@pytest.mark.unit
def test_options_survive_json():
    task = LanguageModeling(kind="masked", block=32, mask_share=0.2, whole_words=True)
    assert LanguageModeling(**json.loads(json.dumps(asdict(task)))) == task


@pytest.mark.unit
def test_it_wants_text_alone():
    assert [(c.name, c.kind) for c in MASKED.columns()] == [("text", "text")]


# The kind, read off the checkpoint


@pytest.mark.unit
@pytest.mark.parametrize(
    ("config", "architectures", "kind"),
    [
        (BertConfig, None, "masked"),
        (BertConfig, ["BertForPreTraining"], "masked"),
        (BertConfig, ["BertForMaskedLM"], "masked"),
        (RobertaConfig, ["RobertaForSequenceClassification"], "masked"),
        (XLMConfig, ["XLMWithLMHeadModel"], "masked"),
        (BartConfig, ["BartForConditionalGeneration"], "masked"),
        (BartConfig, ["BartForCausalLM"], "causal"),
        (GPT2Config, None, "causal"),
        (GPT2Config, ["GPT2LMHeadModel"], "causal"),
    ],
)
def test_the_kind_is_that_of_the_checkpoint(config, architectures, kind):
    task = LanguageModeling().fit_to(config(architectures=architectures))
    assert task.kind == kind
    assert task.fit_to(config(architectures=architectures)) == task
    assert task.head().auto_class.endswith("MaskedLM" if kind == "masked" else "CausalLM")


@pytest.mark.unit
def test_a_decoder_made_of_an_encoder_is_causal():
    config = BertConfig(architectures=["BertLMHeadModel"], is_decoder=True)
    assert LanguageModeling().fit_to(config).kind == "causal"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("task", "config"),
    [
        (CAUSAL, BertConfig()),
        (CAUSAL, XLMConfig()),
        (LanguageModeling(), BertConfig(architectures=["BertLMHeadModel"])),
        (LanguageModeling(), XLNetConfig(architectures=["XLNetLMHeadModel"])),
    ],
)
def test_a_model_that_would_see_its_targets_is_refused(task, config):
    with pytest.raises(CheckpointError, match="reads its text both ways"):
        task.fit_to(config)


@pytest.mark.unit
def test_the_head_is_not_known_before_the_checkpoint():
    with pytest.raises(SettingError, match="does not know its checkpoint"):
        LanguageModeling().head()


# Packing


@pytest.mark.parametrize("block", [8, 11, 64, None])
@pytest.mark.parametrize("whole_words", [False, True])
def test_packing_for_a_masked_model_loses_nothing(tiny_tokenizer, block, whole_words):
    tokenizer = tiny_tokenizer("bert")
    task = replace(MASKED, block=block, whole_words=whole_words)
    blocks, _ = blocks_of(task, tokenizer)
    size = block or 64
    assert {len(each) for each in blocks[:-1]} <= {size}
    assert 2 < len(blocks[-1]) <= size
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert all(each[0] == cls and each[-1] == sep for each in blocks)
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    whole = [token for ids in encoded if ids for token in [*ids, sep]][:-1]
    assert [token for each in blocks for token in each[1:-1]] == whole


@pytest.mark.parametrize("block", [8, 13, None])
def test_packing_for_a_causal_model_loses_nothing(tiny_tokenizer, block):
    tokenizer = tiny_tokenizer("gpt2")
    blocks, prepared = blocks_of(replace(CAUSAL, block=block), tokenizer)
    assert {len(each) for each in blocks[:-1]} == {block or 64}
    encoded = [tokenizer(text)["input_ids"] for text in TEXTS if text]
    whole = [token for ids in encoded for token in [*ids, tokenizer.eos_token_id]]
    assert [token for each in blocks for token in each] == whole
    assert set(prepared) == {"input_ids", "n_cut"}


def test_a_causal_text_keeps_the_special_tokens_of_its_tokenizer(tiny_tokenizer):
    tokenizer = tiny_tokenizer("roberta")
    (block,), _ = blocks_of(CAUSAL, tokenizer, ["hi", "my fee"])
    assert block == tokenizer("hi")["input_ids"] + tokenizer("my fee")["input_ids"]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "t5", "gpt2"])
@pytest.mark.parametrize("texts", [[""], ["", " "], ["a"]])
def test_rows_of_nothing_make_one_block(tiny_tokenizer, architecture, texts):
    tokenizer = tiny_tokenizer(architecture)
    task = MASKED if architecture in ("bert", "roberta") else CAUSAL
    blocks, _ = blocks_of(task, tokenizer, texts)
    assert len(blocks) == 1
    _, targets, _ = batch_of(task, tokenizer, texts)
    outputs = torch.randn(*targets.shape, len(tokenizer), requires_grad=True)
    loss = task.loss(outputs, targets)
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()


def test_a_block_longer_than_the_checkpoint_is_refused(tiny_tokenizer):
    with pytest.raises(SettingError, match="block is 128 tokens, and the checkpoint takes 64"):
        blocks_of(replace(MASKED, block=128), tiny_tokenizer("bert"))


def test_a_tokenizer_without_mask_token_is_refused(tiny_tokenizer):
    with pytest.raises(CheckpointError, match="has no mask token"):
        blocks_of(MASKED, tiny_tokenizer("gpt2"))


def test_a_row_that_is_no_text_is_named(tiny_tokenizer):
    with pytest.raises(DataError, match=r'row 2, column "text": found None'):
        blocks_of(MASKED, tiny_tokenizer("bert"), ["a", None])


# Masking


def test_special_tokens_are_never_masked(tiny_tokenizer):
    tokenizer = tiny_tokenizer("bert")
    task = replace(MASKED, mask_share=0.99)
    inputs, targets, columns = batch_of(task, tokenizer, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(restored(inputs, targets), columns["input_ids"])
    assert not set(targets.unique().tolist()) & set(tokenizer.all_special_ids)
    is_special = np.isin(columns["input_ids"], tokenizer.all_special_ids)
    # At 0.99, every token that is not special was a target.
    assert int((targets != IGNORED).sum()) == pytest.approx((~is_special).sum(), abs=len(targets))


def test_four_of_five_targets_are_masked_and_one_of_ten_is_kept(tiny_tokenizer):
    tokenizer = tiny_tokenizer("bert")
    texts = ["please refund the fee i was charged today " * 6] * 200
    rng = np.random.default_rng(0)
    inputs, targets, columns = batch_of(MASKED, tokenizer, texts, rng=rng)
    is_target = targets != IGNORED
    n_targets = int(is_target.sum())
    assert n_targets / (columns["word"] > 0).sum() == pytest.approx(0.15, abs=0.01)
    shown = inputs["input_ids"].gather(1, inputs["places"])[is_target]
    assert (shown == tokenizer.mask_token_id).float().mean() == pytest.approx(0.8, abs=0.03)
    assert (shown == targets[is_target]).float().mean() == pytest.approx(0.1, abs=0.03)
    others = shown[(shown != tokenizer.mask_token_id) & (shown != targets[is_target])]
    assert len(others.unique()) > 50
    assert int(others.max()) < len(tokenizer)
    # What is no target stays as it was.
    np.testing.assert_array_equal(restored(inputs, targets), columns["input_ids"])


def test_whole_words_are_masked_whole(tiny_tokenizer):
    tokenizer = tiny_tokenizer("bert")
    # Words that the tokenizer does not know become a token a letter.
    texts = ["kangaroo my zebra is late ostrich help! giraffe " * 4] * 30
    task = replace(MASKED, whole_words=True, mask_share=0.3)
    inputs, targets, columns = batch_of(task, tokenizer, texts, rng=np.random.default_rng(1))
    seen = set()
    for block, places in enumerate(inputs["places"]):
        masked = set(places[targets[block] != IGNORED].tolist())
        for word in set(columns["word"][block].tolist()) - {0}:
            own = set(np.flatnonzero(columns["word"][block] == word).tolist())
            assert own <= masked or not own & masked
            if own <= masked:
                seen.add(tokenizer.decode(columns["input_ids"][block][sorted(own)]))
    assert {"kangaroo", "zebra", "late", "!"} <= seen


def test_training_masks_anew_and_validation_does_not(tiny_tokenizer):
    tokenizer = tiny_tokenizer("bert")
    rng = np.random.default_rng(0)
    first, second = (batch_of(MASKED, tokenizer, rng=rng)[0]["input_ids"] for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (batch_of(MASKED, tokenizer)[0]["input_ids"] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("side", ["left", "right"])
def test_validation_masks_a_block_alike_in_any_batch(tiny_tokenizer, side):
    tokenizer, task = tiny_tokenizer("bert"), replace(MASKED, block=20)
    inputs, _, columns = batch_of(task, tokenizer, side=side)
    last = len(columns["row"]) - 1
    assert not columns["attention_mask"][last].all()
    n_changed = 0
    for row in range(last + 1):
        alone, _, _ = batch_of(task, tokenizer, rows=[row])
        is_token = columns["attention_mask"][row].astype(bool)
        assert torch.equal(inputs["input_ids"][row][is_token], alone["input_ids"][0])
        n_changed += int(
            (alone["input_ids"][0].numpy() != columns["input_ids"][row][is_token]).any()
        )
    assert n_changed >= last


@pytest.mark.parametrize("side", ["left", "right"])
def test_causal_targets_are_the_next_tokens(tiny_tokenizer, side):
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    inputs, targets, columns = batch_of(CAUSAL, tokenizer, ["abc " * 18], side=side)
    for ids, wanted, mask in zip(
        inputs["input_ids"], targets, columns["attention_mask"], strict=True
    ):
        own = np.flatnonzero(mask)
        assert wanted[own[:-1]].tolist() == ids[own[1:]].tolist()
        assert int((wanted != IGNORED).sum()) == len(own) - 1
        if side == "left":
            row = int((inputs["input_ids"] == ids).all(1).nonzero()[0])
            assert inputs["position_ids"][row][own].tolist() == list(range(len(own)))
    assert ("position_ids" in inputs) == (side == "left")


# Loss and perplexity


def logits_and_targets(vocabulary=11):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(5, 7, vocabulary, generator=generator)
    targets = torch.randint(0, vocabulary, (5, 7), generator=generator)
    targets[torch.rand(5, 7, generator=generator) < 0.4] = IGNORED
    targets[3] = IGNORED
    return outputs, targets


@pytest.mark.unit
def test_loss_and_perplexity_are_those_worked_out_by_hand():
    outputs, targets = logits_and_targets()
    nll = [
        [
            -outputs[b, t].log_softmax(0)[targets[b, t]].item()
            for t in range(7)
            if targets[b, t] >= 0
        ]
        for b in range(5)
    ]
    mean = sum(map(sum, nll)) / sum(map(len, nll))
    assert MASKED.loss(outputs, targets).item() == pytest.approx(mean, rel=1e-5)
    rows = MASKED.loss(outputs, targets, "none").tolist()
    assert rows == pytest.approx([sum(each) / max(1, len(each)) for each in nll], rel=1e-5)

    for logits, wanted in ((outputs, targets), (outputs.numpy(), targets.numpy())):
        metrics = MASKED.metrics(None)
        for i in range(0, 5, 2):
            metrics.add(logits[i : i + 2], wanted[i : i + 2], [])
        assert tuple(metrics.compute()) == MASKED.metric_names
        assert metrics.compute() == pytest.approx({"perplexity": math.exp(mean), "loss": mean})
        assert metrics.per_label() == metrics.chosen() == {}


@pytest.mark.unit
def test_perplexity_of_nothing_is_no_number():
    metrics = CAUSAL.metrics(None)
    metrics.add(torch.zeros(2, 3, 4), torch.full((2, 3), IGNORED), [])
    assert all(math.isnan(value) for value in metrics.compute().values())


@pytest.mark.unit
def test_perplexity_of_a_model_that_diverged_is_infinite(recwarn):
    metrics = CAUSAL.metrics(None)
    metrics.add(torch.tensor([[[0.0, 2000.0]]]), torch.tensor([[0]]), [])
    assert metrics.compute() == {"perplexity": math.inf, "loss": 2000.0}
    assert not recwarn.list


@pytest.mark.unit
def test_merging_takes_the_places_asked_for():
    logits = torch.randn(2, 6, 9)
    places = torch.tensor([[1, 4], [5, 0]])
    inputs = {"places": places, "input_ids": torch.zeros(2, 6)}
    outputs = merged(MASKED, logits, inputs)
    assert torch.equal(outputs, torch.stack([logits[0, [1, 4]], logits[1, [5, 0]]]))
    # A model may have left the other places out already.
    assert MASKED.merge(outputs, inputs) is outputs
    assert CAUSAL.merge(logits, {"input_ids": inputs["input_ids"]}) is logits


@pytest.mark.unit
def test_it_answers_no_rows():
    with pytest.raises(SettingError, match="answers no rows"):
        MASKED.decode(torch.zeros(1, 2, 3), [], None)


# End to end


@pytest.fixture(scope="module")
def texts_data(tiny_data) -> DatasetDict:
    """The texts of tiny_data, without labels."""
    return DatasetDict({split: rows.select_columns("text") for split, rows in tiny_data.items()})


def learner_of(data, checkpoint, path, **options):
    task = LanguageModeling(block=32, **options)
    return ftkit.finetune_learner(data, checkpoint, task=task, bs=8, precision="fp32", path=path)


def test_a_tiny_bert_adapts_and_a_classifier_starts_from_it(
    texts_data, tiny_data, tiny_checkpoint, tmp_path, capsys
):
    learn = learner_of(texts_data, tiny_checkpoint, tmp_path, whole_words=True)
    before, again = learn.validate(), learn.validate()
    assert before == again
    learn.fit_one_cycle(6, 1e-2)
    loss, perplexity, _ = learn.validate()
    assert loss < 0.8 * before[0]
    assert perplexity < 0.5 * before[1]

    learn.show_batch(max_n=2)
    learn.show_results(max_n=2)
    assert capsys.readouterr().out.count("[CLS]") >= 4

    folder = ftkit.save(learn, tmp_path / "adapted")
    model = ftkit.load_model(folder, device="cpu")
    assert model.task == replace(learn.task_scores.task, kind="masked")
    evaluation = model.evaluate(texts_data["validation"])
    assert evaluation.scores["perplexity"] == pytest.approx(perplexity, rel=1e-4)
    with pytest.raises(SettingError, match="answers no rows"):
        model.predict(["hello"])

    classifier = ftkit.classification_learner(
        tiny_data, folder, bs=8, precision="fp32", path=tmp_path
    )
    body = classifier.model.hf_model.base_model.state_dict()
    adapted = learn.model.hf_model.base_model.state_dict()
    assert len(adapted) > 30
    for name, weights in adapted.items():
        assert torch.equal(body[name], weights), name
    assert {name.split(".")[0] for name in set(body) - set(adapted)} == {"pooler"}
    assert "It has no pooler" in (folder / "README.md").read_text(encoding="utf-8")
    original = ftkit.classification_learner(
        tiny_data, tiny_checkpoint, bs=8, precision="fp32", path=tmp_path
    ).model.hf_model.base_model.state_dict()
    assert not torch.equal(
        original["encoder.layer.0.output.dense.weight"].cpu(),
        body["encoder.layer.0.output.dense.weight"].cpu(),
    )


def test_masked_words_go_on_being_learned_from_a_saved_model(texts_data, tiny_checkpoint, tmp_path):
    learn = learner_of(texts_data, tiny_checkpoint, tmp_path)
    learn.fit_one_cycle(1, 1e-2)
    folder = ftkit.save(learn, tmp_path / "adapted")
    again = learner_of(texts_data, folder, tmp_path)
    assert list(again.validate()) == pytest.approx(list(learn.validate()), rel=1e-5)


@pytest.mark.parametrize("head", ["Model", "LMHeadModel"])
def test_a_tiny_gpt2_learns_and_generates(texts_data, make_checkpoint, tmp_path, head):
    learn = learner_of(texts_data, make_checkpoint("gpt2", head), tmp_path)
    before = learn.validate()
    learn.fit_one_cycle(2, 1e-2)
    loss, perplexity, exact = learn.validate()
    assert loss < 0.8 * before[0]
    # The loss that transformers computes itself, over all targets.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ftkit.save(learn, tmp_path / "adapted")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).eos_token_id is not None
    total, count = 0.0, 0
    valid = learn.dls.valid.dataset
    blocks, _ = blocks_of(valid.task, valid.tokenizer, texts_data["validation"]["text"][:])
    for block in blocks:
        ids = torch.tensor([block])
        with torch.inference_mode():
            total += model(input_ids=ids, labels=ids).loss.item() * (len(block) - 1)
        count += len(block) - 1
    assert exact == pytest.approx(total / count, rel=1e-4)
    assert perplexity == pytest.approx(math.exp(total / count), rel=1e-4)


def test_the_masks_of_training_are_the_same_for_a_seed(texts_data, tiny_checkpoint, tmp_path):
    first, second = (
        learner_of(texts_data, tiny_checkpoint, tmp_path).dls.train.one_batch()[0]["input_ids"]
        for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.data
def test_wikitext(data_dir, tiny_checkpoint, tmp_path):
    rows = Dataset.from_parquet(str(data_dir / "wikitext2" / "validation.parquet"))
    texts = [text for text in rows["text"][:300] if text.strip()]
    data = DatasetDict(
        {
            "train": Dataset.from_dict({"text": texts[20:60]}),
            "validation": Dataset.from_dict({"text": texts[:20]}),
        }
    )
    learn = learner_of(data, tiny_checkpoint, tmp_path)
    before = learn.validate()[1]
    learn.fit_one_cycle(1, 1e-2)
    assert learn.validate()[1] < 0.5 * before
    lengths = learn.dls.train.dataset.features.lengths
    assert (lengths[:-1] == 32).all()
