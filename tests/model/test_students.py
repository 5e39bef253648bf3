"""A checkpoint with fewer layers: whose they are, and that everything opens it."""

import pytest
import torch
from tiny_checkpoints import ARCHITECTURES, save_checkpoint

from ftkit.errors import CheckpointError, SettingError
from ftkit.model.checkpoint import open_as_saved
from ftkit.model.students import shallow, spread


@pytest.mark.unit
@pytest.mark.parametrize(
    ("depth", "layers", "kept"),
    [
        (12, 6, [0, 2, 4, 7, 9, 11]),  # DistilBERT's
        (6, 3, [0, 2, 5]),
        (6, 2, [0, 5]),
        (4, 1, [0]),
        (24, 4, [0, 8, 15, 23]),
    ],
)
def test_layers_at_equal_distances(depth, layers, kept):
    assert spread(depth, layers) == kept


# An albert has one layer, which it goes through many times.
@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"albert", "labse"}))
def test_half_of_every_architecture(name, tmp_path):
    from transformers import AutoModel

    texts = ["the parcel was late today", "how was it?"] * 100
    whole, _ = open_as_saved(save_checkpoint(name, texts, tmp_path / "whole"))
    folder = shallow(tmp_path / "whole", tmp_path / "half", layers=1)
    half, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    first = whole.state_dict()
    assert 0 < len(half.state_dict()) < len(first)
    for name, tensor in half.state_dict().items():
        assert torch.equal(tensor, first[name]), name


def test_the_last_layer_moves_up_and_the_head_comes_along(make_checkpoint, tmp_path):
    options = {"num_hidden_layers": 5, "num_labels": 3}
    checkpoint = make_checkpoint("bert", "ForSequenceClassification", **options)
    whole, _ = open_as_saved(checkpoint)
    model, tokenizer = open_as_saved(shallow(checkpoint, tmp_path / "model", layers=3))
    assert model.config.num_hidden_layers == 3
    for place, origin in enumerate([0, 2, 4]):
        layers = [m.bert.encoder.layer[i] for m, i in ((model, place), (whole, origin))]
        ours, theirs = (layer.state_dict() for layer in layers)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(model.classifier.weight, whole.classifier.weight)
    assert torch.isfinite(model(**tokenizer("refund", return_tensors="pt")).logits).all()


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_no_smaller_one(layers, tiny_checkpoint, tmp_path):
    with pytest.raises(SettingError, match=r"has 2 layer.*layers from 1 to 1"):
        shallow(tiny_checkpoint, tmp_path / "model", layers=layers)


def test_folders_that_cannot_be(tiny_checkpoint, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(SettingError, match="exists and is no checkpoint"):
        shallow(tiny_checkpoint, tmp_path / "full", layers=1)
    shallow(tiny_checkpoint, tmp_path / "model", layers=1)
    shallow(tiny_checkpoint, tmp_path / "model", layers=1)
    with pytest.raises(CheckpointError, match="no folder"):
        shallow(tmp_path / "none", tmp_path / "model", layers=1)
