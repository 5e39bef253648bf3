"""What of accelerate's config for FSDP is carried out, and what of it and of models is refused.

test_distributed.py trains in shares.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import ftkit
from ftkit.errors import SettingError
from ftkit.learner.sharding import Sharing, asked_sharing, check_precision, check_shareable

# As the launcher of accelerate says what a config leaves out, but for the first two.
USUAL = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_MIN_NUM_PARAMS": "100000000",
    "FSDP_FORWARD_PREFETCH": "false",
    "FSDP_USE_ORIG_PARAMS": "true",
    "FSDP_SYNC_MODULE_STATES": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "false",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_MIXED_PRECISION": "no",
}
LAYERS = Sharing(layers=None, reshard_after_forward=True, recomputes=False)


@pytest.fixture
def say(monkeypatch):
    """Sets the environment as the launcher does, with changes."""

    def set_all(**changes):
        for name, value in {**USUAL, **changes}.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.unit
def test_what_is_carried_out(say, monkeypatch):
    assert asked_sharing() is None
    say()
    assert asked_sharing() == LAYERS
    say(
        FSDP_RESHARD_AFTER_FORWARD="false",
        FSDP_ACTIVATION_CHECKPOINTING="true",
        FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
        FSDP_TRANSFORMER_CLS_TO_WRAP="BertLayer, BertPooler",
        FSDP_STATE_DICT_TYPE="FULL_STATE_DICT",
        FSDP_BACKWARD_PREFETCH="BACKWARD_PRE",
    )
    wanted = Sharing(("BertLayer", "BertPooler"), reshard_after_forward=False, recomputes=True)
    assert asked_sharing() == wanted
    say(FSDP_AUTO_WRAP_POLICY="NO_WRAP")
    found = asked_sharing()
    assert found is not None
    assert found.layers == ()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("FSDP_VERSION", "1", "2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "false"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "false"),
        ("FSDP_RESHARD_AFTER_FORWARD", "shard_grad_op", "true"),
        ("FSDP_AUTO_WRAP_POLICY", "size_based_wrap", "transformer_based_wrap"),
        ("FSDP_STATE_DICT_TYPE", "sharded_state_dict", "full_state_dict"),
        ("FSDP_SHARDING_STRATEGY", "hybrid_shard", "full_shard"),
        ("FSDP_BACKWARD_PREFETCH", "backward_post", "backward_pre"),
        ("FSDP_FORWARD_PREFETCH", "true", "false"),
        ("FSDP_USE_ORIG_PARAMS", "false", "true"),
        ("FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD", "true", "false"),
    ],
)
def test_what_is_not_carried_out_is_refused(say, name, value, wanted):
    say(**{name: value.upper()})
    line = name.lower()
    with pytest.raises(SettingError, match=rf"{line}: {value}, .* write {line}: {wanted}\."):
        asked_sharing()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("FSDP_IGNORED_MODULES", "head", "fsdp_ignored_modules"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "dynamo_config"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism_config"),
    ],
)
def test_what_must_be_left_out_is_refused(say, name, value, line):
    say(**{name: value})
    with pytest.raises(SettingError, match=rf"has {line}, .* leave out {line}\."):
        asked_sharing()


@pytest.mark.unit
def test_all_that_is_refused_is_said_at_once(say):
    # Without a version, accelerate takes the first.
    say(FSDP_VERSION="", FSDP_OFFLOAD_PARAMS="true")
    with pytest.raises(SettingError, match="write fsdp_version: 2, write fsdp_offload_params"):
        asked_sharing()


@pytest.mark.unit
def test_precision_is_one(monkeypatch):
    with pytest.raises(SettingError, match=r'fp16 does not work under FSDP.* precision="bf16"'):
        check_precision("fp16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    check_precision("bf16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_precision("bf16")
    with pytest.raises(SettingError, match="mixed_precision: bf16, and the Learner fp32"):
        check_precision("fp32")


def test_models_that_cannot_be_shared_are_refused(tiny_model):
    bert = tiny_model("bert", "ForSequenceClassification")
    check_shareable(bert, LAYERS, compile=False)
    with pytest.raises(SettingError, match="compile and FSDP"):
        check_shareable(bert, LAYERS, compile=True)
    named = Sharing(("BertLayer", "T5Block"), reshard_after_forward=True, recomputes=False)
    with pytest.raises(SettingError, match=r'no "T5Block".* ftkit finds the layers'):
        check_shareable(bert, named, compile=False)
    with pytest.raises(SettingError, match=r"encoder_layerdrop is 0.1.* config.json"):
        check_shareable(tiny_model("bart", encoder_layerdrop=0.1), LAYERS, compile=False)
    bert.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(SettingError, match="scale is one number"):
        check_shareable(bert, LAYERS, compile=False)
    llama = tiny_model("llama")
    llama.config.num_experts = 8
    with pytest.raises(SettingError, match="a model of experts"):
        check_shareable(llama, LAYERS, compile=False)


@pytest.mark.unit
def test_the_docs_show_the_config():
    root = Path(ftkit.__file__).parents[1]
    page = (root / "docs" / "how-to" / "several-gpus.md").read_text("utf-8")
    config = (root / "recipes" / "fsdp.yaml").read_text("utf-8")
    shown = re.search(r"```text\n(compute_environment.+?)```", page, flags=re.DOTALL)
    assert shown is not None
    assert config.endswith(shown[1])
    assert config.removesuffix(shown[1]).startswith("#")
