"""The Learner as built: it learns, takes fastai's verbs, and gives the same result each time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file

import ftkit
from ftkit.errors import DataError, SettingError


def weights(learn):
    return {name: each.clone() for name, each in learn.model.state_dict().items()}


def changed(before, learn):
    return {name for name, each in learn.model.state_dict().items() if (each != before[name]).any()}


def without_seconds(learn):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in learn.history.rows]


# It learns


def test_it_learns_and_records(fitted):
    rows = fitted.history.rows
    assert len(rows) == 6
    assert rows[-1]["valid_loss"] < 0.3 < rows[0]["valid_loss"]
    assert rows[-1]["accuracy"] >= 0.95
    assert list(rows[0]) == [
        *("epoch", "lr", "train_loss", "valid_loss", "accuracy", "macro_f1", "mcc", "seconds")
    ]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    names = ["epoch", "train_loss", "valid_loss", "accuracy", "macro_f1", "mcc", "time"]
    assert list(fitted.recorder.metric_names) == names
    assert len(fitted.recorder.values) == 6
    last = rows[-1]
    assert list(fitted.recorder.values[-1]) == [last[name] for name in names[1:-1]]


def test_history_has_the_highest_rate_of_each_epoch(fitted):
    rates = [row["lr"] for row in fitted.history.rows]
    assert max(rates) == pytest.approx(1e-2, rel=0.01)
    assert rates[-1] < rates[-2] < rates[2]


def test_label_counts(make_learner, tiny_data):
    two = tiny_data.filter(lambda row: row["label"] != "technical")
    for data, count in ((two, 2), (tiny_data, 3)):
        learn = make_learner(data)
        assert learn.model.hf_model.config.num_labels == count
        learn.fit_one_cycle(1, 1e-3)
        assert learn.get_preds()[0].shape == (len(data["validation"]), count)
    one = tiny_data.filter(lambda row: row["label"] == "billing")
    with pytest.raises(DataError, match='only the label "billing"'):
        make_learner(one)


def test_many_labels(make_learner):
    rows = [{"text": f"hello {i % 40}", "label": f"label {i % 40:02}"} for i in range(80)]
    learn = make_learner(DatasetDict({s: Dataset.from_list(rows) for s in ("train", "validation")}))
    learn.fit_one_cycle(1, 1e-3)
    assert learn.dls.train.dataset.task.labels == tuple(f"label {i:02}" for i in range(40))


# Rates, freezing, verbs


def rates_at_the_end(learn):
    return [group["lr"] for group in learn.opt.hypers]


def test_fit_one_cycle_spreads_a_slice_over_the_groups(make_learner):
    learn = make_learner()
    learn.fit_one_cycle(1, slice(1e-5, 1e-2))
    ends = np.array(rates_at_the_end(learn))
    assert len(ends) == 4  # embeddings, two layers, head
    assert ends / ends[-1] == pytest.approx(np.geomspace(1e-3, 1, 4), rel=1e-6)
    assert max(learn.recorder.lrs) == pytest.approx(1e-2, rel=0.05)
    # torch's own groups, two a layer group, have them too.
    for half in learn.opt.opt.param_groups:
        assert half["lr"] == rates_at_the_end(learn)[half["layer_group"]]


def test_fit_takes_a_rate_for_each_group(make_learner):
    learn = make_learner()
    before = weights(learn)
    learn.fit(1, lr=[0.0, 0.0, 1e-3, 2e-3], wd=0.0)
    assert rates_at_the_end(learn) == [0.0, 0.0, 1e-3, 2e-3]
    moved = changed(before, learn)
    assert any(".layer.1." in name for name in moved)
    assert not [name for name in moved if "embeddings" in name or ".layer.0." in name]


def test_freeze_leaves_the_head_alone_to_train(make_learner):
    learn = make_learner()
    learn.freeze()
    head = {name for name, p in learn.model.named_parameters() if p.requires_grad}
    assert head == {
        "hf_model.bert.pooler.dense.weight",
        "hf_model.bert.pooler.dense.bias",
        "hf_model.classifier.weight",
        "hf_model.classifier.bias",
    }
    before = weights(learn)
    learn.fit_one_cycle(1, 1e-3)
    assert changed(before, learn) == head


def test_unfreeze_and_freeze_to(make_learner):
    learn = make_learner()
    learn.freeze_to(-2)
    trainable = {name for name, p in learn.model.named_parameters() if p.requires_grad}
    assert any(".layer.1.attention.output.LayerNorm" in name for name in trainable)
    assert not any(".layer.0." in name or "embeddings" in name for name in trainable)
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())
    before = weights(learn)
    learn.fit_one_cycle(1, 1e-3)
    assert changed(before, learn) >= {name for name, _ in learn.model.named_parameters()}


def test_fine_tune(make_learner):
    learn = make_learner()
    before = weights(learn)
    learn.fine_tune(1, 1e-2, freeze_epochs=1)
    assert len(learn.history.rows) == 2
    assert len(changed(before, learn)) >= len(list(learn.model.parameters()))


def test_lr_find_changes_nothing(make_learner, capsys):
    learn = make_learner()
    before = weights(learn)
    capsys.readouterr()
    found = learn.lr_find(num_it=30, show_plot=False)
    assert 1e-7 < found.valley < 10
    assert not changed(before, learn)
    assert learn.history.rows == []
    assert capsys.readouterr().out == ""


def test_learn_save_and_load(make_learner):
    learn = make_learner()
    learn.fit_one_cycle(1, 1e-3)
    after_one = weights(learn)
    learn.save("one")
    learn.fit_one_cycle(1, 1e-3)
    assert changed(after_one, learn)
    learn.load("one")
    assert not changed(after_one, learn)


# Layers


def test_one_group_a_layer(make_learner, make_checkpoint):
    deep = make_checkpoint("bert", num_hidden_layers=5)
    for asked, expected in ((1, 3), (3, 5), (None, 7)):
        learn = make_learner(checkpoint=deep, body_groups=asked)
        groups = learn.splitter(learn.model)
        assert len(groups) == expected
        assert sum(map(len, groups)) == len(list(learn.model.parameters()))
    with pytest.raises(SettingError, match="body_groups is 0"):
        make_learner(body_groups=0)


def test_layers_drawn_anew_learn_with_the_head(make_learner):
    plain, learn, again, other = (
        make_learner(reinit_layers=n, seed=seed) for n, seed in ((0, 42), (1, 42), (1, 42), (1, 7))
    )
    drawn = changed(weights(plain), learn)
    assert all(".layer.1." in name or "pooler" in name for name in drawn)
    assert any(".layer.1.output.dense.weight" in name for name in drawn)
    assert not changed(weights(learn), again)
    assert changed(weights(learn), other)
    learn.freeze()
    trainable = {name for name, p in learn.model.named_parameters() if p.requires_grad}
    assert drawn < trainable
    assert not any(".layer.0." in name for name in trainable)
    with pytest.raises(SettingError, match="reinit_layers is 3, and there are 2 layers"):
        make_learner(reinit_layers=3)


def test_show_groups(make_learner, capsys):
    learn = make_learner(lr=slice(1e-3))
    learn.freeze_to(2)
    before = weights(learn)
    learn.show_groups()
    learn.show_groups(ftkit.LayerDecay(2e-3, 0.5))
    lines = [line.rsplit(maxsplit=4) for line in capsys.readouterr().out.splitlines()]
    assert lines[0][0].split() == ["group", "holds"]
    table = lines[1:5]
    assert [line[0].split(maxsplit=1) for line in table] == [
        ["0", "embeddings"],
        ["1", "encoder.layer.0"],
        ["2", "encoder.layer.1"],
        ["3", "pooler, classifier"],
    ]
    assert [int(line[1]) for line in table] == [5, 16, 16, 4]
    counted = sum(int(line[2].replace(",", "")) for line in table)
    assert counted == sum(p.numel() for p in learn.model.parameters())
    assert [line[3] for line in table] == ["no", "no", "yes", "yes"]
    assert [float(line[4]) for line in table] == [1e-4, 1e-4, 1e-4, 1e-3]
    assert [float(line[4]) for line in lines[6:]] == [2.5e-4, 5e-4, 1e-3, 2e-3]
    assert not changed(before, learn)
    assert [h["lr"] for h in learn.opt.hypers] == [1e-4, 1e-4, 1e-4, 1e-3]
    with pytest.raises(SettingError, match="there are 4 groups"):
        learn.show_groups([1e-3, 1e-3])


# The same again


def test_same_seed_same_bits(make_learner):
    first, again, other = make_learner(), make_learner(), make_learner(seed=7)
    # What only looks must not change what follows.
    again.show_batch(max_n=2)
    again.predict("hello")
    again.get_preds(ds_idx=0)
    again.lr_find(num_it=20, show_plot=False)
    torch.rand(3)
    for learn in (first, again, other):
        learn.fit_one_cycle(1, 1e-3)
        learn.fit_one_cycle(1, 1e-3)
    assert not changed(weights(first), again)
    assert without_seconds(first) == without_seconds(again)
    assert changed(weights(first), other)


def test_head_is_drawn_by_seed(make_learner):
    heads = [make_learner(seed=seed).model.hf_model.classifier.weight for seed in (1, 1, 2)]
    assert (heads[0] == heads[1]).all()
    assert (heads[0] != heads[2]).any()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_that_cannot_be(make_learner, seed):
    with pytest.raises(SettingError, match="seed is"):
        make_learner(seed=seed)


# Batches


def test_max_tokens_bounds_every_batch(make_learner):
    learn = make_learner(max_tokens=64)
    seen = []
    for inputs, _ in learn.dls.train:
        assert inputs["input_ids"].numel() <= 64
        seen += inputs["row"].tolist()
    assert sorted(seen) == list(range(96))
    learn.fit_one_cycle(1, 1e-3)
    assert math.isfinite(learn.history.rows[-1]["valid_loss"])


@pytest.mark.parametrize("options", [{"bs": 0}, {"max_tokens": 0}, {"bs": -1}])
def test_batches_that_cannot_be(make_learner, options):
    with pytest.raises(SettingError, match=r"Give 1 or more"):
        make_learner(**options)


# Kinds of the task


def test_class_weights_and_smoothing_reach_the_loss(make_learner):
    task = ftkit.Classification(class_weights={"billing": 3.0}, label_smoothing=0.1)
    learn = make_learner(task=task)
    learn.fit_one_cycle(1, 1e-3)
    scores, targets, losses = learn.get_preds(with_loss=True)
    expected = F.cross_entropy(
        scores.log(),
        targets,
        weight=torch.tensor([3.0, 1.0, 1.0]),
        label_smoothing=0.1,
        reduction="none",
    )
    assert losses.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert learn.validate()[0] == pytest.approx(expected.mean().item(), abs=1e-5)


def test_multi_label(make_learner, multi_data):
    learn = make_learner(multi_data)
    learn.fit_one_cycle(10, 1e-2)
    rows = learn.history.rows
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert rows[-1]["micro_f1"] > 0.75
    labels, decided, scores = learn.predict("refund invoice payment fee")
    assert scores.argmax() == 0
    names = ("billing", "delivery", "technical")
    assert labels == ", ".join(n for n, is_in in zip(names, decided, strict=True) if is_in)


def test_multi_label_decisions_use_the_chosen_threshold(make_learner, multi_data):
    learn = make_learner(multi_data)
    learn.fit_one_cycle(1, 1e-4)  # hardly trained: all scores near a half
    chosen = learn.task_scores.trained_task.threshold
    assert chosen is not None
    scores, _, decided = learn.get_preds(with_decoded=True)
    assert torch.equal(decided, (scores >= chosen).float())
    # Rows whose labels are made up must not choose.
    learn.predict("hello")
    learn.get_preds(dl=learn.dls.test_dl(["hello", "again"]))
    learn.get_preds(ds_idx=0)
    learn.lr_find(num_it=10, show_plot=False)
    assert learn.task_scores.trained_task.threshold == chosen


def test_regression(make_learner, tiny_data):
    values = {"billing": 0.0, "delivery": 1.0, "technical": 2.0}
    data = tiny_data.map(lambda row: {"value": values[row["label"]]}).remove_columns("label")
    data = data.rename_column("value", "label")
    learn = make_learner(data)
    learn.fit_one_cycle(6, 1e-2)
    rows = learn.history.rows
    assert rows[-1]["mae"] < 0.4
    assert rows[-1]["spearman"] > 0.8
    _, value, score = learn.predict("crash error login")
    assert value.item() == score.item() == pytest.approx(2.0, abs=0.6)


def test_pairs_are_both_read(make_learner, tiny_data):
    """The label stands in the second text alone."""
    data = tiny_data.rename_column("text", "text_pair").map(lambda row: {"text": "hello my"})
    learn = make_learner(data)
    learn.fit_one_cycle(7, 1e-2)
    assert learn.history.rows[-1]["accuracy"] > 0.9
    assert learn.predict(("hello my", "refund invoice payment"))[0] == "billing"
    assert learn.predict({"text": "hello my", "text_pair": "courier late"})[0] == "delivery"


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_windows_see_the_end_of_a_long_text(make_learner, tiny_data):
    filler = "hello my the a is was and it please i " * 2
    long = [{**row, "text": f"{filler} {row['text']}"} for row in tiny_data["validation"]]
    data = {"train": tiny_data["train"], "validation": long}
    accuracy = {}
    for how in ("head", "tail", "windows"):
        task = ftkit.Classification(long_texts=how, max_length=20, stride=4)
        learn = make_learner(data, task=task)
        learn.fit_one_cycle(5, 1e-2)
        accuracy[how] = learn.history.rows[-1]["accuracy"]
    assert accuracy["head"] < 0.6
    assert accuracy["tail"] > 0.9
    assert accuracy["windows"] > 0.65


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_a_row_of_100_000_characters(make_learner, tiny_data, tmp_path):
    giant = {"text": "refund invoice again " * 4762, "label": "billing"}
    assert len(giant["text"]) > 100_000
    data = DatasetDict(
        {
            split: Dataset.from_list([*tiny_data[split].select(range(12)), giant])
            for split in ("train", "validation")
        }
    )
    learn = make_learner(data, task=ftkit.Classification(long_texts="windows", stride=8))
    longest = max(len(inputs["input_ids"]) for inputs, _ in learn.dls.train)
    assert longest <= 8  # windows a batch, whatever the row has
    learn.fit_one_cycle(1, 1e-3)
    assert math.isfinite(learn.history.rows[-1]["train_loss"])
    scores = learn.predict(giant["text"])[2]
    model = ftkit.load_model(ftkit.save(learn, tmp_path / "model"))
    answer = model.predict([giant["text"]])[0]
    assert list(answer.scores.values()) == pytest.approx(sorted(scores.tolist())[::-1], abs=1e-5)


def test_looking_at_windows_changes_nothing(make_learner, tiny_data):
    filler = "hello my the a is was and it please i " * 30
    long = tiny_data.map(lambda row: {"text": f"{filler} {row['text']}"})
    task = ftkit.Classification(long_texts="windows", max_length=16, stride=0)
    first, again = (make_learner(long, task=task, bs=4) for _ in range(2))
    again.show_batch(max_n=1)
    batches = [[x["input_ids"] for x, _ in learn.dls.train] for learn in (first, again)]
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


@pytest.mark.slow
def test_minilm_learns(minilm, tiny_data, tmp_path):
    learn = ftkit.classification_learner(tiny_data, minilm, bs=16, path=tmp_path, precision="fp32")
    learn.fit_one_cycle(2, slice(2e-5, 2e-3))
    assert learn.history.rows[-1]["accuracy"] > 0.9


# Memory and speed


def gradients(learn):
    torch.manual_seed(0)
    inputs, targets = learn.dls.valid.one_batch()
    learn.model.train()  # With dropout, which must fall alike the second time.
    learn.loss_func(learn.model(inputs), targets).backward()
    return {name: p.grad for name, p in learn.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2", "t5", "bart"])
def test_gradient_checkpointing_changes_no_gradient(architecture, make_learner, make_checkpoint):
    folder = make_checkpoint(architecture)
    for is_frozen in (False, True):
        found = []
        for is_on in (False, True):
            learn = make_learner(checkpoint=folder, gradient_checkpointing=is_on)
            learn.model.first_token_from = None  # or dropout is drawn for less
            if is_frozen:
                learn.freeze()
            found.append(gradients(learn))
        assert found[0].keys() == found[1].keys()
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-6)


def test_gradient_checkpointing_computes_layers_again(make_learner):
    for is_on in (False, True):
        learn, calls = make_learner(gradient_checkpointing=is_on), []
        layer = learn.model.hf_model.bert.encoder.layer[0].attention
        layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        gradients(learn)
        assert len(calls) == 1 + is_on
    learn.freeze()
    gradients(learn)
    assert len(calls) == 3  # nothing of a frozen layer is computed again


def test_gradient_checkpointing_where_it_cannot_be(make_learner, make_checkpoint):
    with pytest.raises(SettingError, match="AlbertForSequenceClassification cannot compute"):
        make_learner(checkpoint=make_checkpoint("albert"), gradient_checkpointing=True)


def test_a_compiled_model_is_saved_as_any_other(make_learner, tiny_data, tmp_path):
    plain, compiled = make_learner(), make_learner(compile="eager")
    plain.model.first_token_from = None  # or dropout is drawn for less
    torch.compiler.reset()
    for learn in (plain, compiled):
        learn.fit_one_cycle(1, 1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    folders = [ftkit.save(learn, tmp_path / str(i)) for i, learn in enumerate((plain, compiled))]
    names = [set(load_file(folder / "model.safetensors")) for folder in folders]
    assert names[0] == names[1]
    answers = [ftkit.load_model(f).predict(tiny_data["test"]["text"]) for f in folders]
    for a, b in zip(*answers, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-5)


def test_a_backend_that_is_not_there(make_learner):
    with pytest.raises(SettingError, match=r'no backend "fast".*inductor'):
        make_learner(compile="fast")
