"""The sweep starts the recipe as W&B's agent would, and finds there the score that it asks for."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.sdk.lib.config_util import save_config_file_from_dict
from wandb.util import get_core_path

ROOT = Path(__file__).parents[2]


def test_an_agent_can_run_the_sweep(tiny_checkpoint: Path, tmp_path: Path) -> None:
    sweep = yaml.safe_load((ROOT / "recipes" / "sweep.yaml").read_text("utf-8"))
    assert set(sweep["parameters"]) == {"lr", "epochs"}
    values = {
        "lr": {"value": 0.002},
        "epochs": {"value": sweep["parameters"]["epochs"]["values"][0]},
    }
    assert sweep["parameters"]["lr"]["min"] < 0.002 < sweep["parameters"]["lr"]["max"]
    filled = {
        **create_sweep_command_args({"args": values}),
        "env": ["/usr/bin/env"],
        "interpreter": [sys.executable],
        "program": [str(ROOT / sweep["program"])],
    }
    command: list[str] = []
    for part in create_sweep_command(sweep["command"]):
        command += filled[part[2:-1]] if part.startswith("${") else [part]
    save_config_file_from_dict(str(tmp_path / "chosen.yaml"), values)
    environment = {
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "s1",
        "WANDB_RUN_ID": "trial1",
        "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "chosen.yaml"),
        "WANDB_PROJECT": sweep["project"],
        "WANDB_DATA_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [*command, "--limit=24", f"--checkpoint={tiny_checkpoint}"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "sweep" / "task.json").exists()
    (file,) = tmp_path.glob("wandb/offline-run-*-trial1/run-trial1.wandb")
    inspect = [get_core_path(), "leet", "inspect", "--no-observability", "--summary", "--json"]
    read = subprocess.run(
        [*inspect, "--run-file", str(file), str(file.parents[1])], capture_output=True, check=True
    )
    run: dict[str, Any] = json.loads(read.stdout)
    assert (run["project"], run["config"]["lr"], run["config"]["epochs"]) == ("tickets", 0.002, 2)
    group, name = sweep["metric"]["name"].split("/")
    assert 0 <= run["summary"][f"{group}/{name}"] <= 1
