"""Rows from anywhere, checked: sources, splits, the data check, the loaders, bundled samples."""
