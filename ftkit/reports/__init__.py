"""The page that a run leaves: what was trained, how good it is, and where it fails."""
