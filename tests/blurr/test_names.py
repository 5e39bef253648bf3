"""The names given back at import, what is said where Blurr cannot be imported, and what stays."""

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pandas as pd
import pytest
from transformers import AutoTokenizer

from ftkit.blurr import names
from ftkit.errors import SettingError


def test_without_blurr_one_line_says_how_to_install_it(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(names, "version", version)
    with pytest.raises(SettingError) as caught:
        names.import_blurr()
    assert "pip install --no-deps ohmeow-blurr==1.0.5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(names, "version", lambda name: "0.0.33")
    with pytest.raises(SettingError, match=r"found 0\.0\.33"):
        names.import_blurr()


@pytest.mark.parametrize("missing", ["seqeval", "nltk"])
def test_a_package_that_blurr_needs_is_named(monkeypatch, missing):
    real = importlib.import_module

    def without(name, *arguments):
        if name.split(".")[0] in (missing, "blurr"):
            raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)
        return real(name, *arguments)

    monkeypatch.setattr(names.importlib, "import_module", without)
    with pytest.raises(SettingError, match=f"pip install {missing}"):
        names.import_blurr()


def test_frames_append_and_are_frames():
    import blurr.text.data.core as core

    grown = core.pd.DataFrame().append(pd.DataFrame({"a": [1]})).append(pd.DataFrame({"a": [2]}))
    assert grown["a"].tolist() == [1, 2]
    assert isinstance(grown, pd.DataFrame)
    assert type(grown[:1]) is pd.DataFrame
    assert not hasattr(pd.DataFrame, "append")


def test_targets_are_tokenized(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("t5"))
    with tokenizer.as_target_tokenizer():
        assert (
            tokenizer("my parcel")["input_ids"] == tokenizer(text_target="my parcel")["input_ids"]
        )


def test_targets_are_in_their_language():
    class Tongues:
        language = "source"

        def _switch_to_target_mode(self):
            self.language = "target"

        def _switch_to_input_mode(self):
            self.language = "source"

    tokenizer = Tongues()
    with names._as_target_tokenizer(tokenizer):
        assert tokenizer.language == "target"
    assert tokenizer.language == "source"


_SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = {path!r}
import datasets, fastcore.all, nltk, transformers
import pandas as pd
from tiny_checkpoints import save_checkpoint
import ftkit
import ftkit.learner.build
assert not any(name.split(".")[0] == "blurr" for name in sys.modules)
assert "ftkit.blurr" not in sys.modules
rows = [{{"text": f"the {{word}} is late", "label": word}} for word in ("bed", "lamp") * 12]
checkpoint = str(save_checkpoint("bert", [row["text"] for row in rows], {folder!r}))

def seen():
    learn = ftkit.classification_learner(rows, checkpoint, bs=8, precision="fp32")
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, slice(1e-4, 1e-2))
    learn.show_batch(max_n=2)
    weights = [float(p.double().sum()) for p in learn.model.parameters()]
    return {{
        "weights": weights,
        "predicted": learn.predict("the bed is late")[0],
        "verbosity": transformers.utils.logging.get_verbosity(),
        "fastcore": sorted(vars(fastcore.all)),
        "datasets": sorted(name for name in vars(datasets) if "metric" in name),
        "download": str(nltk.download),
        "append": hasattr(pd.DataFrame, "append"),
    }}

before = seen()
import ftkit.blurr
after = seen()
assert any(name == "blurr.text.modeling.all" for name in sys.modules)
print()
print(json.dumps({{key: before[key] == after[key] for key in before}}))
"""


def test_what_is_not_blurr_stays_as_it_was(tmp_path):
    code = _SCRIPT.format(path=sys.path, folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert all(json.loads(done.stdout.strip().splitlines()[-1]).values()), done.stdout
