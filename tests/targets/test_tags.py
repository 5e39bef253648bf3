"""TagSet: legal sequences, repaired or searched for, whatever the order of the labels."""

import itertools

import numpy as np
import pytest
import torch

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
    mended = tags.mended(torch.from_numpy(every)).tolist()
    for before, after in zip(every, mended, strict=True):
        assert names(tags, after) == tags_of_entities(entities_of_tags(names(tags, before)), 4)
        assert not illegal_places(names(tags, after), "BIO")


@pytest.mark.parametrize("tags", [TAGS, SHUFFLED])
def test_the_best_path_is_that_of_a_search_over_all(tags):
    scores = torch.randn(20, 4, 5, generator=torch.Generator().manual_seed(3)).mul(2).softmax(-1)
    legal = [
        path
        for path in itertools.product(range(5), repeat=4)
        if not illegal_places(names(tags, path), "BIO")
    ]
    paths = torch.tensor(legal)
    logs = scores.log()
    totals = sum(logs[:, place, paths[:, place]] for place in range(4))
    found = [tuple(path) for path in tags.best_path(scores).tolist()]
    assert found == [legal[best] for best in totals.argmax(1)]
    is_broken = [bool(illegal_places(names(tags, row), "BIO")) for row in scores.argmax(-1)]
    assert any(is_broken)


def test_a_word_that_goes_on_takes_the_likelier_tag_of_a_type_as_its_inside():
    logits = torch.tensor([[0.5, 3.0, 1.0, -1.0, 2.0]])
    assert TAGS.going_on(logits).tolist() == [[0.5, 1.0, 3.0, -1.0, 2.0]]
    scores = logits[None].expand(1, 5, 5)
    assert TAGS.likelier(scores, torch.arange(5)[None]).tolist() == [[0.5, 3.0, 3.0, 2.0, 2.0]]
