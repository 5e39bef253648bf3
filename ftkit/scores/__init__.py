"""Scores gathered batch by batch: of labels, entities, answers and texts."""
