"""Tiny random checkpoints of every architecture the field knows, made on the spot.

A table of configs, four kinds of tokenizer trained on a few words, and the function that puts
them into a folder as a hub checkpoint would be.
"""

from pathlib import Path
from typing import Any

# Enough for every text of the architecture test, and short enough to need windows.
LENGTH = 64

_WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_BERT = {
    **_WIDE,
    "intermediate_size": 64,
    "max_position_embeddings": LENGTH,
    # Five times the usual: else so narrow a model answers the same to every text.
    "initializer_range": 0.1,
}
_ROBERTA = {**_BERT, "max_position_embeddings": LENGTH + 2, "type_vocab_size": 1}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "head_dim": 16}
_T5 = {
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
_BART = {
    "init_std": 0.1,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": LENGTH,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}

_ROBERTA_TOKENS = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
_ROBERTA_TOKENS |= {"cls": "<s>", "sep": "</s>", "mask": "<mask>"}
_ROBERTA_ENDS = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")

# Architecture -> its model_type in transformers, its kind of tokenizer, its config.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", "wordpiece", _BERT),
    "roberta": ("roberta", "bytes", _ROBERTA),
    "xlm": (
        "xlm",
        "wordpiece",
        {
            "init_std": 0.1,
            "embed_init_std": 0.1,
            "emb_dim": 32,
            "n_layers": 2,
            "n_heads": 2,
            "max_position_embeddings": LENGTH,
        },
    ),
    "xlm-roberta": ("xlm-roberta", "pieces", _ROBERTA),
    "ernie": ("ernie", "wordpiece", _BERT),
    "xlnet": (
        "xlnet",
        "left",
        {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "initializer_range": 0.1},
    ),
    "albert": ("albert", "pieces", {**_BERT, "embedding_size": 16}),
    "distilbert": (
        "distilbert",
        "wordpiece",
        {
            "initializer_range": 0.1,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 64,
            "max_position_embeddings": LENGTH,
        },
    ),
    "electra": ("electra", "wordpiece", {**_BERT, "embedding_size": 16}),
    "deberta": (
        "deberta",
        "wordpiece",
        {**_BERT, "relative_attention": True, "pos_att_type": "c2p|p2c"},
    ),
    "deberta-v2": (
        "deberta-v2",
        "pieces",
        {**_BERT, "relative_attention": True, "pos_att_type": "c2p|p2c"},
    ),
    "modernbert": ("modernbert", "wordpiece", {**_BERT, "global_attn_every_n_layers": 2}),
    "longformer": ("longformer", "bytes", {**_ROBERTA, "attention_window": [8, 8]}),
    "gpt2": (
        "gpt2",
        "decoder",
        {
            "initializer_range": 0.1,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": LENGTH,
        },
    ),
    "ctrl": (
        "ctrl",
        "decoder",
        {
            "initializer_range": 0.1,
            "n_embd": 32,
            "dff": 64,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": LENGTH,
        },
    ),
    "gpt-neox": ("gpt_neox", "decoder", _BERT),
    "bloom": (
        "bloom",
        "decoder",
        {"initializer_range": 0.1, "hidden_size": 32, "n_layer": 2, "n_head": 2},
    ),
    "llama": ("llama", "decoder", _LLAMA),
    "opt": (
        "opt",
        "decoder",
        {**_WIDE, "init_std": 0.1, "ffn_dim": 64, "word_embed_proj_dim": 32}
        | {"max_position_embeddings": LENGTH},
    ),
    "qwen3": ("qwen3", "decoder", _LLAMA),
    "gemma3": ("gemma3_text", "decoder", {**_LLAMA, "query_pre_attn_scalar": 16}),
    "t5": ("t5", "t5", _T5),
    "mt5": ("mt5", "t5", _T5),
    "bart": ("bart", "bytes", _BART),
    "mbart": ("mbart", "bytes", _BART),
    "pegasus": ("pegasus", "t5", {**_BART, "decoder_start_token_id": 0, "forced_eos_token_id": 1}),
    "led": (
        "led",
        "bytes",
        {
            **_BART,
            "max_encoder_position_embeddings": LENGTH,
            "max_decoder_position_embeddings": LENGTH,
            "attention_window": [8, 8],
        },
    ),
    "labse": ("bert", "wordpiece", {**_BERT, "vocab_size": 20_000}),
}


def save_checkpoint(name: str, texts: list[str], folder: Path) -> Path:
    """Write the headless checkpoint of an architecture, random but the same every time."""
    import torch
    import transformers

    model_type, kind, config = ARCHITECTURES[name]
    tokenizer = train_tokenizer(kind, texts)
    special = {
        f"{each}_token_id": getattr(tokenizer, f"{each}_token_id") for each in ("bos", "eos", "pad")
    }
    settings = {"vocab_size": len(tokenizer), **special, **config}
    for each in ("cls", "sep"):
        if model_type == "modernbert":
            settings[f"{each}_token_id"] = getattr(tokenizer, f"{each}_token_id")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(
            transformers.AutoConfig.for_model(model_type, **settings)
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_model(name: str, **config: Any) -> Any:
    """A random model of an architecture, for classification where it has such a head."""
    import torch
    import transformers

    model_type, _, settings = ARCHITECTURES[name]
    config = {"vocab_size": 100, "pad_token_id": 0, **settings, **config}
    made = transformers.AutoConfig.for_model(model_type, **config)
    auto = transformers.AutoModelForSequenceClassification
    if type(made) not in auto._model_mapping:
        auto = transformers.AutoModelForSeq2SeqLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto.from_config(made).eval()


def train_tokenizer(kind: str, texts: list[str]) -> Any:
    """A fast tokenizer of a kind, trained on the texts.

    "wordpiece" as BERT's, "bytes" as RoBERTa's, "pieces" as XLM-RoBERTa's, "left" as XLNet's
    (special tokens at the end, padding on the left), "t5", "decoder" as GPT-2's (no padding).
    """
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    options: dict[str, Any] = {"model_input_names": ["input_ids", "attention_mask"]}
    if kind == "wordpiece":
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=list(names.values()), show_progress=False
        )
        ends = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
        options["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    elif kind in ("bytes", "decoder"):
        names, ends = _ROBERTA_TOKENS, _ROBERTA_ENDS
        if kind == "decoder":
            names, ends = {"bos": "<|end|>", "eos": "<|end|>"}, ("", "")
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(dict.fromkeys(names.values())),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        names = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
        ends = ("$A </s>", "$A </s> $B </s>")
        if kind != "t5":
            names, ends = _ROBERTA_TOKENS, _ROBERTA_ENDS
        if kind == "left":
            names = {**names, "cls": "<cls>", "sep": "<sep>"}
            ends = ("$A <sep> <cls>", "$A <sep> $B <sep> <cls>")
            options["padding_side"] = "left"
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300,
            special_tokens=list(dict.fromkeys(names.values())),
            unk_token="<unk>",
            show_progress=False,
        )
    backend.train_from_iterator(texts, trainer)
    if ends[0]:
        used = {token for token in " ".join(ends).replace(":1", "").split() if token[0] != "$"}
        backend.post_processor = processors.TemplateProcessing(
            single=ends[0],
            pair=ends[1],
            special_tokens=[(token, backend.token_to_id(token)) for token in sorted(used)],
        )
    tokens = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens, **options)
