"""Scores of generated texts: against hand counts, a second ROUGE, and sacrebleu itself."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch

from ftkit.scores.texts import (
    BLEU_SETTINGS,
    CHRF_SETTINGS,
    ROUGE,
    SUMMARY_SCORES,
    TRANSLATION_SCORES,
    SummaryMetrics,
    TranslationMetrics,
    describe_rouge,
    describe_translation_scores,
    rouge_scores,
    split_sentences,
)

pytestmark = pytest.mark.unit
NO_TARGETS = torch.zeros(1, 1)


def scored(metrics_class, texts, rows):
    """The scores of texts that were written for rows, added in two batches."""
    metrics = metrics_class(lambda ids: [texts[i] for i in ids[:, 0].tolist()])
    ids = torch.arange(len(texts))[:, None]
    for part in (slice(0, 1), slice(1, None)):
        metrics.add(ids[part], NO_TARGETS, rows[part])
    assert metrics.per_label() == metrics.chosen() == {}
    return metrics.compute()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("  \n ", []),
        ("One line", ["One line"]),
        ("It is late. Send it!  Will you?", ["It is late.", "Send it!", "Will you?"]),
        ('He said "stop." Then\nhe left.', ['He said "stop.', "Then", "he left."]),
        ("It costs 3.50 and no more.", ["It costs 3.50 and no more."]),
    ],
)
def test_sentences_end_with_stops_and_lines(text, sentences):
    assert split_sentences(text) == sentences


# A second ROUGE, after Lin 2004, for texts of plain lower-case words without endings.


def f_measure(hits, found, wanted):
    return 0.0 if not hits else 2 * hits / (found + wanted)


def n_gram_rouge(found, wanted, n):
    grams = [
        Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (found, wanted)
    ]
    return f_measure((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())


def common_places(wanted, found):
    """Places in `wanted` of its longest common subsequence with `found`."""
    length = np.zeros((len(wanted) + 1, len(found) + 1), dtype=int)
    for i, left in enumerate(wanted):
        for j, right in enumerate(found):
            longer = max(length[i, j + 1], length[i + 1, j])
            length[i + 1, j + 1] = length[i, j] + 1 if left == right else longer
    places, i, j = set(), len(wanted), len(found)
    while i and j:
        if wanted[i - 1] == found[j - 1]:
            places.add(i - 1)
            i, j = i - 1, j - 1
        elif length[i, j - 1] > length[i - 1, j]:
            j -= 1
        else:
            i -= 1
    return places


def summary_rouge(found, wanted):
    """ROUGE-Lsum of lists of sentences: a union of subsequences, each word counted once."""
    left = [Counter(word for each in text for word in each) for text in (found, wanted)]
    hits = 0
    for sentence in wanted:
        for place in sorted(set().union(*(common_places(sentence, each) for each in found))):
            word = sentence[place]
            if left[0][word] and left[1][word]:
                hits += 1
                left[0][word] -= 1
                left[1][word] -= 1
    return f_measure(hits, sum(map(len, found)), sum(map(len, wanted)))


def second_rouge(text, reference):
    sentences = [
        [each.strip(".").split() for each in split_sentences(t)] for t in (text, reference)
    ]
    found, wanted = (list(chain.from_iterable(each)) for each in sentences)
    longest = len(common_places(wanted, found))
    return [
        n_gram_rouge(found, wanted, 1),
        n_gram_rouge(found, wanted, 2),
        f_measure(longest, len(found), len(wanted)),
        summary_rouge(*sentences),
    ]


def test_rouge_is_that_of_a_second_implementation():
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "sun", "rain", "box", "hat", "road", "milk"]
    for _ in range(60):
        texts = [
            " ".join(
                " ".join(rng.choice(words, rng.integers(1, 8))) + "."
                for _ in range(rng.integers(1, 4))
            )
            for _ in range(2)
        ]
        assert rouge_scores(texts[0], texts[1:]) == pytest.approx(second_rouge(*texts))


def test_rouge_by_hand():
    # Five of six words in order; of the pairs, all but "cat was" and "was under" against "cat sat".
    found = rouge_scores("the cat was under the bed", ["the cat sat under the bed"])
    assert found == pytest.approx([5 / 6, 3 / 5, 5 / 6, 5 / 6])
    assert rouge_scores("", ["a cat"]) == [0.0] * 4
    assert rouge_scores("parcels arriving", ["the parcel arrived"])[0] == pytest.approx(4 / 5)


def test_each_score_takes_the_reference_that_fits_it_best():
    one, two = "the red cat", "cat red the dog"
    found = rouge_scores("the red cat", [two, one])
    assert found == rouge_scores("the red cat", [one])
    assert found == [1.0] * 4
    mixed = rouge_scores("b a c d", ["a b", "c d x y z"])
    alone = [rouge_scores("b a c d", [each]) for each in ("a b", "c d x y z")]
    assert mixed == [max(each) for each in zip(*alone, strict=True)]


def test_what_gives_the_scores_is_said():
    assert describe_rouge().startswith("F-measures of rouge-score 0.")
    assert "with Porter stemming" in describe_rouge()


def test_scores_of_summaries_by_hand():
    rows = [
        {"text": "The parcel is late. Send it now.", "summary": "The parcel is late."},
        {"text": "I want my money back.", "summary": "gone", "references": ["A refund, please."]},
        {"text": "Hello there.", "summary": "A greeting."},
    ]
    found = scored(SummaryMetrics, ["The parcel is late.", "a refund please", ""], rows)
    assert tuple(found) == SUMMARY_SCORES
    assert found == pytest.approx(
        {
            **dict.fromkeys(ROUGE, 2 / 3),
            "mean_length": 7 / 3,
            "novel_bigrams": 2 / 5,
            "copied_sentences": 1 / 2,
            "empty": 1 / 3,
        }
    )


def test_a_sentence_is_copied_as_whole_words_only():
    rows = [{"text": "The parcels are here.", "summary": "x"}] * 2
    found = scored(SummaryMetrics, ["The parcel.", "THE PARCELS, are"], rows)
    assert found["copied_sentences"] == 0.5


def test_scores_of_translations_are_sacrebleus():
    from sacrebleu.metrics import BLEU, CHRF

    rows = [
        {"source": "The dog sleeps.", "target": "Der Hund schläft."},
        {"source": "Hello", "target": "Hallo", "references": ["Hallo", "Guten Tag"]},
        {"source": "It rains today.", "target": "Heute regnet es sehr."},
        {"source": "No.", "target": "Nein."},
    ]
    texts = ["Der Hund schläft.", "hello", "Heute regnet es ein wenig.", ""]
    found = scored(TranslationMetrics, texts, rows)
    assert tuple(found) == TRANSLATION_SCORES
    streams = [
        ["Der Hund schläft.", "Hallo", "Heute regnet es sehr.", "Nein."],
        [None, "Guten Tag", None, None],
    ]
    chrf, bleu = CHRF(), BLEU()
    assert found == pytest.approx(
        {
            "chrf": chrf.corpus_score(texts, streams).score / 100,
            "bleu": bleu.corpus_score(texts, streams).score / 100,
            "mean_length": 9 / 4,
            "copied_sources": 1 / 4,
            "empty": 1 / 4,
        }
    )
    # The description names the settings that these scores had.
    assert CHRF_SETTINGS in str(chrf.get_signature())
    assert BLEU_SETTINGS in str(bleu.get_signature())
    assert CHRF_SETTINGS in describe_translation_scores()


@pytest.mark.parametrize("metrics_class", [SummaryMetrics, TranslationMetrics])
def test_no_rows_have_no_scores(metrics_class):
    assert set(metrics_class(lambda ids: []).compute().values()) == {0.0}
