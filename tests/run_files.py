"""What a finished run leaves, by name, in order."""

RUN_FILES = [
    "check.json",
    "history.csv",
    "metrics.json",
    "model",
    "report.html",
    "resamples.safetensors",
    "run.toml",
]
