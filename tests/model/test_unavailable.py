"""Names of checkpoints that nobody can open: an error that says why."""

import json

import pytest

from ftkit.errors import CheckpointError
from ftkit.model.checkpoint import open_checkpoint
from ftkit.model.unavailable import why_unavailable
from ftkit.tasks import Classification


@pytest.mark.parametrize("name", ["gpt-4", "GPT-3.5-turbo", "openai/gpt-4o", "palm-2", "claude-3"])
def test_closed_models(name, tiny_data):
    with pytest.raises(CheckpointError, match="closed model: its weights were never published"):
        open_checkpoint(name, Classification(), tiny_data)


@pytest.mark.parametrize("name", ["transfo-xl-wt103", "transfo-xl/transfo-xl-wt103"])
def test_transformer_xl_by_name(name, tiny_data):
    with pytest.raises(CheckpointError, match="Transformer-XL, which transformers removed"):
        open_checkpoint(name, Classification(), tiny_data)


def test_transformer_xl_in_a_folder(tiny_data, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "transfo-xl"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="Transformer-XL"):
        open_checkpoint(tmp_path, Classification(), tiny_data)


@pytest.mark.parametrize("name", ["gpt2", "EleutherAI/gpt-neo-125m", "xlnet-base-cased", "my/palm"])
def test_open_ones_are_not_among_them(name):
    assert why_unavailable(name) is None
