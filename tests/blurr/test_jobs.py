"""What Blurr's notebooks do, run as they write it: both of its levels, for each of its jobs."""

import math
from functools import partial

import pytest
from blurr.text.data.all import (
    BertMLMStrategy,
    CausalLMStrategy,
    LMBatchTokenizeTransform,
    LMPreprocessor,
    MLMTextInput,
    PreCalculatedBCELoss,
    PreCalculatedCrossEntropyLoss,
    QABatchTokenizeTransform,
    QAPreprocessor,
    QATextInput,
    Seq2SeqBatchTokenizeTransform,
    Seq2SeqTextBlock,
    SummarizationPreprocessor,
    TextBlock,
    TextDataLoader,
    TokenCategoryBlock,
    TokenClassBatchTokenizeTransform,
    TokenClassPreprocessor,
    TokenClassTextInput,
    default_text_gen_kwargs,
    get_hf_objects,
    preproc_hf_dataset,
)
from blurr.text.modeling.all import (
    BaseModelCallback,
    BaseModelWrapper,
    BlearnerForLM,
    BlearnerForQuestionAnswering,
    BlearnerForSequenceClassification,
    BlearnerForSummarization,
    BlearnerForTokenClassification,
    BlearnerForTranslation,
    LMMetricsCallback,
    PreCalculatedQALoss,
    QAMetricsCallback,
    QAModelCallback,
    Seq2SeqMetricsCallback,
    TokenClassMetricsCallback,
    blurr_seq2seq_splitter,
    blurr_splitter,
    compute_qa_metrics,
)
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.transforms import ColReader, ColSplitter
from fastai.learner import Learner
from fastai.metrics import accuracy, accuracy_multi, perplexity
from fastai.optimizer import Adam, OptimWrapper
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

pytestmark = pytest.mark.usefixtures("quiet")
BS = {"bs": 8}


def fit(learn, *names, cbs=None):
    """Two fits with slices, as the notebooks; the scores, which must be numbers."""
    learn.fit_one_cycle(1, lr_max=1e-3, cbs=cbs)
    learn.unfreeze()
    learn.fit_one_cycle(1, lr_max=slice(1e-4, 1e-3), cbs=cbs)
    found = dict(zip(learn.recorder.metric_names[1:-1], learn.recorder.values[-1], strict=True))
    assert list(found) == ["train_loss", "valid_loss", *names]
    assert all(math.isfinite(value) for value in found.values())
    return found


def low_learner(dls, hf_model, cbs, **options):
    """The Learner of the middle level: fastai's own, around Blurr's parts."""
    learn = Learner(
        dls,
        BaseModelWrapper(hf_model),
        **{"opt_func": Adam, "splitter": blurr_splitter, **options},
        cbs=cbs,
    )
    learn.freeze()
    return learn


def test_multi_class(tickets, checkpoint, shown, reopened):
    learn = BlearnerForSequenceClassification.from_data(
        tickets, checkpoint("bert"), text_attr="text", label_attr="queue", dl_kwargs=BS
    )
    learn.dls.show_batch(dataloaders=learn.dls, max_n=2, trunc_at=50)
    assert set(shown[-1]["target"]) <= set(tickets["queue"])
    fit(learn, "f1_score", "accuracy")
    learn.show_results(learner=learn, max_n=2)
    assert set(shown[-1]["prediction"]) <= set(tickets["queue"])
    text = tickets["text"][0]
    found = learn.predict(text)
    assert found[0]["label"] in set(tickets["queue"])
    assert found[0]["score"] == max(found[0]["probs"])
    again = reopened(learn).blurr_predict([text])[0]
    assert again["label"] == found[0]["label"]
    assert again["probs"] == pytest.approx(found[0]["probs"])


def test_multi_class_at_the_middle_level(tickets, checkpoint, shown):
    names = sorted(set(tickets["queue"]))
    tickets["number"] = tickets["queue"].map(names.index)
    architecture, config, tokenizer, model = get_hf_objects(
        checkpoint("roberta"),
        model_cls=AutoModelForSequenceClassification,
        config_kwargs={"num_labels": len(names)},
    )
    text = TextBlock(
        architecture, config, tokenizer, model, batch_tokenize_kwargs={"labels": names}
    )
    block = DataBlock(
        blocks=(text, CategoryBlock),
        get_x=ColReader("text"),
        get_y=ColReader("number"),
        splitter=ColSplitter(),
    )
    dls = block.dataloaders(tickets, **BS)
    dls.show_batch(dataloaders=dls, max_n=2)
    row = tickets[tickets["queue"] == shown[-1]["target"][0]]["text"]
    assert any(text.strip()[:20] in shown[-1]["text"][0] for text in row)
    options = {"loss_func": PreCalculatedCrossEntropyLoss(), "metrics": [accuracy]}
    learn = low_learner(dls, model, [BaseModelCallback], **options)
    fit(learn, "accuracy")
    assert learn.blurr_predict(tickets["text"].tolist()[:2])[1]["label"] in names
    assert model.config.id2label == dict(enumerate(names))


def test_multi_class_at_the_low_level(tickets, checkpoint, shown):
    from datasets import Dataset
    from fastai.data.core import DataLoaders

    architecture, config, tokenizer, model = get_hf_objects(
        checkpoint("bert"), model_cls=AutoModelForSequenceClassification
    )
    rows = Dataset.from_dict({"text": tickets["text"], "label": [0, 1] * (len(tickets) // 2)})
    rows = rows.map(lambda row: tokenizer(row["text"], truncation=True), batched=True)
    loaders = [
        TextDataLoader(
            rows,
            *(architecture, config, tokenizer, model),
            preproccesing_func=preproc_hf_dataset,
            batch_decode_kwargs={"labels": ["even", "odd"]},
            batch_size=8,
            shuffle=is_train,
        )
        for is_train in (True, False)
    ]
    dls = DataLoaders(*loaders)
    dls.show_batch(dataloaders=dls, max_n=2)
    assert set(shown[-1]["target"]) <= {"even", "odd"}
    options = {"loss_func": PreCalculatedCrossEntropyLoss(), "metrics": [accuracy]}
    fit(low_learner(dls, model, [BaseModelCallback], **options), "accuracy")


def test_multi_label(tickets, checkpoint, shown, reopened):
    flags = tickets.attrs["flags"]
    learn = BlearnerForSequenceClassification.from_data(
        tickets, checkpoint("bert"), text_attr="text", label_attr=flags, dl_kwargs=BS
    )
    learn.dls.show_batch(dataloaders=learn.dls, max_n=4)
    assert all(set(eval(str(each))) <= set(flags) for each in shown[-1]["target"])
    fit(learn, "f1_score", "accuracy_multi")
    learn.loss_func.thresh = 0.02
    (found,) = learn.blurr_predict(tickets["text"][0])
    assert found["labels"] == [
        flag for flag, score in zip(flags, found["probs"], strict=True) if score > 0.02
    ]
    assert len(found["scores"]) == len(found["labels"]) > 0
    again = reopened(learn).blurr_predict([tickets["text"][0]])[0]
    assert again["probs"] == pytest.approx(found["probs"])


def test_multi_label_at_the_middle_level(tickets, checkpoint):
    flags = tickets.attrs["flags"]
    objects = get_hf_objects(
        checkpoint("bert"),
        model_cls=AutoModelForSequenceClassification,
        config_kwargs={"num_labels": len(flags), "problem_type": "multi_label_classification"},
    )
    block = DataBlock(
        blocks=(TextBlock(*objects), MultiCategoryBlock(encoded=True, vocab=flags)),
        get_x=ColReader("text"),
        get_y=ColReader(flags),
        splitter=ColSplitter(),
    )
    options = {"loss_func": PreCalculatedBCELoss(), "metrics": [accuracy_multi]}
    dls = block.dataloaders(tickets, **BS)
    fit(low_learner(dls, objects[-1], [BaseModelCallback], **options), "accuracy_multi")


def test_ner(words, checkpoint, shown, reopened):
    learn = BlearnerForTokenClassification.from_data(
        words, checkpoint("bert"), labels=words.attrs["tags"], dl_kwargs=BS
    )
    learn.dls.show_batch(dataloaders=learn.dls, max_n=8)
    pairs = [eval(row) for row in shown[-1].iloc[:, 0]]
    rows = list(zip(words["tokens"], words["token_labels"], strict=True))
    lowered = [[(w.lower(), tag) for w, tag in zip(*row, strict=True)] for row in rows]
    assert all(any(row[: len(each)] == each for row in lowered) for each in pairs)
    names = ("accuracy", "precision", "recall", "f1")
    fit(learn, *names, cbs=[BlearnerForTokenClassification.get_metrics_cb()])
    assert "micro avg" in learn.token_classification_report
    learn.show_results(learner=learn, max_n=2)
    assert len(eval(shown[-1].iloc[0, 0])[0]) == 3
    text = " ".join(words["tokens"][0])
    for strategy in ("simple", "first", "max", "average", "token"):
        found = learn.blurr_predict_tokens([text], aggregation_strategy=strategy)[0]
        assert all(text[each["start"] : each["end"]] for each in found)
    assert reopened(learn).predict(text) == learn.predict(text)


def test_ner_at_the_middle_level(words, checkpoint):
    tags = words.attrs["tags"]
    objects = get_hf_objects(
        checkpoint("roberta"),
        model_cls=AutoModelForTokenClassification,
        config_kwargs={"num_labels": len(tags)},
    )
    rows = TokenClassPreprocessor(
        objects[2],
        chunk_examples=True,
        label_names=tags,
        label_list_attr="token_labels",
        tok_kwargs={"max_length": 32},
    ).process_df(words)
    assert len(rows) > len(words)
    transform = TokenClassBatchTokenizeTransform(*objects, target_label_names=tags)
    block = DataBlock(
        blocks=(
            TextBlock(batch_tokenize_tfm=transform, input_return_type=TokenClassTextInput),
            TokenCategoryBlock(vocab=tags),
        ),
        get_x=ColReader("proc_tokens"),
        get_y=ColReader("proc_token_labels"),
        splitter=ColSplitter(),
    )
    learn = low_learner(
        block.dataloaders(rows, **BS),
        objects[-1],
        [BaseModelCallback],
        loss_func=PreCalculatedCrossEntropyLoss(),
        opt_func=partial(OptimWrapper, opt=__import__("torch").optim.Adam),
    )
    names = ("accuracy", "precision", "recall", "f1")
    fit(learn, *names, cbs=[TokenClassMetricsCallback()])


def test_question_answering(questions, checkpoint, shown, reopened):
    tokenizer = get_hf_objects(checkpoint("bert"), model_cls=AutoModelForQuestionAnswering)[2]
    options = {"return_overflowing_tokens": True, "max_length": 64, "stride": 16}
    valid = questions[questions["is_valid"]]
    rows = QAPreprocessor(tokenizer, id_attr="id", tok_kwargs=options).process_df(
        questions[~questions["is_valid"]], valid
    )
    learn = BlearnerForQuestionAnswering.from_data(
        rows,
        checkpoint("bert"),
        id_attr="id",
        max_seq_len=64,
        context_attr="proc_context",
        question_attr="proc_question",
        dl_kwargs=BS,
    )
    learn.dls.show_batch(dataloaders=learn.dls, max_n=8)
    answers = {each.lower() for each in rows["answer_text"]}
    shown_answers = [each for each in shown[-1]["answer"] if each]
    assert shown_answers
    squeezed = {"".join(each.split()) for each in answers}
    assert {"".join(each.split()) for each in shown_answers} <= squeezed
    metrics = QAMetricsCallback(compute_qa_metrics, valid.to_dict("records"))
    fit(learn, "exact_match", "f1", cbs=[metrics])
    learn.show_results(learner=learn, max_n=2)
    asked = questions[["question", "context"]].to_dict("records")[:2]
    found = learn.blurr_predict_answers(asked)
    assert len(found) == 2
    for row, each in zip(asked, found, strict=True):
        assert each["answer"] in (None, row["context"][each["start"] : each["end"]])
    assert reopened(learn).blurr_predict_answers(asked[0])[0] == pytest.approx(found[0])


def test_question_answering_at_the_middle_level(questions, checkpoint):
    objects = get_hf_objects(checkpoint("roberta"), model_cls=AutoModelForQuestionAnswering)
    rows = QAPreprocessor(objects[2], tok_kwargs={"max_length": 64}).process_df(questions)
    places = CategoryBlock(vocab=list(range(64)))
    transform = QABatchTokenizeTransform(*objects, max_length=64)
    block = DataBlock(
        blocks=(
            TextBlock(batch_tokenize_tfm=transform, input_return_type=QATextInput),
            *(places, places),
        ),
        get_x=lambda row: (row["question"], row["context"]),
        get_y=[ColReader("ans_start_token_idx"), ColReader("ans_end_token_idx")],
        splitter=ColSplitter(),
        n_inp=1,
    )
    options = {"loss_func": PreCalculatedQALoss()}
    fit(low_learner(block.dataloaders(rows, **BS), objects[-1], [QAModelCallback], **options))


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_summarization(summaries, checkpoint, shown, reopened, architecture):
    learn = BlearnerForSummarization.from_data(
        summaries,
        checkpoint(architecture),
        max_length=48,
        max_target_length=16,
        text_gen_kwargs={"max_length": 12, "num_beams": 2},
        dl_kwargs={"bs": 16},
    )
    learn.dls.show_batch(dataloaders=learn.dls, max_n=2, target_trunc_at=15)
    assert all(
        any(row.startswith(each) for row in summaries["summary"]) for each in shown[-1]["target"]
    )
    names = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    fit(learn, *names, cbs=[BlearnerForSummarization.get_metrics_cb()])
    learn.show_results(learner=learn, max_n=2)
    assert len(shown[-1]) == 2
    assert all(isinstance(each, str) for each in shown[-1]["prediction"])
    text = summaries["text"][0]
    (found,) = learn.blurr_summarize(text)
    assert list(found) == ["summary_texts"]
    assert learn.blurr_generate(text)[0]["generated_texts"] == found["summary_texts"]
    assert reopened(learn).predict(text) == [found]


def test_summarization_at_the_middle_level(summaries, checkpoint):
    from fastai.imports import noop

    objects = get_hf_objects(checkpoint("bart"), model_cls=AutoModelForSeq2SeqLM)
    settings = default_text_gen_kwargs(*objects[1:4:2], task="summarization")
    rows = SummarizationPreprocessor(
        objects[2], max_input_tok_length=48, max_target_tok_length=16
    ).process_df(summaries)
    transform = Seq2SeqBatchTokenizeTransform(
        *objects,
        max_length=48,
        max_target_length=16,
        text_gen_kwargs={**settings, "max_length": 12},
    )
    block = DataBlock(
        blocks=(Seq2SeqTextBlock(batch_tokenize_tfm=transform), noop),
        get_x=ColReader("proc_text"),
        get_y=ColReader("proc_summary"),
        splitter=ColSplitter(),
    )
    learn = low_learner(
        block.dataloaders(rows, bs=16),
        objects[-1],
        [BaseModelCallback],
        loss_func=PreCalculatedCrossEntropyLoss(),
        splitter=partial(blurr_seq2seq_splitter, arch="bart"),
    )
    metrics = Seq2SeqMetricsCallback({"rouge": {"returns": ["rouge1", "rougeL"]}})
    fit(learn, "rouge1", "rougeL", cbs=[metrics])


def test_translation(summaries, checkpoint):
    rows = summaries.rename(columns={"summary": "src_lang", "text": "trg_lang"})
    learn = BlearnerForTranslation.from_data(
        rows,
        checkpoint("t5"),
        trg_lang_name="German",
        max_length=48,
        max_target_length=16,
        text_gen_kwargs={"max_length": 12},
        dl_kwargs={"bs": 16},
    )
    fit(learn, "bleu", "sacrebleu", cbs=[BlearnerForTranslation.get_metrics_cb()])
    assert list(learn.predict("Hello")[0]) == ["translation_texts"]


@pytest.mark.parametrize(
    ("architecture", "strategy", "auto"),
    [
        ("gpt2", CausalLMStrategy, AutoModelForCausalLM),
        ("bert", BertMLMStrategy, AutoModelForMaskedLM),
    ],
)
def test_language_models(tickets, checkpoint, shown, reopened, architecture, strategy, auto):
    learn = BlearnerForLM.from_data(
        tickets, checkpoint(architecture), lm_strategy_cls=strategy, dl_kwargs=BS
    )
    assert isinstance(learn.model.hf_model, tuple(auto._model_mapping.values()))
    learn.dls.show_batch(dataloaders=learn.dls, max_n=2)
    masked = strategy is BertMLMStrategy
    assert ("[MASK]" in " ".join(shown[-1]["text"])) == masked
    fit(learn, "perplexity", "lm_accuracy", cbs=[BlearnerForLM.get_metrics_cb()])
    learn.show_results(learner=learn, max_n=2)
    reopen = reopened(learn)
    if masked:
        found = learn.blurr_fill_mask("my [MASK] is late", n_preds=3)
        assert len(set(found)) == 3
        assert reopen.blurr_fill_mask("my [MASK] is late", n_preds=3) == found
    else:
        found = learn.blurr_generate("my order", max_length=12, do_sample=False)
        assert found[0]["generated_texts"].startswith("my order")
        assert reopen.blurr_generate("my order", max_length=12, do_sample=False) == found


def test_language_models_at_the_middle_level(tickets, checkpoint):
    from fastai.imports import noop

    objects = get_hf_objects(checkpoint("bert"), model_cls=AutoModelForMaskedLM)
    rows = LMPreprocessor(objects[2], chunk_size=32).process_df(
        *(tickets[["text"]][tickets["is_valid"] == each] for each in (False, True))
    )
    transform = LMBatchTokenizeTransform(*objects, lm_strategy_cls=BertMLMStrategy)
    block = DataBlock(
        blocks=(TextBlock(batch_tokenize_tfm=transform, input_return_type=MLMTextInput), noop),
        get_x=ColReader("proc_text"),
        splitter=ColSplitter(),
    )
    options = {"loss_func": PreCalculatedCrossEntropyLoss(), "metrics": [perplexity]}
    learn = low_learner(block.dataloaders(rows, bs=32), objects[-1], [BaseModelCallback], **options)
    fit(learn, "perplexity", "lm_accuracy", cbs=[LMMetricsCallback()])
