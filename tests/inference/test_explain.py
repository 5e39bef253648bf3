"""Explanations: the words that decide are found, scores add up, the model stays as it is."""

import ast
import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from tiny_checkpoints import save_checkpoint

import ftkit
from ftkit.errors import CheckpointError, DataError, FtkitWarning, SettingError
from ftkit.html import AGAINST, FOR, STRONGEST
from ftkit.inference.predictor import Predictor, open_engine

METHODS = ("integrated_gradients", "occlusion")
TELLING = {
    "billing": ["charged", "refund", "invoice", "payment", "fee"],
    "delivery": ["parcel", "courier", "arrived", "shipment", "late"],
    "technical": ["crash", "error", "login", "update", "freezes"],
    "other": [],
}
FILLER = ["hello", "my", "the", "a", "is", "was", "and", "it", "please", "i", "have", "again"]
FILLER += ["today", "with", "help", "since", "order", "you"]


def one_word_rows(count, seed):
    """Rows whose label one word decides; without such a word it is "other"."""
    rng, rows = np.random.RandomState(seed), []
    for i in range(count):
        label = sorted(TELLING)[i % 4]
        words = list(rng.choice(FILLER, rng.randint(3, 12)))
        if TELLING[label]:
            words.insert(rng.randint(len(words) + 1), TELLING[label][i // 4 % 5])
        rows.append({"text": " ".join(words), "label": label})
    return rows


@pytest.fixture(scope="module")
def decided():
    """A DatasetDict of such rows."""
    return DatasetDict(
        train=Dataset.from_list(one_word_rows(160, seed=1)),
        validation=Dataset.from_list(one_word_rows(40, seed=2)),
    )


@pytest.fixture(scope="module")
def train(tiny_checkpoint, tmp_path_factory):
    """A function that trains a model on such rows; the Predictor of it."""

    def make(data, verb=ftkit.classification_learner, epochs=8, **options):
        folder = tmp_path_factory.mktemp("explained")
        options = {"bs": 8, "precision": "fp32", "path": folder, **options}
        learn = verb(data, tiny_checkpoint, **options)
        learn.fit_one_cycle(epochs, 5e-3)
        return ftkit.load_model(ftkit.save(learn, folder / "model"))

    return make


@pytest.fixture(scope="module")
def model(train, decided):
    """It answers all such rows right."""
    return train(decided)


@pytest.fixture
def reading(model):
    """A function from options of the task to the same model with them, 16 tokens at once."""

    def make(**options):
        task = dataclasses.replace(model.task, **options)
        return Predictor(open_engine(model.model.hf_model, task, "cpu"), model.tokenizer, task, 16)

    return make


def log_odds(probability):
    return math.log(probability / (1 - probability))


def total(explanation):
    return sum(word.score for word in explanation.words)


def strongest(explanation):
    return max(explanation.words, key=lambda word: word.score).text


def assert_complete(explanation):
    """The scores are the difference of the outputs but for the gap, which is small."""
    difference = explanation.output - explanation.hidden_output
    assert total(explanation) - difference == pytest.approx(explanation.gap, abs=1e-4)
    assert abs(explanation.gap) <= 0.02 * sum(abs(word.score) for word in explanation.words)


def assert_in_the_text(explanation):
    for word in explanation.words:
        assert explanation.texts[word.column][word.start : word.end] == word.text


# The words that decide


@pytest.mark.parametrize("method", METHODS)
def test_the_deciding_word_speaks_most(model, method):
    rows = [row for row in one_word_rows(48, seed=3) if row["label"] != "other"]
    explained = [model.explain(row["text"], method=method) for row in rows]
    assert [each.label for each in explained] == [row["label"] for row in rows]
    assert {each.method for each in explained} == {method}
    hits = [strongest(each) in TELLING[each.label] for each in explained]
    assert np.mean(hits) >= 0.95


@pytest.mark.parametrize("method", METHODS)
def test_any_label_is_explained(model, method):
    text = "my refund was late"
    for label, word in (("billing", "refund"), ("delivery", "late")):
        found = model.explain(text, label=label, method=method)
        scores = {each.text: each.score for each in found.words}
        assert max(scores, key=scores.get) == word
        answer = model.predict([text])[0]
        assert found.output == pytest.approx(log_odds(answer.scores[label]), abs=1e-3)
        assert found.probability == pytest.approx(answer.scores[label], abs=1e-5)


def test_integrated_gradients_are_those_of_a_plain_sum(model):
    """The definition, summed at 2,000 points by hand."""
    text = "hello my refund was late"
    hf_model, tokenizer = model.model.hf_model, model.tokenizer
    place = model.task.labels.index("billing")
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    hidden = ids.clone()
    hidden[0, 1:-1] = tokenizer.pad_token_id
    table = hf_model.get_input_embeddings().weight.detach()
    start, end = table[hidden], table[ids]
    points = (torch.arange(2000) + 0.5) / 2000
    path = (start + points[:, None, None] * (end - start)).requires_grad_()
    logits = hf_model(inputs_embeds=path).logits
    others = [i for i in range(4) if i != place]
    (logits[:, place] - logits[:, others].logsumexp(1)).sum().backward()
    expected = (path.grad.mean(0) * (end - start)[0]).sum(-1)[1:-1].tolist()
    found = model.explain(text, label="billing", n_steps=200)
    assert [word.score for word in found.words] == pytest.approx(expected, abs=1e-3)
    hf_model.zero_grad()


@pytest.mark.parametrize("method", METHODS)
def test_a_deciding_word_speaks_against_other_labels(model, method):
    found = model.explain("hello my refund was it", label="other", method=method)
    weakest = min(found.words, key=lambda word: word.score)
    assert (weakest.text, weakest.score < 0) == ("refund", True)


# What the scores add up to


def test_completeness(model, decided):
    for text in decided["validation"]["text"][:8]:
        found = model.explain(text)
        assert_complete(found)
        hidden = model.predict(["[PAD] " * len(text.split())])[0]
        assert found.hidden_output == pytest.approx(log_odds(hidden.scores[found.label]), abs=1e-3)


def test_more_steps_come_closer_and_too_few_are_said(model):
    text = "hello my refund was late"
    with pytest.warns(FtkitWarning, match="after 1 steps the scores together miss"):
        one = model.explain(text, n_steps=1)
    assert abs(one.gap) > 10 * abs(model.explain(text, n_steps=100).gap)


def test_occlusion_is_the_fall_when_a_word_is_hidden(model):
    text = "hello my refund was late"
    found = model.explain(text, method="occlusion")
    for word in found.words:
        without = text[: word.start] + "[PAD]" + text[word.end :]
        odds = log_odds(model.predict([without])[0].scores[found.label])
        assert word.score == pytest.approx(found.output - odds, abs=1e-3)
    assert found.gap is None


def test_the_same_twice(model):
    for method in METHODS:
        one, two = (model.explain("my refund was late", method=method) for _ in range(2))
        assert one == two


# Words and their places


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("My  refund,\n\tlate!", ["My", "refund", ",", "late", "!"]),
        ("Qué? I don't 👍🏽 refunds", ["Qué", "?", "I", "don", "'", "t", "👍🏽", "refunds"]),
        ("[MASK] [CLS] x", ["[MASK]", "[CLS]", "x"]),
        ("late", ["late"]),
        ("  ", []),
        ("", []),
    ],
)
def test_words_index_the_text_exactly(model, method, text, words):
    found = model.explain(text, method=method)
    assert_in_the_text(found)
    assert [word.text for word in found.words] == words
    assert found.texts == {"text": text}
    assert found.unseen == 0
    assert np.isfinite([found.output, found.hidden_output, total(found)]).all()


def test_special_tokens_are_no_words(model):
    shown = f"{model.explain('late')}{model.explain('late')._repr_html_()}"
    assert not any(token in shown for token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("long_texts", ["head", "tail", "head+tail", "windows"])
def test_long_texts(reading, method, long_texts):
    model = reading(long_texts=long_texts, stride=4)
    text = "hello my order is with it " * 5 + "refund please"
    found = model.explain(text, label="billing", method=method)
    assert_in_the_text(found)
    assert len(found.words) + found.unseen == 32
    assert (found.unseen == 0) == (long_texts == "windows")
    assert ("words not seen" in str(found)) == (long_texts != "windows")
    assert (strongest(found) == "refund") == (long_texts != "head")
    assert found.output == pytest.approx(
        log_odds(model.predict([text])[0].scores["billing"]), abs=1e-3
    )
    if method == "integrated_gradients":
        assert_complete(found)


def test_rows_that_are_too_long(reading):
    model = reading(long_texts="windows", stride=4)
    with pytest.raises(DataError, match=r"windows, and 16 at most.*Give a part"):
        model.explain("late " * 300)
    with pytest.raises(DataError, match=r"2,500 words, and 2,000 at most.*Give a part"):
        model.explain("late " * 2500, method="occlusion")


# Kinds and tasks


def test_several_labels(train, decided):
    data = decided.map(
        lambda row: {"labels": [row["label"], "any"]}, remove_columns="label"
    ).rename_column("labels", "label")
    model, text = train(data), "hello please refund it"
    answer = model.predict([text])[0]
    for method in METHODS:
        assert model.explain(text, method=method).label == next(iter(answer.scores))
        found = model.explain(text, label="billing", method=method)
        assert strongest(found) == "refund"
        assert found.output == pytest.approx(log_odds(answer.scores["billing"]), abs=1e-3)


def test_regression(train, decided):
    data = decided.map(
        lambda row: {"value": 9.0 if row["label"] == "technical" else 0.0}, remove_columns="label"
    ).rename_column("value", "label")
    model, text = train(data), "hello my crash was again it"
    for method in METHODS:
        found = model.explain(text, method=method)
        assert (found.label, found.unit, found.probability) == ("value", "value", None)
        assert found.output == pytest.approx(model.predict([text])[0].value, abs=1e-4)
        assert strongest(found) == "crash"
    with pytest.raises(SettingError, match="label means nothing"):
        model.explain(text, label="technical")


def test_pairs(train, decided):
    model = train(decided.map(lambda row: {"text_pair": row["text"], "text": "hello my"}))
    pair = ("hello my", "your refund")
    for method in METHODS:
        found = model.explain(pair, label="billing", method=method)
        assert found == model.explain(
            {"text": pair[0], "text_pair": pair[1]}, label="billing", method=method
        )
        assert_in_the_text(found)
        assert [(word.column, word.text) for word in found.words] == [
            ("text", "hello"),
            ("text", "my"),
            ("text_pair", "your"),
            ("text_pair", "refund"),
        ]
        assert strongest(found) == "refund"
        assert "<b>text_pair:</b>" in found._repr_html_()


@pytest.fixture(scope="module")
def ner_model(train, decided):
    """It tags the words that tell a label with that label."""
    kinds = {word: label for label, words in TELLING.items() for word in words}

    def tagged(row):
        tokens = row["text"].split()
        tags = [f"B-{kinds[token]}" if token in kinds else "O" for token in tokens]
        return {"tokens": tokens, "tags": tags}

    return train(decided.map(tagged, remove_columns=["text", "label"]), ftkit.ner_learner)


@pytest.mark.parametrize("method", METHODS)
def test_entities(ner_model, method):
    text = "hello my refund was, it is late"
    entities = ner_model.predict([text])[0].entities
    assert [entity.text for entity in entities] == ["refund", "late"]
    for number, entity in enumerate(entities):
        found = ner_model.explain(text, entity=number, method=method)
        assert found.label == f"{entity.text} ({entity.label})"
        assert strongest(found) == entity.text
        assert_in_the_text(found)
        # The entity's score is the probability of its tag, of which B- is nearly all.
        assert found.probability == pytest.approx(entity.score, abs=0.02)
    assert ner_model.explain(text) == ner_model.explain(text, entity=0)
    words = {"tokens": text.split(), "text": "something else"}
    assert ner_model.explain(words).texts == {"tokens": text}


def test_entities_in_windows(ner_model):
    text = "hello my " * 40 + "refund"
    found = ner_model.explain(text)
    assert strongest(found) == "refund"
    assert_complete(found)
    assert found.unseen == 0


def test_entities_that_are_not_there(ner_model):
    with pytest.raises(SettingError, match="entity 0 is asked for, and the model finds 0"):
        ner_model.explain("hello my")
    for number in (2, -1):
        with pytest.raises(SettingError, match=f"entity {number} is asked for.*finds 2"):
            ner_model.explain("my refund is late", entity=number)


@pytest.fixture(scope="module")
def qa_model(train, decided):
    """The answer is the word of the context that tells a label."""
    telling = {word for words in TELLING.values() for word in words}

    def asked(row):
        words = row["text"].split()
        place = next(place for place, word in enumerate(words) if word in telling)
        answers = {"text": [words[place]], "answer_start": [len(" ".join([*words[:place], ""]))]}
        return {"question": "what is it", "context": row["text"], "answers": answers}

    data = decided.filter(lambda row: row["label"] != "other")
    return train(data.map(asked, remove_columns=["text", "label"]), ftkit.qa_learner)


@pytest.mark.parametrize("method", METHODS)
def test_answers(qa_model, method):
    row = {"question": "what is it", "context": "hello the refund again was it please help"}
    answer = qa_model.predict([row])[0]
    found = qa_model.explain(row, method=method)
    assert answer.answer == "refund"
    assert (found.label, found.unit, found.probability) == ("refund", "logits", None)
    assert_in_the_text(found)
    assert list(found.texts) == ["question", "context"]
    assert strongest(found) == "refund"
    encoded = qa_model.tokenizer(*row.values(), return_tensors="pt")
    with torch.inference_mode():
        logits = qa_model.model.hf_model(**encoded)
    place = encoded.tokens().index("refund")
    expected = float(logits.start_logits[0, place] + logits.end_logits[0, place])
    assert found.output == pytest.approx(expected, abs=1e-3)
    if method == "integrated_gradients":
        assert_complete(found)


def test_answers_in_windows(qa_model):
    row = {"question": "what is it", "context": "hello the " * 50 + "refund again was"}
    found = qa_model.explain(row)
    assert_complete(found)
    assert found.label == strongest(found) == "refund"
    with pytest.raises(SettingError, match="finds no answer here"):
        qa_model.explain({"question": "what is it", "context": ""})


# Architectures

# Those that look up tokens more than once, or in a table of another shape, are occluded.
OCCLUDED = {"xlnet", "t5", "bart"}
TRIED = (
    *("bert", "roberta", "albert", "distilbert", "electra", "deberta", "deberta-v2"),
    *("modernbert", "longformer", "xlm", "gpt2", "bloom", "llama", "qwen3", "gemma3", "opt"),
    *sorted(OCCLUDED),
)


@pytest.mark.parametrize("name", TRIED)
def test_architectures(name, decided, tmp_path):
    """A random model of each: what is computed adds up, and its output is what it answers."""
    texts = list(decided["train"]["text"])
    task = ftkit.Classification(kind="single", labels=("a", "b", "c"))
    checkpoint = save_checkpoint(name, texts, tmp_path / "checkpoint")
    model = with_head(checkpoint, task)
    text = texts[0]
    found = model.explain(text)
    assert found.method == ("occlusion" if name in OCCLUDED else "integrated_gradients")
    assert_in_the_text(found)
    assert [word.text for word in found.words] == text.split()
    answer = model.predict([text])[0]
    assert found.label == answer.label
    assert found.output == pytest.approx(log_odds(answer.score), abs=1e-3)
    if name in OCCLUDED:
        with pytest.raises(SettingError, match="one table of embeddings"):
            model.explain(text, method="integrated_gradients")
    else:
        assert_complete(found)
        assert len({round(word.score, 6) for word in found.words}) > 1


def with_head(checkpoint, task):
    """A Predictor of a checkpoint with a new, random head."""
    from transformers import AutoModelForSequenceClassification

    head = task.head()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf_model = AutoModelForSequenceClassification.from_pretrained(checkpoint, **head.config)
    tokenizer = open_tokenizer(checkpoint)
    if hf_model.config.pad_token_id is None:
        hf_model.config.pad_token_id = tokenizer.pad_token_id
    return Predictor(open_engine(hf_model, task, "cpu"), tokenizer, task, 64)


def open_tokenizer(checkpoint):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


# The model stays as it is


def test_the_model_stays_as_it_is(model):
    before = {name: each.clone() for name, each in model.model.state_dict().items()}
    model.explain("my refund was late")
    assert not model.model.training
    assert all(p.grad is None for p in model.model.parameters())
    assert all(p.requires_grad for p in model.model.parameters())
    assert not any(module._forward_hooks for module in model.model.modules())
    for name, each in model.model.state_dict().items():
        assert torch.equal(each, before[name])


def test_threads_answer_as_one_does(model, decided):
    texts = list(decided["validation"]["text"][:6])
    answers = [answer.scores for answer in model.predict(texts)]
    alone = [model.explain(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            explained = [pool.submit(model.explain, text) for text in texts]
            answered = [pool.submit(model.predict, texts) for _ in range(12)]
            for found, one in zip(explained, alone, strict=True):
                assert [w.score for w in found.result().words] == pytest.approx(
                    [w.score for w in one.words], abs=1e-4
                )
            for found in answered:
                for one, scores in zip(found.result(), answers, strict=True):
                    assert one.scores == pytest.approx(scores, abs=1e-5)


# Without gradients, without captum


class Exported(Predictor):
    """A predictor whose model is no torch model."""

    def __init__(self, predictor):
        self._inner, self.tokenizer, self.task = predictor, predictor.tokenizer, predictor.task
        self.limit = predictor.limit

    @property
    def model(self):
        raise CheckpointError("this model is exported", remedy="Open the one it was made of.")

    def predict(self, rows):
        return self._inner.predict(rows)

    def run(self, features, batch_size, task=None):
        for numbers, outputs, targets in self._inner.run(features, batch_size):
            yield numbers, np.asarray(outputs), targets


def test_a_model_without_gradients_is_occluded(model):
    exported = Exported(model)
    found = exported.explain("my refund was late")
    assert found == model.explain("my refund was late", method="occlusion")
    with pytest.raises(SettingError, match='method="occlusion"'):
        exported.explain("my refund was late", method="integrated_gradients")


def test_without_captum(model, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install \"ftkit\[explain\]\""):
        model.explain("my refund")
    assert model.explain("my refund", method="occlusion").words


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    folder = Path(ftkit.__file__).parent / "inference"
    for name in ("explain", "explanation", "gradients", "hiding"):
        body = ast.parse((folder / f"{name}.py").read_text()).body
        imports = [ast.unparse(each) for each in body if isinstance(each, ast.Import)]
        imports += [each.module for each in body if isinstance(each, ast.ImportFrom)]
        assert not [each for each in imports if each.startswith(("captum", "torch", "pandas"))]


# Mistakes


@pytest.mark.parametrize(
    ("row", "options", "error", "message"),
    [
        ("late", {"label": "sales"}, SettingError, r'no label \'sales\'.*"billing"'),
        ("late", {"entity": 0}, SettingError, "entity means nothing"),
        ("late", {"method": "lime"}, SettingError, r"method is 'lime'.*integrated_gradients"),
        ("late", {"n_steps": 0}, SettingError, "n_steps is 0"),
        ("late", {"batch_size": 0}, SettingError, "batch_size is 0"),
        (None, {}, DataError, "found nothing where a text"),
        ({"body": "late"}, {}, DataError, 'column "text"'),
    ],
)
def test_mistakes(model, row, options, error, message):
    with pytest.raises(error, match=message):
        model.explain(row, **options)


@pytest.mark.parametrize("task", ["summarization", "language_modeling"])
def test_tasks_that_cannot_be_explained_yet(model, task):
    from ftkit.tasks import TASKS

    other = Predictor(model.engine, model.tokenizer, TASKS[task](), 64)
    with pytest.raises(SettingError, match=rf"{task} cannot be explained yet.*classification"):
        other.explain("late")


# What is shown


def test_as_text(model):
    lines = str(model.explain("hello my refund was again please help")).splitlines()
    assert lines[0].startswith("billing ")
    assert "% (log-odds " in lines[0]
    assert lines[1].split()[1] == "refund"
    long = str(model.explain("a b c d e f g h i j k l m n refund")).splitlines()
    assert len(long) == 1 + 12 + 1
    assert long[-1].endswith("(3 more words)")


def test_as_html(model):
    found = model.explain("<script>alert('refund')</script> & my \"fee\"")
    shown = found._repr_html_()
    assert "<script" not in shown
    assert "&lt;" in shown
    assert "&amp;" in shown
    assert shown.count('title="') == len(found.words)
    top = max(found.words, key=lambda word: word.score)
    assert f'title="{top.score:+.3f}">{top.text}</span>' in shown


def test_to_dict_is_ready_for_json(model):
    found = model.explain("my refund").to_dict()
    assert json.loads(json.dumps(found)) == {**found, "words": list(found["words"])}
    assert found["words"][0]["text"] == "my"
    assert found["label"] == "billing"


@pytest.mark.parametrize(("text", "ground"), [(0x1F, 0xFF), (0xE5, 0x12)])
@pytest.mark.parametrize("colour", [FOR, AGAINST])
def test_text_on_the_strongest_colour_can_be_read(text, ground, colour):
    """Contrast of WCAG 2, dark on white and light on nearly black."""

    def light(channels):
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in (channel / 255 for channel in channels)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    laid = [STRONGEST * int(c) + (1 - STRONGEST) * ground for c in colour.split(",")]
    one, two = light([text] * 3), light(laid)
    assert max(one, two) / min(one, two) >= 4.5
