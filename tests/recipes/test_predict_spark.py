"""The function for Spark's `mapInPandas`, given frames as Spark gives them."""

import pickle

import pandas as pd
import pytest

import ftkit


@pytest.fixture
def folder(tiny_data, tiny_checkpoint, tmp_path):
    learn = ftkit.classification_learner(tiny_data, tiny_checkpoint, bs=8, precision="fp32")
    return str(ftkit.save(learn, tmp_path / "model"))


def test_frames_are_answered_one_after_the_other(recipe, folder):
    texts = ["late refund", None, "my parcel is late again", "hello"]
    frames = [pd.DataFrame({"id": [i, i + 1], "body": texts[i : i + 2]}) for i in (0, 2)]
    answered = recipe.answering(folder, "body")(iter(frames))
    found = pd.concat([next(answered), *answered])
    assert list(found.columns) == ["id", "body", "label", "score", "error"]
    assert found["id"].tolist() == [0, 1, 2, 3]
    expected = ftkit.load_model(folder).predict([texts[i] for i in (0, 2, 3)])
    readable = found[found["body"].notna()]
    assert readable["label"].tolist() == [each.label for each in expected]
    assert readable["score"].tolist() == pytest.approx([each.score for each in expected], abs=1e-5)
    assert found["error"].isna().tolist() == [True, False, True, True]
    assert "where a text should be" in found["error"].iloc[1]
    assert pd.isna(found["label"].iloc[1])


def test_it_travels_to_workers(recipe, folder):
    """Spark pickles functions by value, as Ray does."""
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    answer = pickle.loads(cloudpickle.dumps(recipe.answering(folder)))
    (found,) = answer(iter([pd.DataFrame({"text": ["late"]})]))
    assert found["label"].notna().all()
