"""Checkpoints and the module around them. Never meets `data`; imports `task` and `errors`."""
