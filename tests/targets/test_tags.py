"""TagSet: legal sequences, repaired or searched for, whatever the order of the labels."""

import itertools

import numpy as np
import pytest
import torch

from ftkit.arrays import softmax
from ftkit.spans import entities_of_tags, illegal_places, tags_of_entities
from ftkit.targets.tags import TagSet, tags_of_types

pytestmark = pytest.mark.unit
TAGS = TagSet(tags_of_types(["b", "a"]))
# The order of a checkpoint of another's making.
SHUFFLED = TagSet(("I-b", "B-a", "O", "I-a", "B-b"))


def names(tags, numbers):
    return [tags.labels[number] for number in numbers]


def test_labels_of_types():
    assert TAGS.labels == ("O", "B-a", "I-a", "B-b", "I-b")
    assert TAGS.types == SHUFFLED.types == ("a", "b")
    assert (TAGS.outside, SHUFFLED.outside) == (0, 2)
    assert names(SHUFFLED, SHUFFLED.begin) == ["B-b", "B-a", "O", "B-a", "B-b"]
    assert names(SHUFFLED, SHUFFLED.inside) == ["I-b", "I-a", "O", "I-a", "I-b"]
    assert SHUFFLED.type_of.tolist() == [1, 0, -1, 0, 1]


@pytest.mark.parametrize("tags", [TAGS, SHUFFLED])
def test_mended_tags_are_the_entities_that_the_scorer_of_conll_reads(tags):
    every = np.array(list(itertools.product(range(5), repeat=4)))
    mended = tags.mended(every).tolist()
    for before, after in zip(every, mended, strict=True):
        assert names(tags, after) == tags_of_entities(entities_of_tags(names(tags, before)), 4)
        assert not illegal_places(names(tags, after), "BIO")


@pytest.mark.parametrize("tags", [TAGS, SHUFFLED])
def test_the_best_path_is_that_of_a_search_over_all(tags):
    scores = softmax(np.random.default_rng(3).normal(0, 2, (20, 4, 5)))
    legal = [
        path
        for path in itertools.product(range(5), repeat=4)
        if not illegal_places(names(tags, path), "BIO")
    ]
    paths = np.array(legal)
    logs = np.log(scores)
    totals = sum(logs[:, place, paths[:, place]] for place in range(4))
    found = [tuple(path) for path in tags.best_path(scores).tolist()]
    assert found == [legal[best] for best in totals.argmax(1)]
    is_broken = [bool(illegal_places(names(tags, row), "BIO")) for row in scores.argmax(-1)]
    assert any(is_broken)


def test_a_word_that_goes_on_takes_the_likelier_tag_of_a_type_as_its_inside():
    logits = np.array([[0.5, 3.0, 1.0, -1.0, 2.0]])
    for each in (logits, torch.from_numpy(logits)):
        assert TAGS.going_on(each).tolist() == [[0.5, 1.0, 3.0, -1.0, 2.0]]
    scores = np.repeat(logits[None], 5, axis=1)
    assert TAGS.likelier(scores, np.arange(5)[None]).tolist() == [[0.5, 3.0, 3.0, 2.0, 2.0]]
