"""Data looked over before a training: `check` in `check.py`, its parts one file each."""
