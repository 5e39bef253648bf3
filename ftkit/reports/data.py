"""The section on the data, from what the check of the rows found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftkit.reports.page import Section


def data_section(check: Mapping[str, Any]) -> Section:
    """Findings, balance of labels and lengths."""
    return Section("The data")
