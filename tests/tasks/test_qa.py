"""Question answering: every answer of the protocol, and the whole way to a bundle's answers."""

import json
import math
import random
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batches import as_tensors, merged
from datasets import Dataset, DatasetDict

from ftkit.errors import CheckpointError, DataError, FtkitWarning, SettingError
from ftkit.features import IGNORED, ColumnRows, Padding, prepare_rows
from ftkit.spans import find_once, trim_span
from ftkit.tasks import TASKS
from ftkit.tasks.qa import Answer, AnswerPrediction, QuestionAnswering

TASK = QuestionAnswering(has_unanswerable=False)
WITH_NONE = QuestionAnswering(has_unanswerable=True)
ARCHITECTURES = ["bert", "roberta", "gpt2", "t5"]
_WORDS = "hello my the a is was and it please have again today with help since order you"
FILLER = _WORDS.split()
THINGS = ["parcel", "refund", "invoice", "courier", "crash"]


def asked(context, *answers, question="who was it?"):
    """A row; an answer is a text that occurs once, or a text and its offset."""
    pairs = [(a, context.index(a)) if isinstance(a, str) else a for a in answers]
    texts, starts = [text for text, _ in pairs], [start for _, start in pairs]
    return {
        "question": question,
        "context": context,
        "answers": {"text": texts, "answer_start": starts},
    }


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def data_of(*rows, **splits) -> DatasetDict:
    splits = {"train": rows, **splits}
    return DatasetDict({name: Dataset.from_list(list(each)) for name, each in splits.items()})


def batch_of(task, rows, tokenizer, limit):
    features = prepare_rows(columns_of(rows), task, tokenizer, limit)
    return as_tensors(task.collate(features.fill(np.arange(len(rows)), Padding.of(tokenizer))))


def gold_outputs(task, inputs, targets):
    """Outputs of a model that knows the answers: at their tokens, else at no answer."""
    start, end = inputs["char_start"], inputs["char_end"]
    windows = inputs.get("windows", torch.arange(len(targets))[:, None])
    wanted = targets.repeat_interleave((windows >= 0).sum(1), 0)
    first = start.masked_fill(start < 0, 10**6).amin(1, keepdim=True)
    is_held = (first <= wanted[:, :1]) & (end.amax(1, keepdim=True) >= wanted[:, 1:])
    touches = is_held & (start >= 0) & (end > wanted[:, :1]) & (start < wanted[:, 1:])
    logits = torch.zeros(*start.shape, 2)
    for window, places in enumerate(touches):
        found = places.nonzero()[:, 0]
        none = (start[window] == -1).nonzero()[0]
        logits[window, found[0] if len(found) else none, 0] = 20.0
        logits[window, found[-1] if len(found) else none, 1] = 20.0
    return task.merge(logits, inputs)


def random_outputs(rows, windows, tokens, seed):
    """Outputs of rows of contexts of one-letter words; windows overlap by half."""
    rng = np.random.default_rng(seed)
    outputs = torch.from_numpy(rng.normal(0, 3, (rows, windows, tokens, 4))).float()
    first = torch.arange(windows)[:, None] * (tokens // 2)
    outputs[..., 2] = 2 * (first + torch.arange(tokens))
    outputs[..., 3] = outputs[..., 2] + 1
    outputs[:, :, 0, 2:] = -1  # no answer
    outputs[:, :, 1, 2:] = -2  # the question
    outputs[:, :, 1, :2] = -1e9
    outputs[0, 1:] = torch.tensor([-1e9, -1e9, -2, -2])  # windows that the first row lacks
    return outputs


def spans_of(row, longest):
    """Every span of a row's outputs with its best logit, the best first; and the null logit."""
    spans, nulls = {}, []
    for window in row.tolist():
        for i, (start, _, first, _) in enumerate(window):
            if first == -1:
                nulls.append(start + window[i][1])
            for j in range(i, min(i + longest, len(window))):
                if first >= 0 and window[j][2] >= 0:
                    span = (int(first), int(window[j][3]))
                    spans[span] = max(spans.get(span, -math.inf), start + window[j][1])
    return dict(sorted(spans.items(), key=lambda each: -each[1])), min(nulls)


# Options


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 15}, "max_length is 15 tokens"),
        ({"stride": -1}, "stride is -1"),
        ({"max_answer_length": 0}, "max_answer_length is 0"),
        ({"null_threshold": math.inf}, "null_threshold is inf"),
        ({"null_threshold": math.nan}, "null_threshold is nan"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        QuestionAnswering(**options)


@pytest.mark.unit
def test_options_survive_json():
    task = replace(WITH_NONE, null_threshold=-1.5, max_length=None, repair=True)
    assert QuestionAnswering(**json.loads(json.dumps(asdict(task)))) == task


@pytest.mark.unit
def test_schema_and_head():
    assert TASKS["qa"] is QuestionAnswering
    assert [c.name for c in TASK.columns() if c.is_input and c.is_required] == [
        "question",
        "context",
    ]
    assert not any(c.is_required for c in TASK.columns() if not c.is_input)
    head = TASK.head()
    assert (head.auto_class, head.config) == ("AutoModelForQuestionAnswering", {"num_labels": 2})


# Labels


@pytest.mark.unit
def test_whether_there_are_unanswerable_questions_is_read_off_the_data():
    some, none = asked("Ann ran.", "Ann"), asked("Ann ran.")
    assert QuestionAnswering().with_labels(data_of(some)).has_unanswerable is False
    assert QuestionAnswering().with_labels(data_of(some, none)).has_unanswerable is True
    assert QuestionAnswering().with_labels(data_of(some, test=[none])).has_unanswerable is True
    assert TASK.with_labels(data_of(some, none)) == TASK


@pytest.mark.unit
def test_a_train_split_without_any_answer_is_refused():
    with pytest.raises(DataError, match='"train": all 2 questions have no answer'):
        QuestionAnswering().with_labels(data_of(asked("Ann ran."), asked("Ben sat.")))


@pytest.mark.unit
def test_answers_out_of_place_are_named_or_moved():
    rows = [asked("Ann ran.", "ran"), asked("Ann ran.", ("ran", 3))]
    data = data_of(rows[0], validation=rows)
    with pytest.raises(DataError, match="repair=True") as error:
        QuestionAnswering().with_labels(data)
    assert (error.value.split, error.value.row) == ("validation", 2)
    with pytest.warns(FtkitWarning, match="moved to the only place.*: 1 of validation"):
        task = QuestionAnswering(repair=True).with_labels(data)
    assert task.has_unanswerable is False


@pytest.mark.unit
def test_good_data_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = QuestionAnswering(repair=True).with_labels(data_of(asked("Ann ran.", "Ann")))
        assert task.with_labels(data_of(asked("Ann ran.", "Ann"))) == task


@pytest.mark.unit
def test_rows_without_answers_are_refused():
    with pytest.raises(DataError, match='neither a column "answers" nor'):
        QuestionAnswering().with_labels(data_of({"question": "who?", "context": "Ann ran."}))


# Prepare


@pytest.mark.unit
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_windows_have_the_question_and_together_the_context(tiny_tokenizer, architecture):
    tokenizer = tiny_tokenizer(architecture)
    context = "  ".join(random.Random(1).choices(FILLER, k=120)) + "\u2009!"
    rows = columns_of([asked(context, question="was it you?"), asked("is it?", question="who?")])
    prepared = replace(TASK, stride=8).prepare(rows, tokenizer, 48)
    whole = tokenizer(rows["question"], rows["context"], return_offsets_mapping=True)
    windows = prepared["input_ids"][0]
    assert len(windows) > 2
    assert all(len(window) == 48 for window in windows)
    ids = whole["input_ids"][0]
    fixed = [p for p, s in enumerate(whole.sequence_ids(0)) if s != 1]
    seen = set()
    for i, window in enumerate(windows):
        starts = [start - 2 for start in prepared["char_start"][0][i]]
        ends = [end - 2 for end in prepared["char_end"][0][i]]
        assert starts.count(-1) == 1
        assert [t for t in window if t in {ids[p] for p in fixed}] != []
        seen.update((s, e) for s, e in zip(starts, ends, strict=True) if s >= 0)
        for token, start, end in zip(window, starts, ends, strict=True):
            if start >= 0:
                text = tokenizer.decode([token]).strip().removeprefix("##")
                assert context[start:end].strip() == context[start:end] != ""
                assert text in (context[start:end], "\ufffd", tokenizer.unk_token)
    # Every character that is no space is in some token of some window.
    covered = {place for start, end in seen for place in range(start, end)}
    assert covered == {place for place, letter in enumerate(context) if not letter.isspace()}
    assert prepared["n_cut"] == [0, 0]
    assert prepared["input_ids"][1] == [whole["input_ids"][1]]


@pytest.mark.unit
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_answer_stands_at_the_cls_token_or_the_first(tiny_tokenizer, architecture):
    tokenizer = tiny_tokenizer(architecture)
    prepared = TASK.prepare(columns_of([asked("is it?", question="who?")]), tokenizer, 64)
    (window,), (starts,) = prepared["input_ids"][0], prepared["char_start"][0]
    assert starts.index(1) == 0
    if tokenizer.cls_token_id is not None:
        assert window[0] == tokenizer.cls_token_id


@pytest.mark.unit
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_long_question_is_cut_to_half_and_counted(tiny_tokenizer, architecture):
    tokenizer, context = tiny_tokenizer(architecture), "b " * 90
    for question, cut in (("a" * 30, True), ("a" * 8, False)):
        rows = columns_of([asked(context, question=question)])
        prepared = TASK.prepare(rows, tokenizer, 32)
        n_specials = tokenizer.num_special_tokens_to_add(pair=True)
        room = 32 - n_specials
        assert prepared["n_cut"] == [30 - room // 2 if cut else 0]
        starts = prepared["char_start"][0][0]
        kept = len(starts) - n_specials - sum(start > 1 for start in starts)
        assert kept >= room // 2 or not cut
        arrays = {"n_cut": np.array(prepared["n_cut"])}
        assert ("question longer than half" in (TASK.lost(arrays, 32) or "")) == cut


@pytest.mark.unit
def test_a_short_context_leaves_the_question_its_room(tiny_tokenizer):
    rows = columns_of([asked("b c", question="a" * 40)])
    prepared = TASK.prepare(rows, tiny_tokenizer(), 32)
    assert prepared["n_cut"] == [40 - (32 - 3 - 2)]
    assert len(prepared["input_ids"][0]) == 1


@pytest.mark.unit
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_question_alone_may_fill_the_window(tiny_tokenizer, architecture):
    tokenizer = tiny_tokenizer(architecture)
    rows = columns_of([asked("", question="a" * 60), asked("  ", question="a" * 60)])
    prepared = TASK.prepare(rows, tokenizer, 32)
    assert [len(windows) for windows in prepared["input_ids"]] == [1, 1]
    assert len(prepared["input_ids"][0][0]) == 32
    assert prepared["n_cut"][0] == 60 - (32 - tokenizer.num_special_tokens_to_add(pair=True))


@pytest.mark.unit
def test_targets_are_the_spans_of_the_first_answers(tiny_tokenizer):
    rows = [
        asked("it was my order.", "order", "my order"),
        asked("it was it.", ("it", 7)),
        asked("it was my order."),
        asked("it was my order.", (" my ", 6)),
        asked("was it?", "it"),
    ]
    prepared = TASK.prepare(columns_of(rows), tiny_tokenizer(), 64)
    assert prepared["target"] == [[10, 15], [7, 9], [-1, -1], [7, 9], [4, 6]]
    assert prepared["answer_tokens"] == [1, 1, 0, 1, 1]


@pytest.mark.unit
def test_flat_rows_give_the_same_targets(tiny_tokenizer):
    rows = {
        "question": ["who?"] * 3,
        "context": ["it was my order."] * 3,
        "answer": ["order", "", "order"],
        "answer_start": ["10", None, None],
    }
    prepared = TASK.prepare(rows, tiny_tokenizer(), 64)
    assert prepared["target"] == [[10, 15], [-1, -1], [10, 15]]


@pytest.mark.unit
def test_an_answer_that_no_window_holds_is_lost_and_counted(tiny_tokenizer):
    answer = " ".join(["hello"] * 20)
    rows = columns_of([asked(f"it was {answer} " + "today " * 30, answer), asked("is it?", "it")])
    prepared = replace(TASK, stride=4).prepare(rows, tiny_tokenizer(), 24)
    assert prepared["target"] == [[IGNORED, IGNORED], [3, 5]]
    arrays = {name: np.array(prepared[name]) for name in ("target", "n_cut", "answer_tokens")}
    told = replace(TASK, max_answer_length=19).lost(arrays, 24)
    assert "1 of 2 rows have an answer that no window of 24 tokens holds" in told
    assert "1 of 2 rows have an answer of more than 19 tokens" in told
    assert "that no window" not in replace(TASK).lost({"n_cut": np.array([1])}, 24)
    assert TASK.lost({"n_cut": np.array([0])}, 24) is None


@pytest.mark.unit
def test_a_bad_answer_is_named_with_its_row(tiny_tokenizer):
    rows = columns_of([asked("Ann ran.", "Ann"), asked("Ann ran.", ("ran", 3))])
    with pytest.raises(DataError, match="it occurs once, at 4") as error:
        TASK.prepare(rows, tiny_tokenizer(), 64)
    assert (error.value.row, error.value.column) == (2, "answers")
    assert replace(TASK, repair=True).prepare(rows, tiny_tokenizer(), 64)["target"][1] == [4, 7]


@pytest.mark.unit
@pytest.mark.parametrize("column", ["question", "context"])
def test_what_is_no_text_is_named_with_its_row(tiny_tokenizer, column):
    rows = {"question": ["who?"] * 2, "context": ["Ann ran."] * 2, column: ["Ann ran.", None]}
    with pytest.raises(DataError, match="found nothing where a text should be") as error:
        TASK.prepare(rows, tiny_tokenizer(), 64)
    assert (error.value.row, error.value.column) == (2, column)


# Outputs and loss


@pytest.mark.unit
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_merge_puts_windows_under_their_rows(tiny_tokenizer, architecture):
    tokenizer = tiny_tokenizer(architecture)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = [asked("was it? " * n, ("was", 0)) for n in (1, 30, 5)]
    inputs, targets = batch_of(replace(TASK, stride=4), rows, tokenizer, 24)
    logits = torch.randn(*inputs["input_ids"].shape, 2)
    outputs = merged(TASK, logits, inputs)
    counts = (inputs["windows"] >= 0).sum(1).tolist()
    assert outputs.shape == (3, max(counts), logits.shape[1], 4)
    flat = iter(range(len(logits)))
    for row, count in enumerate(counts):
        assert (outputs[row, count:, :, :2] == -1e9).all()
        assert (outputs[row, count:, :, 2:] == -2).all()
        for place in range(count):
            window = next(flat)
            start = inputs["char_start"][window]
            assert torch.equal(outputs[row, place, :, 2], start.float())
            allowed = start > -2
            assert torch.equal(outputs[row, place, allowed, :2], logits[window, allowed])
            assert (outputs[row, place, ~allowed, :2] == -1e9).all()
            assert not (allowed & (inputs["attention_mask"][window] == 0)).any()
    assert torch.isfinite(TASK.loss(outputs, targets))


@pytest.mark.unit
def test_loss_is_that_of_start_and_end_over_windows():
    # Two windows of one row: no answer, a question, then three words of the context each.
    outputs = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    outputs[..., 2] = torch.tensor([[-1, -2, 0, 4, 8], [-1, -2, 8, 12, 16]])
    outputs[..., 3] = torch.tensor([[-1, -2, 3, 7, 11], [-1, -2, 11, 15, 19]])
    outputs[:, :, 1, :2] = -1e9

    def expected(*wanted):
        parts = [
            F.cross_entropy(outputs[0, window, :, side], torch.tensor(place))
            for window, places in enumerate(wanted)
            for side, place in enumerate(places)
        ]
        return torch.stack(parts).mean()

    for target, wanted in [
        ((4, 7), [(3, 3), (0, 0)]),
        ((5, 6), [(3, 3), (0, 0)]),  # inside a token
        ((0, 7), [(2, 3), (0, 0)]),
        ((8, 11), [(4, 4), (2, 2)]),  # in both
        ((12, 19), [(0, 0), (3, 4)]),
        ((-1, -1), [(0, 0), (0, 0)]),
    ]:
        loss = TASK.loss(outputs, torch.tensor([target]))
        assert torch.allclose(loss, expected(*wanted)), target
        each = TASK.loss(outputs, torch.tensor([target]), reduction="none")
        assert torch.allclose(each, loss[None])


@pytest.mark.unit
def test_rows_whose_answer_no_window_holds_count_for_nothing():
    outputs = random_outputs(3, 2, 12, seed=0).requires_grad_()
    targets = torch.tensor([[4, 7], [IGNORED, IGNORED], [-1, -1]])
    each = TASK.loss(outputs, targets, reduction="none")
    assert each[1] == 0
    mean = TASK.loss(outputs, targets)
    # The first row has one window, the third two.
    assert torch.allclose(mean, (each[0] + 2 * each[2]) / 3)
    mean.backward()
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad[1] == 0).all()
    assert (outputs.grad[0, 1:] == 0).all()
    assert TASK.loss(outputs, torch.full((3, 2), IGNORED)) == 0


@pytest.mark.unit
def test_rows_without_answers_give_targets_that_the_loss_takes(tiny_tokenizer):
    rows = [{"question": "who?", "context": "it was"}, {"question": "", "context": ""}]
    inputs, targets = batch_of(TASK, rows, tiny_tokenizer(), 64)
    assert targets.tolist() == [[IGNORED, IGNORED]] * 2
    outputs = merged(TASK, torch.zeros(*inputs["input_ids"].shape, 2), inputs)
    assert TASK.loss(outputs, targets) == 0


# Decode


@pytest.mark.unit
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("task", [TASK, WITH_NONE])
def test_answers_are_those_of_a_search_over_all_spans(seed, task):
    task = replace(task, max_answer_length=[1, 3, 50][seed % 3], null_threshold=float(seed - 3))
    outputs = random_outputs(5, 3, 14, seed)
    context = "abcdefghijklmnopqrstuvwxyz" * 3
    rows = [{"context": context}] * 5
    decided = task.decide(task.scores(outputs))
    for i, found in enumerate(task.decode(outputs, rows, None, top_k=4)):
        spans, null = spans_of(outputs[i], task.max_answer_length)
        best = list(spans.items())[:20]
        refused = task.has_unanswerable and null - best[0][1] > task.null_threshold
        logits = dict(best) | ({(-1, -1): null} if task.has_unanswerable else {})
        shares = F.softmax(torch.tensor(list(logits.values())), 0).tolist()
        shares = dict(zip(logits, shares, strict=True))
        leader = (-1, -1) if refused else best[0][0]
        ranked = [leader, *sorted(set(shares) - {leader}, key=lambda span: -shares[span])][:4]
        answers = [Answer(found.answer, found.start, found.end, found.score), *found.alternatives]
        wanted = [(max(start, 0), max(end, 0)) for start, end in ranked]
        assert [(a.start, a.end) for a in answers] == wanted
        assert [a.answer for a in answers] == [context[start:end] for start, end in wanted]
        assert [a.score for a in answers] == pytest.approx([shares[s] for s in ranked], abs=1e-5)
        assert decided[i].tolist() == list(leader)


@pytest.mark.unit
def test_a_row_without_a_context_gets_no_answer(tiny_tokenizer):
    rows = [{"question": "who?", "context": ""}, {"question": "", "context": "  "}]
    for task in (TASK, WITH_NONE):
        inputs, _ = batch_of(task, rows, tiny_tokenizer(), 64)
        outputs = task.merge(torch.zeros(*inputs["input_ids"].shape, 2), inputs)
        assert task.decode(outputs, rows, None, top_k=3) == [AnswerPrediction("", 0, 0, 1.0)] * 2
        assert task.decide(task.scores(outputs)).tolist() == [[-1, -1]] * 2


@pytest.mark.unit
def test_more_than_twenty_answers_can_be_asked_for():
    outputs = random_outputs(2, 1, 30, seed=1)
    found = TASK.decode(outputs, [{"context": "x" * 80}] * 2, None, top_k=50)
    assert all(len(each.alternatives) == 49 for each in found)
    assert all(
        each.alternatives == () for each in TASK.decode(outputs, [{"context": ""}] * 2, None)
    )


@pytest.mark.unit
def test_a_prediction_is_the_familiar_dict():
    found = AnswerPrediction("Ann", 0, 3, 0.5, (Answer("", 0, 0, 0.25),))
    plain = {"score": 0.5, "start": 0, "end": 3, "answer": "Ann"}
    assert replace(found, alternatives=()).to_dict() == plain
    other = {"score": 0.25, "start": 0, "end": 0, "answer": ""}
    assert found.to_dict() == plain | {"alternatives": [other]}


@pytest.mark.unit
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gold_labels_decode_to_the_gold_answers(tiny_tokenizer, architecture):
    tokenizer = tiny_tokenizer(architecture)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rng, rows = random.Random(3), []
    for _ in range(40):
        # Few words, so that answers occur again and again.
        words = rng.choices(["hello", "you", "é!", "refund"], k=rng.randint(1, 60))
        first = rng.randrange(len(words))
        answer = " ".join(words[first : first + rng.randint(1, 2)])
        start = len(" ".join(words[:first])) + bool(first)
        rows.append(asked(" ".join(words), (answer, start)))
    rows += [asked("hello you")] * 3
    task = replace(WITH_NONE, stride=24)
    inputs, targets = batch_of(task, rows, tokenizer, 64)
    assert (targets != IGNORED).all()
    outputs = gold_outputs(task, inputs, targets)
    assert task.decide(task.scores(outputs)).tolist() == targets.tolist()
    metrics = task.metrics(tokenizer)
    metrics.add(outputs, targets, ColumnRows(columns_of(rows), range(len(rows))))
    assert list(metrics.compute().values()) == [1.0] * 5
    assert tuple(metrics.compute()) == task.metric_names
    for row, found in zip(rows, task.decode(outputs, rows, tokenizer), strict=True):
        assert found.answer == "".join(row["answers"]["text"])
        assert found.start == sum(row["answers"]["answer_start"])
    assert task.loss(outputs, targets) < 1e-4


@pytest.mark.data
def test_gold_labels_of_a_public_set_decode_to_exact_matches(data_dir, minilm):
    import pyarrow.parquet as pq

    from ftkit.model.checkpoint import _locate
    from ftkit.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(_locate(minilm), minilm)
    table = pq.read_table(data_dir / "squad_v1" / "validation.parquet")
    rows = table.take(list(range(0, len(table), 40))).to_pydict()
    # All answers of the set hold that long.
    task = replace(TASK, max_answer_length=60)
    features = prepare_rows(rows, task, tokenizer, 384)
    assert not (features.rows["target"] == IGNORED).any()
    metrics, moved = task.metrics(tokenizer), 0
    for numbers in np.array_split(np.arange(len(features)), 20):
        inputs, targets = as_tensors(task.collate(features.fill(numbers, Padding.of(tokenizer))))
        outputs = gold_outputs(task, inputs, targets)
        metrics.add(outputs, targets, ColumnRows(rows, numbers.tolist()))
        moved += int((task.decide(task.scores(outputs)) != targets.numpy()).any(1).sum())
    scores, n_rows = metrics.compute(), len(features)
    # What is left are answers that begin or end inside a sub-token, as "success" of "successful".
    exceptions = round((1 - scores["exact_match"]) * n_rows)
    assert n_rows > 250
    assert exceptions <= moved <= n_rows // 100


# Show


@pytest.mark.unit
def test_show():
    rows = [asked("Ann ran. " * 9, ("ran", 67)), asked("Ann sat.")]
    table = WITH_NONE.show(rows, None, torch.tensor([[0, 3], [-1, -1]]))
    assert [list(row) for row in table] == [["question", "text", "answer", "predicted"]] * 2
    assert (table[0]["answer"], table[0]["predicted"]) == ("ran", "Ann")
    assert table[0]["text"] == "…" + ("Ann ran. " * 9)[37:]
    assert (table[1]["answer"], table[1]["predicted"]) == ("(no answer)",) * 2
    (bare,) = TASK.show([{"question": "who?", "context": "Ann sat."}], None)
    assert bare == {"question": "who?", "text": "Ann sat."}
    assert TASK.show([{}, {"context": "x", "answers": None}], None)[0]["text"] == ""
    assert TASK.show([], None) == []


@pytest.mark.unit
@pytest.mark.parametrize(
    ("gold", "span", "wanted", "found"),
    [
        (("ran", 67), (67, 70), [("ran", "")], [("ran", "")]),
        (("ran", 67), (67, 71), [("ran", "")], [("ran.", "")]),  # as SQuAD's scores see it
        (("ran", 67), (4, 7), [("ran", "")], [("ran", "")]),
        (("ran", 67), (63, 66), [("ran", "missed")], [("Ann", "wrong")]),
        (("ran", 67), (-1, -1), [("ran", "missed")], [("(no answer)", "wrong")]),
        (None, (0, 3), [], [("Ann", "wrong")]),
        (None, (-1, -1), [], []),
    ],
)
def test_answers_are_marked_in_their_context(gold, span, wanted, found):
    context = "Ann ran. " * 18
    row = asked(context, gold) if gold else asked(context)
    (shown,) = WITH_NONE.show([row], None, torch.tensor([span]))
    assert shown["text"].text == context
    for name, marked in (("text", wanted), ("predicted", found)):
        cell = shown[name]
        parts = [(cell.text[mark.start : mark.end], mark.note) for mark in cell.marks]
        assert parts == marked, name
    assert len(shown["predicted"].text) < 70


# Offsets


@pytest.mark.unit
def test_find_once_and_trim_span():
    assert [find_once("abcab", part) for part in ("c", "ab", "x", "bc")] == [2, None, None, 1]
    assert find_once("aaa", "aa") is None
    assert [trim_span(" ab\n ", *span) for span in ((0, 5), (1, 3), (3, 5), (0, 1))] == [
        (1, 3),
        (1, 3),
        (5, 5),
        (1, 1),
    ]


# The whole way


def tickets(count, seed, words=(4, 40), unanswerable=4):
    """Rows that name one thing, which is the answer, among filler; some name none."""
    rng, rows = random.Random(seed), []
    for i in range(count):
        context = rng.choices(FILLER, k=rng.randint(*words))
        if unanswerable and i % unanswerable == 0:
            rows.append(asked(" ".join(context), question="what is it?"))
            continue
        thing = rng.choice(THINGS)
        context.insert(rng.randint(0, len(context)), thing)
        rows.append(asked(" ".join(context), thing, question="what is it?"))
    return rows


@pytest.fixture(scope="module")
def data():
    splits = {"train": tickets(160, 1), "validation": tickets(40, 2), "test": tickets(40, 3)}
    return DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})


@pytest.fixture(scope="module")
def trained(data, make_checkpoint, tmp_path_factory):
    """A learner that learned the tickets, its last scores, and the folder of its bundle."""
    import ftkit

    task = QuestionAnswering(max_length=40, stride=12)
    learn = ftkit.finetune_learner(data, make_checkpoint("bert"), task=task, bs=8)
    with learn.no_bar():
        learn.fit_one_cycle(4, 1e-2)
    last = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1], strict=False))
    return learn, last, ftkit.save(learn, tmp_path_factory.mktemp("qa") / "bundle")


def test_a_learner_trains_validates_and_shows(trained, capsys):
    learn, last, _ = trained
    assert last["f1"] > 0.9
    assert last["no_answer_exact_match"] > 0.8
    learn.show_batch(max_n=3)
    learn.show_results(max_n=3)
    printed = capsys.readouterr().out
    assert "what is it?" in printed
    assert "predicted" in printed


def test_the_learner_predicts_a_row(trained):
    learn, _, _ = trained
    _, span, scores = learn.predict(("what is it?", "hello my refund is it"))
    assert span.tolist() == scores[:2].tolist() == [9, 15]


def test_a_bundle_scores_and_predicts_as_the_learner(trained, data):
    import ftkit

    learn, last, folder = trained
    model = ftkit.load_model(folder, device="cpu")
    assert model.task == learn.task_scores.trained_task
    assert model.task.null_threshold is not None
    ours = model.evaluate(data["validation"]).scores
    assert ours == pytest.approx({name: last[name] for name in ours})
    rows = data["test"][:]
    found = model.predict([(q, c) for q, c in zip(rows["question"], rows["context"], strict=True)])
    for answer, context in zip(found, rows["context"], strict=True):
        assert context[answer.start : answer.end] == answer.answer
    dicts = [
        {"question": q, "context": c}
        for q, c in zip(rows["question"], rows["context"], strict=True)
    ]
    again = model.predict(dicts, batch_size=3, top_k=3)
    assert [each.answer for each in again] == [each.answer for each in found]
    assert {len(each.alternatives) for each in again} == {2}
    flat = {"question": rows["question"], "context": rows["context"]}
    flat["answer"] = ["".join(each["text"]) for each in rows["answers"]]
    assert model.evaluate(flat).scores == pytest.approx(model.evaluate(data["test"]).scores)
    with pytest.raises(DataError, match='column "answers": there is no such column'):
        model.evaluate({name: flat[name] for name in ("question", "context")})


def test_the_very_end_of_20000_tokens_is_found(trained):
    import ftkit

    _, _, folder = trained
    head = " ".join(random.Random(0).choices(FILLER, k=20_000))
    context = f"{head} refund"
    model = ftkit.load_model(folder, device="cpu")
    (found, short) = model.predict([("what is it?", context), ("what is it?", "my parcel is it")])
    assert (found.answer, found.start, found.end) == ("refund", len(head) + 1, len(context))
    assert short.answer == "parcel"
    scores = model.evaluate(columns_of([asked(context, "refund", question="what is it?")])).scores
    assert scores["exact_match"] == 1.0


def test_bad_rows_are_named_and_blank_ones_counted(make_checkpoint):
    import ftkit

    good = tickets(12, 4)
    outside = [*good, asked("hello you", ("refund", 400))]
    with pytest.raises(DataError, match=r"row 13, column \"answers\".*past the end"):
        ftkit.load_data({"train": outside}, "qa")
    with pytest.warns(FtkitWarning, match='column "context": 1 of .* texts are empty or blank'):
        ftkit.load_data({"train": [*good, asked("")], "validation": good}, "qa")
    rows = [*good, asked("hello you", "you", question=" ")]
    with pytest.warns(FtkitWarning, match='column "question": 1 of .* texts are empty or blank'):
        ftkit.load_data({"train": rows, "validation": good}, "qa")


def test_flat_rows_from_a_file(tmp_path, make_checkpoint):
    import ftkit

    lines = ["question,context,reply,at"]
    for i in range(12):
        lines.append(f"who is it?,hello it is you {THINGS[i % 2]} and you,you,12")
    lines.append("who is it?,hello,,")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    columns = {"answer": "reply", "answer_start": "at"}
    data = ftkit.load_data(tmp_path / "rows.csv", "qa", columns=columns)
    task = QuestionAnswering().with_labels(data)
    assert task.has_unanswerable is True
    (tmp_path / "rows.csv").write_text("\n".join([*lines, "who?,it was you,you,3"]))
    with pytest.raises(DataError, match=r'rows\.csv, row 14, column "at".*at 7'):
        ftkit.load_data(tmp_path / "rows.csv", "qa", columns=columns)


@pytest.mark.parametrize("architecture", ["roberta", "gpt2", "t5"])
def test_long_contexts_of_other_tokenizers_train(make_checkpoint, data, architecture, tmp_path):
    import ftkit

    task = QuestionAnswering(max_length=40, stride=8)
    few = DatasetDict({name: rows.select(range(24)) for name, rows in data.items()})
    learn = ftkit.finetune_learner(few, make_checkpoint(architecture), task=task, bs=8)
    with learn.no_bar():
        learn.fit(1, 1e-3)
    assert np.isfinite(learn.recorder.values[-1][:2]).all()
    row = data["test"][0]
    model = ftkit.load_model(ftkit.save(learn, tmp_path / "model"), device="cpu")
    (found,) = model.predict([row])
    assert row["context"][found.start : found.end] == found.answer


def test_an_architecture_without_such_a_head_is_refused(tiny_tokenizer, data, tmp_path):
    from transformers import CTRLConfig, CTRLModel

    import ftkit

    config = CTRLConfig(vocab_size=300, n_embd=32, dff=64, n_layer=1, n_head=2, n_positions=64)
    CTRLModel(config).save_pretrained(tmp_path)
    tiny_tokenizer("gpt2").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="ctrl, which has no ForQuestionAnswering head"):
        ftkit.finetune_learner(data, tmp_path, task=QuestionAnswering())
