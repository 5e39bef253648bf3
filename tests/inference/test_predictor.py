"""Answers of a saved model: those of transformers' pipeline, in order, whatever the batch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset
from sklearn.metrics import f1_score
from transformers import AutoTokenizer, pipeline

import ftkit
from ftkit.errors import CheckpointError, DataError, SettingError
from ftkit.model.device import computes_in_bf16


def assert_as_pipeline(folder, texts, model=None):
    """Labels and scores are the pipeline's, to 1e-5."""
    answers = (model or ftkit.load_model(folder)).predict(texts)
    theirs = pipeline("text-classification", model=str(folder), device="cpu")(texts, top_k=None)
    assert len(answers) == len(texts)
    for ours, them in zip(answers, theirs, strict=True):
        expected = {each["label"]: each["score"] for each in them}
        assert ours.scores == pytest.approx(expected, abs=1e-5)
        assert ours.label == max(expected, key=expected.get)
        assert ours.score == ours.scores[ours.label]


@pytest.fixture(scope="module")
def texts(tiny_data):
    return [
        *tiny_data["test"]["text"],
        "refund",
        "",
        "Qué?",
        *(f"{'late ' * n}" for n in range(50)),
    ]


def test_as_the_pipeline(shared_bundle, model, texts):
    assert_as_pipeline(shared_bundle, texts, model)


@pytest.mark.slow
def test_minilm_as_the_pipeline(minilm, tiny_data, tmp_path):
    learn = ftkit.classification_learner(tiny_data, minilm, bs=16, path=tmp_path, precision="fp32")
    learn.fit_one_cycle(1, 1e-3)
    folder = ftkit.save(learn, tmp_path / "model")
    texts = [*tiny_data["test"]["text"], *("The parcel is late. " * n for n in (1, 7, 30, 45))]
    assert_as_pipeline(folder, texts)
    # MiniLM's own tokenizer.json cuts at 128 tokens.
    assert len(AutoTokenizer.from_pretrained(folder)("late " * 600)["input_ids"]) == 602
    assert ftkit.load_model(folder).limit == 512


def test_the_order_and_the_batch_do_not_matter(model, texts):
    together = model.predict(texts)
    alone = [model.predict([text])[0] for text in texts]
    shuffled = np.random.RandomState(0).permutation(len(texts))
    mixed = model.predict([texts[i] for i in shuffled], batch_size=3)
    for i, one in enumerate(alone):
        assert together[i].scores == pytest.approx(one.scores, abs=1e-5)
    for place, i in enumerate(shuffled):
        assert mixed[place].scores == pytest.approx(alone[i].scores, abs=1e-5)


def test_more_rows_than_a_slice(model, monkeypatch, tiny_data):
    expected = model.evaluate(tiny_data["test"])
    answers = model.predict(tiny_data["test"]["text"])
    monkeypatch.setattr("ftkit.inference.predictor._SLICE", 5)
    assert [a.label for a in model.predict(tiny_data["test"]["text"])] == [a.label for a in answers]
    assert model.evaluate(tiny_data["test"]) == expected


def test_what_a_row_may_be(model):
    one = model.predict(["my refund"])
    for rows in (
        ("my refund",),
        iter(["my refund"]),
        [("my refund",)],
        [{"text": "my refund", "id": 7}],
        pd.Series(["my refund"]),
        pd.DataFrame({"id": [7], "text": ["my refund"]}),
        Dataset.from_list([{"text": "my refund", "id": 7}]),
        np.array(["my refund"]),
    ):
        assert model.predict(rows) == one
    assert model.predict([]) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "found nothing"),
        (3, "found 3"),
        (float("nan"), "found nan"),
        (b"bytes", "found b'bytes'"),
        ({"body": "x"}, "found nothing"),
        (["a", "b", "c"], "found 3 texts where 2 at most"),
        (("a", 3), "found 3"),
        ("half a \ud83d", "found 'half a"),
    ],
)
def test_a_wrong_row_is_named_by_its_number(model, monkeypatch, wrong, message):
    monkeypatch.setattr("ftkit.inference.predictor._SLICE", 2)
    rows = [("fine", "x")] * 4 if isinstance(wrong, tuple) else ["fine"] * 4
    with pytest.raises(DataError, match=rf"row 5.*{message}") as caught:
        model.predict([*rows, wrong])
    assert caught.value.row == 5


@pytest.mark.parametrize("rows", ["a text", {"text": "a text"}])
def test_one_row_is_no_list(model, rows):
    with pytest.raises(DataError, match="Put it in a list"):
        model.predict(rows)


def test_top_k_limits_the_scores(model):
    everything, two = (model.predict(["late"], top_k=k)[0] for k in (None, 2))
    assert list(two.scores) == list(everything.scores)[:2]
    assert (two.label, two.score) == (everything.label, everything.score)
    assert len(model.predict(["late"], top_k=99)[0].scores) == 3
    for options in ({"top_k": 0}, {"top_k": -1}, {"batch_size": 0}):
        with pytest.raises(SettingError, match=r"Give 1 or more"):
            model.predict(["late"], **options)


def test_to_dict_is_ready_for_json(model):
    answer = model.predict(["late"])[0]
    found = answer.to_dict()
    assert found == {"label": answer.label, "score": answer.score, "scores": answer.scores}
    assert type(found["score"]) is float


# Streams


def test_a_stream_reads_a_bounded_number_of_rows_ahead(model, monkeypatch):
    monkeypatch.setattr("ftkit.inference.predictor._SLICE", 8)
    read = []

    def endless():
        while True:
            read.append(f"late parcel {len(read)}")
            yield read[-1]

    answers = model.stream(endless())
    assert read == []
    found = [next(answers) for _ in range(20)]
    assert len(read) == 24
    assert [a.label for a in found] == [a.label for a in model.predict(read[:20])]


def test_bad_rows_of_a_stream_are_heard_of_and_passed_over(model, monkeypatch):
    monkeypatch.setattr("ftkit.inference.predictor._SLICE", 3)
    rows, errors = ["late", None, "refund", 7, 8, 9, {"text": "my"}, {"body": "my"}], []
    found = list(model.stream(iter(rows), on_error=errors.append))
    good = {i: a for i, a in enumerate(found) if a is not None}
    assert list(good) == [0, 2, 6]
    assert [a.scores for a in good.values()] == [
        pytest.approx(model.predict([text])[0].scores, abs=1e-5)
        for text in ("late", "refund", "my")
    ]
    assert [error.row for error in errors] == [2, 4, 5, 6, 8]
    assert "found nothing" in str(errors[0])
    with pytest.raises(DataError, match="row 2"):
        list(model.stream(iter(rows)))


def test_a_text_alone_is_answered_among_pairs_as_by_itself(make_bundle, tiny_data):
    data = tiny_data.map(lambda row: {"text_pair": "of my order"})
    model = ftkit.load_model(make_bundle(data))
    rows = [("late", "refund"), "late", {"text": "my courier", "text_pair": None}]
    expected = [model.predict([row])[0].scores for row in rows]
    assert expected[0] != pytest.approx(expected[1], abs=1e-4)
    frame = pd.DataFrame({"text": ["late", "late"], "text_pair": ["refund", None]})
    for given in (rows, frame):
        for answer, scores in zip(model.predict(given), expected, strict=False):
            assert answer.scores == pytest.approx(scores, abs=1e-5)


def test_a_bar_where_it_is_wanted(model, capsys):
    model.predict(["late"] * 5)
    assert capsys.readouterr().err == ""
    model.predict(["late"] * 5, progress=True)
    assert "5/5" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_settings_of_a_call(make_bundle, tiny_data):
    data = tiny_data.map(
        lambda row: {"labels": [row["label"], "any"]}, remove_columns="label"
    ).rename_column("labels", "label")
    task = ftkit.Classification(max_length=16, stride=4)
    model = ftkit.load_model(make_bundle(data, task=task))
    assert model.predict(["late"], threshold=1e-6)[0].labels != ()
    assert model.predict(["late"], threshold=1 - 1e-6)[0].labels == ()
    long = "hello my the " * 20
    rows = [f"{long} courier", f"{long} refund"]
    one, other = model.predict(rows)
    assert one == other
    one, other = model.predict(rows, long_texts="windows")
    assert one != other
    one, other = model.predict(["my courier", "my refund"], max_length=8)
    assert model.predict(["my courier"])[0].scores == pytest.approx(one.scores, abs=1e-5)
    for wrong, message in (
        ({"treshold": 0.3}, 'no setting "treshold".*"threshold"'),
        ({"labels": ()}, 'no setting "labels"'),
        ({"threshold": 2}, "threshold is 2"),
        ({"max_length": 1}, "max_length is 1"),
        ({"max_length": 17}, "max_length is 17, and the model reads 16 tokens at most"),
    ):
        with pytest.raises(SettingError, match=message):
            model.predict(["late"], **wrong)


def test_threads_answer_as_one_does(model, texts):
    expected = model.predict(texts)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.predict(texts, batch_size=7), range(12)):
            for ours, alone in zip(found, expected, strict=True):
                assert ours.scores == pytest.approx(alone.scores, abs=1e-5)


# Evaluate


def test_evaluate(model, tiny_data):
    rows = tiny_data["test"]
    evaluation = model.evaluate(rows)
    found = [answer.label for answer in model.predict(rows["text"])]
    assert evaluation.scores["macro_f1"] == pytest.approx(
        f1_score(rows["label"], found, average="macro")
    )
    assert evaluation.per_label["billing"]["support"] == 8
    assert (evaluation.rows, evaluation.truncated) == (24, 0)
    assert "billing" in str(evaluation)
    assert model.evaluate(rows.to_dict()) == evaluation
    numbered = rows.class_encode_column("label")
    for format_ in ("numpy", "torch", "arrow"):
        assert model.evaluate(numbered.with_format(format_)) == evaluation


def test_a_row_that_cannot_be_scored_is_named_by_its_number(model, monkeypatch):
    monkeypatch.setattr("ftkit.inference.predictor._SLICE", 2)
    with pytest.raises(DataError, match='column "text": found nothing') as caught:
        model.evaluate({"text": ["a", "b", "c", None], "label": ["billing"] * 4})
    assert caught.value.row == 4


def test_evaluate_with_intervals(model, tiny_data):
    rows = tiny_data["test"]
    evaluation = model.evaluate(rows, resamples=500)
    assert list(evaluation.intervals) == list(evaluation.scores)
    found = [answer.label for answer in model.predict(rows["text"])]
    rng = np.random.default_rng(7)
    draws = [rng.integers(len(rows), size=len(rows)) for _ in range(4000)]
    wanted, found = np.array(rows["label"]), np.array(found)
    right = [(wanted[draw] == found[draw]).mean() for draw in draws]
    # Rows are in another order there; accuracies of 24 rows are steps of 0.04.
    ends = evaluation.intervals["accuracy"]
    assert ends == pytest.approx(tuple(np.quantile(right, [0.025, 0.975])), abs=0.045)
    assert f"accuracy {evaluation.scores['accuracy']:.4f} ({ends[0]:.4f} to" in str(evaluation)
    assert model.evaluate(rows, resamples=500) == evaluation
    one = model.evaluate(rows.select([0]), resamples=50)
    assert one.intervals["accuracy"] in ((0.0, 0.0), (1.0, 1.0))


UNLABELLED = Dataset.from_dict({"text": ["a", "b"], "label": [0, -1]}).cast_column(
    "label", ClassLabel(names=["billing", "delivery", "technical"])
)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", "b"], "label": ["billing", "sales"]}, r'row 2.*"sales".*"billing"'),
        ({"text": ["a", "b"], "label": ["billing", None]}, "row 2.*found nothing"),
        ({"text": ["a", "b"], "label": ["billing", float("nan")]}, "row 2.*found nan"),
        (UNLABELLED, 'row 2, column "label": found nothing'),
        ({"text": ["a", None], "label": ["billing"] * 2}, 'row 2, column "text": found nothing'),
        (
            Dataset.from_dict({"text": ["a", None], "label": ["billing"] * 2}),
            'row 2, column "text": found nothing',
        ),
        ({"text": ["a", "b"], "label": ["billing"]}, "columns are of different lengths: 1, 2"),
        ({"text": ["a", "b"]}, 'column "label".*no such column'),
        ({"label": ["billing"]}, 'column "text".*no such column'),
        ({"text": [], "label": []}, "no rows to score"),
        ([{"text": "a", "label": "billing"}], "from a Dataset"),
        (pd.DataFrame({"text": ["a"], "label": ["billing"]}), "from a Dataset"),
    ],
)
def test_evaluate_refuses_rows_that_it_cannot_score(model, columns, message):
    with pytest.raises(DataError, match=message):
        model.evaluate(columns)


# Kinds


@pytest.fixture(scope="module")
def values(tiny_data):
    value = {"billing": 10.0, "delivery": 20.0, "technical": 30.0}
    return tiny_data.map(
        lambda row: {"value": value[row["label"]]}, remove_columns="label"
    ).rename_column("value", "label")


def test_regression(make_bundle, values):
    folder = make_bundle(values)
    model, texts = ftkit.load_model(folder), list(values["test"]["text"])
    theirs = pipeline("text-classification", model=str(folder), device="cpu")
    expected = [each["score"] for each in theirs(texts, function_to_apply="none")]
    assert [answer.value for answer in model.predict(texts)] == pytest.approx(expected, abs=1e-4)
    evaluation = model.evaluate(values["test"])
    wanted = np.array(values["test"]["label"])
    assert evaluation.scores["mae"] == pytest.approx(np.abs(wanted - expected).mean(), abs=1e-4)
    for label in (None, "ten", float("nan"), float("inf")):
        with pytest.raises(DataError, match=r"row 1.*where a number should be"):
            model.evaluate({"text": ["a"], "label": [label]})


def test_several_labels_with_the_chosen_threshold(make_bundle, tiny_data):
    data = tiny_data.map(
        lambda row: {"labels": [row["label"], "any"]}, remove_columns="label"
    ).rename_column("labels", "label")
    folder = make_bundle(data)
    model = ftkit.load_model(folder)
    threshold = model.task.threshold
    assert 0.05 <= threshold <= 0.95
    for answer in model.predict(data["test"]["text"]):
        assert set(answer.labels) == {n for n, s in answer.scores.items() if s >= threshold}
    theirs = pipeline("text-classification", model=str(folder), device="cpu")
    found = {each["label"]: each["score"] for each in theirs("late again", top_k=None)}
    assert model.predict(["late again"])[0].scores == pytest.approx(found, abs=1e-5)
    with pytest.raises(DataError, match=r"row 1.*where a list of labels should be"):
        model.evaluate({"text": ["a"], "label": ["any"]})


def test_pairs(make_bundle, tiny_data):
    data = tiny_data.map(lambda row: {"text_pair": " ".join(row["text"].split()[::-2])})
    folder = make_bundle(data)
    model = ftkit.load_model(folder)
    pairs = list(zip(data["test"]["text"], data["test"]["text_pair"], strict=True))
    theirs = pipeline("text-classification", model=str(folder), device="cpu")
    expected = theirs([{"text": a, "text_pair": b} for a, b in pairs], top_k=None)
    for ours, them in zip(model.predict(pairs), expected, strict=True):
        assert ours.scores == pytest.approx({e["label"]: e["score"] for e in them}, abs=1e-5)
    assert model.predict([{"text": a, "text_pair": b} for a, b in pairs]) == model.predict(pairs)


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
@pytest.mark.parametrize("long_texts", ["head", "tail", "head+tail", "windows"])
def test_long_texts_are_read_as_in_training(make_bundle, tiny_data, tmp_path, long_texts):
    task = ftkit.Classification(long_texts=long_texts, max_length=16, stride=4)
    model = ftkit.load_model(make_bundle(tiny_data, task=task))
    assert (model.limit, model.task.long_texts) == (16, long_texts)
    ends = ["refund invoice", "courier parcel"]
    filler = "hello my the a is was and it please i have again " * 4
    heads = model.predict([f"{end} {filler}" for end in ends])
    tails = model.predict([f"{filler} {end}" for end in ends])
    sees_head, sees_tail = heads[0] != heads[1], tails[0] != tails[1]
    assert sees_head == (long_texts != "tail")
    assert sees_tail == (long_texts != "head")


def test_a_row_of_100_000_characters(model):
    answer, short = model.predict(["refund invoice " * 7000, "late"])
    assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-5)
    assert short.scores == pytest.approx(model.predict(["late"])[0].scores, abs=1e-5)


# Device and precision


@pytest.mark.skipif(
    not computes_in_bf16(torch.device("cpu")), reason="this CPU has no bf16 instructions"
)
def test_bf16(shared_bundle, model, texts):
    answers = ftkit.load_model(shared_bundle, precision="bf16").predict(texts)
    for ours, exact in zip(answers, model.predict(texts), strict=True):
        assert ours.scores == pytest.approx(exact.scores, abs=0.05)
    assert answers[0].scores != model.predict(texts)[0].scores
    by_autocast = ftkit.load_model(shared_bundle)
    by_autocast.model.autocast_dtype = torch.bfloat16
    assert by_autocast.predict(texts) == answers


def test_a_compiled_model_answers_alike(shared_bundle, model, texts):
    compiled = ftkit.load_model(shared_bundle, compile="eager")
    for ours, plain in zip(compiled.predict(texts[:5]), model.predict(texts[:5]), strict=True):
        assert ours.scores == pytest.approx(plain.scores, abs=1e-5)
    with pytest.raises(SettingError, match='no backend "fast"'):
        ftkit.load_model(shared_bundle, compile="fast")


def test_a_precision_that_the_device_lacks(shared_bundle, monkeypatch):
    monkeypatch.setattr("ftkit.model.device.computes_in_bf16", lambda device: False)
    with pytest.raises(SettingError, match="no bf16 instructions"):
        ftkit.load_model(shared_bundle, precision="bf16", device="cpu")


@pytest.mark.parametrize("device", ["cuda", "tpu", "cpu:x"])
def test_a_device_that_is_not_there(shared_bundle, device):
    with pytest.raises(SettingError, match=f'the device "{device}" cannot be used'):
        ftkit.load_model(shared_bundle, device=device)


def test_a_folder_that_is_no_bundle(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="no ftkit model"):
        ftkit.load_model(tiny_checkpoint)


def no_memory(*args):
    """What torch says on a CPU; the GPU's is a subclass."""
    torch.empty(1 << 60)


def test_a_batch_that_does_not_fit_into_memory(model):
    hook = model.model.register_forward_pre_hook(no_memory)
    with pytest.raises(SettingError, match=r"1 windows of \d+ tokens .* of the cpu .* batch_"):
        model.predict(["my refund"])
    hook.remove()
    assert len(model.predict(["my refund"])) == 1
