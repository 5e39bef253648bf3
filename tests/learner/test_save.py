"""From a Learner to a bundle: what it says, and that the Learner goes on."""

import json

import pytest
import torch
import yaml

import ftkit
from ftkit.learner.best import KeepBest
from ftkit.learner.card import CardFacts, write_card
from ftkit.learner.save import predictor


def card_of(folder):
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_tells_what_was_done(fitted, tmp_path):
    front, body = card_of(ftkit.save(fitted, tmp_path / "model"))
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-classification"
    assert {"ftkit", "fastai"} <= set(front["tags"])
    assert "base_model" not in front  # the checkpoint is a local folder
    last = fitted.history.rows[-1]
    for said in (
        "| train | 96 | 0 |",
        "| validation | 24 | 0 |",
        "| epochs | 6 |",
        "| batch | 8 rows |",
        "| precision | fp32 |",
        "| seed | 42 |",
        "3 labels: billing, delivery, technical",
        "longer than 64 tokens",
        f"| validation | {last['accuracy']:.4f} | {last['macro_f1']:.4f} | {last['mcc']:.4f} |",
    ):
        assert said in body


def test_the_card_of_an_untrained_learner(make_learner, tmp_path):
    _, body = card_of(ftkit.save(make_learner(), tmp_path / "model"))
    assert "It was not evaluated" in body
    assert "| epochs | 0 |" in body


def test_the_card_has_the_scores_of_the_weights_that_are_saved(make_learner, tmp_path):
    learn = make_learner()
    learn.fit_one_cycle(1, 1e-2)
    first = f"{learn.history.rows[0]['valid_loss']:.4f}", learn.history.scores["accuracy"]
    learn.save("first")
    learn.fit_one_cycle(2, 1e-2, cbs=KeepBest("train_loss", lower_is_better=False))
    best, last = learn.history.rows[1:]
    assert learn.history.scores["valid_loss"] == best["valid_loss"] != last["valid_loss"]
    _, body = card_of(ftkit.save(learn, tmp_path / "best"))
    assert f"| validation | {best['accuracy']:.4f} |" in body
    learn.load("first")
    assert (f"{learn.history.scores['valid_loss']:.4f}", learn.history.scores["accuracy"]) == first
    (learn.path / "models" / "first.scores.json").unlink()
    learn.load("first")
    _, body = card_of(ftkit.save(learn, tmp_path / "loaded"))
    assert "It was not evaluated" in body


def test_the_bundle_answers_as_the_learner(fitted, tiny_data, tmp_path):
    model = ftkit.load_model(ftkit.save(fitted, tmp_path / "model"))
    texts = tiny_data["test"]["text"]
    scores, _ = fitted.get_preds(dl=fitted.dls.test_dl(texts))
    for row, answer in zip(scores, model.predict(texts), strict=True):
        assert [answer.scores[n] for n in ("billing", "delivery", "technical")] == pytest.approx(
            row.tolist(), abs=1e-5
        )


def test_saving_changes_nothing_in_the_learner(make_learner, tmp_path):
    first, again = make_learner(), make_learner()
    first.fit_one_cycle(1, 1e-3)
    again.fit_one_cycle(1, 1e-3)
    ftkit.save(again, tmp_path / "model")
    assert again.mixed_precision.precision == "fp32"
    for learn in (first, again):
        learn.fit_one_cycle(1, 1e-3)
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_saving_twice_gives_the_same_files(fitted, tmp_path):
    one, two = ftkit.save(fitted, tmp_path / "one"), ftkit.save(fitted, tmp_path / "two")
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_a_predictor_without_a_folder(fitted, tiny_data):
    answers = predictor(fitted)
    evaluation = answers.evaluate(tiny_data["validation"])
    last = fitted.history.rows[-1]
    assert evaluation.scores["accuracy"] == pytest.approx(last["accuracy"])
    assert evaluation.rows == 24


def test_a_predictor_answers_in_float32_as_once_saved(make_learner, tiny_data, tmp_path):
    learn = make_learner(precision="auto")  # bf16 where the CPU has it
    learn.fit_one_cycle(1, 1e-2)
    texts = tiny_data["test"]["text"]
    saved = ftkit.load_model(ftkit.save(learn, tmp_path / "model"))
    for now, later in zip(predictor(learn).predict(texts), saved.predict(texts), strict=True):
        assert now.scores == pytest.approx(later.scores, abs=1e-6)


def test_max_length_travels(make_learner, tmp_path):
    task = ftkit.Classification(max_length=12, long_texts="tail")
    with pytest.warns(ftkit.errors.FtkitWarning, match="longer than 12 tokens"):
        learn = make_learner(task=task)
    folder = ftkit.save(learn, tmp_path / "model")
    settings = json.loads((folder / "task.json").read_text())
    assert settings["limit"] == 12
    assert settings["options"]["long_texts"] == "tail"
    model = ftkit.load_model(folder)
    ending = "refund again today with help since order you and it"
    one, two = model.predict([f"hello {ending}", f"crash error update login freezes {ending}"])
    assert one.scores == pytest.approx(two.scores, abs=1e-6)  # only the tail is seen


def test_label_names_stay_in_their_cells():
    label = "sales | returns\n(old)"
    facts = CardFacts(
        checkpoint="minilm",
        task="classification",
        labels=(label, "b"),
        rows={"train": 2},
        truncated={},
        limit=64,
        limits=("Texts",),
        pipeline="text-classification",
        example="A",
        answers_rows=True,
        settings={},
        scores={"test": {"accuracy": 1.0}},
        per_label={label: {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}},
    )
    assert r"| sales \| returns (old) | 1.000 | 1.000 | 1.000 | 2 |" in write_card(facts)


@pytest.mark.slow
def test_the_card_names_minilm(minilm, tiny_data, tmp_path):
    learn = ftkit.classification_learner(tiny_data, minilm, path=tmp_path)
    front, _ = card_of(ftkit.save(learn, tmp_path / "model"))
    assert front["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
