"""Weights that are opened, and one clear error for those that are not, or are not whole."""

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from ftkit.errors import CheckpointError
from ftkit.model.weights import check_whole, load_weights


def test_tensors_that_a_folder_lacks_are_named(tiny_checkpoint):
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    assert load_weights(AutoModel, str(tiny_checkpoint), "tiny", config)[1] == frozenset()
    model, missing = load_weights(AutoModelForMaskedLM, str(tiny_checkpoint), "tiny", config)
    assert missing
    assert all(name.startswith("cls.") for name in missing)
    assert missing <= set(model.state_dict())


def test_a_folder_without_weights_is_refused(tiny_checkpoint, tmp_path):
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    with pytest.raises(CheckpointError, match=r'weights of "mine" cannot be opened .*Check that'):
        load_weights(AutoModel, str(tmp_path), "mine", config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "lack 3 of the tensors .*such as bert.a"),
        ({"prefix": "bert."}, "lack 2 of the tensors .*such as bert.a"),
        ({"prefix": "bert.", "may_lack": ("pooler.",)}, "lack 1 of the tensors"),
        ({"may_lack": ("a", "head")}, None),
    ],
)
def test_what_may_be_missing(options, message):
    missing = {"bert.pooler.a", "bert.a", "head.a"}
    if message is None:
        check_whole(missing, "mine", **options)
        return
    with pytest.raises(CheckpointError, match=message):
        check_whole(missing, "mine", **options)
