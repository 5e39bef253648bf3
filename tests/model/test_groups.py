"""Layer groups: every parameter once, embeddings first and head last, on any architecture."""

import pytest
import torch
from tiny_checkpoints import ARCHITECTURES, build_model
from torch import nn

from ftkit.model.groups import describe_groups, layer_groups
from ftkit.model.module import TextModel
from ftkit.tasks import Classification

HEAD = "ForSequenceClassification"
MODELS = [
    ("bert", HEAD, {}),
    ("bert", "ForMaskedLM", {}),
    ("bert", "ForTokenClassification", {}),
    ("roberta", HEAD, {}),
    ("distilbert", HEAD, {}),
    ("albert", HEAD, {}),
    ("gpt2", HEAD, {"pad_token_id": 0}),
    ("gpt2", "LMHeadModel", {}),
    ("t5", HEAD, {}),
    ("t5", "ForConditionalGeneration", {}),
    ("bart", HEAD, {}),
    ("bart", "ForConditionalGeneration", {}),
]


@pytest.fixture(params=MODELS, ids=lambda each: "-".join(each[:2]))
def model(request, tiny_model):
    architecture, head, config = request.param
    return TextModel(tiny_model(architecture, head, **config), Classification())


def names_of(model: nn.Module, groups) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group] for group in groups]


def test_every_parameter_is_in_one_group(model):
    groups = layer_groups(model)
    found = [id(parameter) for group in groups for parameter in group]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in model.parameters()}
    assert all(groups)


def test_embeddings_stand_first(model):
    (first, *rest) = layer_groups(model)
    embedded = {
        id(p)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and "attention_bias" not in name
        for p in module.parameters()
    }
    assert embedded <= {id(p) for p in first}
    assert not embedded & {id(p) for group in rest for p in group}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_group_a_layer(architecture):
    model = build_model(architecture)
    groups = layer_groups(model, body_groups=None)
    found = [id(parameter) for group in groups for parameter in group]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in model.parameters()}
    (first, *body, last) = names_of(model, groups)
    depths = [{next(part for part in n.split(".") if part.isdigit()) for n in g} for g in body]
    assert depths == ([{"0"}] if architecture == "albert" else [{"0"}, {"1"}])
    assert not [name for name in [*first, *last] if any(part.isdigit() for part in name.split("."))]
    heads = ("classifi", "score", "sequence_summary", "decoder.layer")
    assert any(head in name for name in last for head in heads)
    assert not any("classifi" in name for name in first)


@pytest.mark.parametrize(
    ("architecture", "head", "in_last"),
    [
        ("bert", HEAD, {"pooler.dense.weight", "classifier.weight"}),
        ("bert", "ForTokenClassification", {"classifier.weight"}),
        ("roberta", HEAD, {"classifier.dense.weight", "classifier.out_proj.weight"}),
        ("distilbert", HEAD, {"pre_classifier.weight", "classifier.weight"}),
        ("albert", HEAD, {"pooler.weight", "classifier.weight"}),
        ("gpt2", HEAD, {"ln_f.weight", "score.weight"}),
        ("t5", HEAD, {"classification_head.dense.weight", "classification_head.out_proj.weight"}),
        ("bart", HEAD, {"classification_head.dense.weight", "classification_head.out_proj.weight"}),
    ],
)
def test_the_head_stands_last_and_holds_no_layer(tiny_model, architecture, head, in_last):
    model = TextModel(tiny_model(architecture, head), Classification())
    last = names_of(model, layer_groups(model))[-1]
    assert all(any(name.endswith(part) for name in last) for part in in_last)
    layers = (".layer.", ".layers.", ".h.", ".block.", "albert_layer_groups")
    assert not [name for name in last if any(part in name for part in layers)]


@pytest.mark.parametrize(
    ("layers", "body_groups", "expected"),
    [
        (2, 3, [[0], [1]]),
        (3, 3, [[0], [1], [2]]),
        (6, 3, [[0, 1], [2, 3], [4, 5]]),
        (7, 3, [[0, 1, 2], [3, 4], [5, 6]]),
        (12, 3, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        (4, 1, [[0, 1, 2, 3]]),
        (4, 9, [[0], [1], [2], [3]]),
        (5, None, [[0], [1], [2], [3], [4]]),
    ],
)
def test_layers_are_cut_by_depth(tiny_model, layers, body_groups, expected):
    model = tiny_model("bert", HEAD, num_hidden_layers=layers)
    groups = names_of(model, layer_groups(model, body_groups=body_groups))
    assert len(groups) == len(expected) + 2
    found = [
        sorted({int(name.split(".layer.")[1].split(".")[0]) for name in group})
        for group in groups[1:-1]
    ]
    assert found == expected


def test_encoder_and_decoder_are_cut_together(tiny_model):
    model = tiny_model("bart", HEAD, encoder_layers=4, decoder_layers=2)
    groups = names_of(model, layer_groups(model, body_groups=2))
    for group, encoder, decoder in ((1, {"0", "1"}, {"0"}), (2, {"2", "3"}, {"1"})):
        for half, depths in (("encoder", encoder), ("decoder", decoder)):
            found = {
                name.split(".layers.")[1].split(".")[0]
                for name in groups[group]
                if f"{half}.layers" in name
            }
            assert found == depths


@pytest.mark.parametrize(
    ("architecture", "body_groups", "expected"),
    [
        ("bert", 3, ["embeddings", "encoder.layer.0", "encoder.layer.1", "pooler, classifier"]),
        ("bert", 1, ["embeddings", "encoder", "pooler, classifier"]),
        (
            "t5",
            2,
            [
                "shared, encoder.final_layer_norm",
                *(f"encoder.block.{i}, decoder.block.{i}" for i in (0, 1)),
                "decoder.final_layer_norm, classification_head",
            ],
        ),
    ],
)
def test_groups_are_described(architecture, body_groups, expected):
    model = build_model(architecture)
    assert describe_groups(model, layer_groups(model, body_groups=body_groups)) == expected


def test_runs_of_layers_and_tied_weights_are_named_once(tiny_model):
    model = tiny_model("bert", "ForMaskedLM", num_hidden_layers=5)
    (first, *body, last) = describe_groups(model, layer_groups(model, body_groups=2))
    assert (first, last) == ("embeddings", "cls")
    assert body == ["encoder.layer.0-2", "encoder.layer.3-4"]
    apart = [p for i in (0, 2, 3) for p in model.bert.encoder.layer[i].parameters()]
    assert describe_groups(model, [apart, [*model.bert.encoder.layer[1].parameters()]]) == [
        "encoder.layer.0, encoder.layer.2-3",
        "encoder.layer.1",
    ]


def test_parameters_in_no_group_are_passed_over(tiny_model):
    model = tiny_model("bert", HEAD)
    chosen = frozenset(name for name, _ in model.named_parameters() if "query" in name)
    described = describe_groups(model, layer_groups(model, chosen))
    assert described == ["encoder.layer.0", "encoder.layer.1"]
    assert describe_groups(model, [list(model.parameters())]) == ["model"]


def test_tied_weights_are_there_once_with_the_embeddings(tiny_model):
    model = tiny_model("bert", "ForMaskedLM")
    tied = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is tied
    groups = layer_groups(model)
    assert sum(parameter is tied for group in groups for parameter in group) == 1
    assert any(parameter is tied for parameter in groups[0])


def test_only_leaves_the_others_out(model):
    chosen = frozenset(name for name, _ in model.named_parameters() if "attention" in name)
    groups = layer_groups(model, chosen)
    found = [name for group in names_of(model, groups) for name in group]
    assert sorted(found) == sorted(chosen)
    assert all(groups)
    everything = names_of(model, layer_groups(model))
    where = {name: i for i, group in enumerate(everything) for name in group}
    order = [where[name] for name in found]
    assert order == sorted(order)


def test_only_the_head(tiny_model):
    model = tiny_model("bert", HEAD)
    groups = layer_groups(model, frozenset({"classifier.weight", "classifier.bias"}))
    assert names_of(model, groups) == [["classifier.weight", "classifier.bias"]]


def test_a_model_without_layers_is_one_group_or_two():
    model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 2))
    assert names_of(model, layer_groups(model)) == [["0.weight"], ["1.weight", "1.bias"]]
    assert len(layer_groups(nn.Linear(2, 2))) == 1
    assert layer_groups(nn.ReLU()) == []


def test_small_lists_beside_the_layers_are_no_layers():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 8)
            self.adapters = nn.ModuleList(nn.Linear(1, 1) for _ in range(4))
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
            self.heads = nn.ModuleList([nn.Linear(8, 1)])

    model = Model()
    assert names_of(model, layer_groups(model)) == [
        [
            "embed.weight",
            *(f"adapters.{i}.{part}" for i in range(4) for part in ("weight", "bias")),
        ],
        ["layers.0.weight", "layers.0.bias"],
        ["layers.1.weight", "layers.1.bias"],
        ["heads.0.weight", "heads.0.bias"],
    ]


def test_groups_train_at_their_own_rates(tiny_model):
    model = TextModel(tiny_model("bert", HEAD), Classification())
    groups = layer_groups(model)
    optimizer = torch.optim.SGD([{"params": g, "lr": float(i)} for i, g in enumerate(groups)])
    before = [[p.clone() for p in group] for group in groups]
    inputs = {"input_ids": torch.tensor([[2, 7, 3]]), "attention_mask": torch.ones(1, 3).long()}
    model(inputs).square().sum().backward()
    optimizer.step()
    moved = [
        any(not torch.equal(p, old) for p, old in zip(group, olds, strict=True))
        for group, olds in zip(groups, before, strict=True)
    ]
    assert moved == [False, True, True, True]
