"""Windows and cuts: tables of small cases, and properties over seeded random ones."""

import random
from itertools import pairwise

import pytest

from ftkit.spans import kept_positions, window_bounds

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("length", "size", "stride", "expected"),
    [
        (0, 4, 0, [(0, 0)]),
        (3, 4, 1, [(0, 3)]),
        (4, 4, 1, [(0, 4)]),
        (5, 4, 0, [(0, 4), (1, 5)]),
        (8, 4, 0, [(0, 4), (4, 8)]),
        (8, 4, 2, [(0, 4), (2, 6), (4, 8)]),
        (9, 4, 1, [(0, 4), (3, 7), (5, 9)]),
        (10, 4, 0, [(0, 4), (4, 8), (6, 10)]),
        (3, 1, 0, [(0, 1), (1, 2), (2, 3)]),
        (5, 3, 2, [(0, 3), (1, 4), (2, 5)]),
    ],
)
def test_window_bounds(length, size, stride, expected):
    assert window_bounds(length, size, stride) == expected


@pytest.mark.parametrize(("size", "stride"), [(0, 0), (-1, 0), (4, 4), (4, 5), (4, -1)])
def test_windows_that_could_not_move_on_are_refused(size, stride):
    with pytest.raises(ValueError, match="cannot share"):
        window_bounds(10, size, stride)


def test_windows_cover_everything_full_and_with_the_stride():
    rng = random.Random(7)
    for _ in range(2000):
        length, size = rng.randint(0, 300), rng.randint(1, 60)
        stride = rng.randrange(size)
        bounds = window_bounds(length, size, stride)
        covered = {position for start, end in bounds for position in range(start, end)}
        assert covered == set(range(length))
        assert len(set(bounds)) == len(bounds)
        if length > size:
            assert all(end - start == size for start, end in bounds)
        for (start, end), (following, _) in pairwise(bounds):
            assert following > start
            assert end - following >= stride
        for (_, end), (following, _) in list(pairwise(bounds))[:-1]:
            assert end - following == stride


@pytest.mark.parametrize(
    ("length", "size", "keep", "expected"),
    [
        (3, 5, "head", [0, 1, 2]),
        (5, 5, "tail", [0, 1, 2, 3, 4]),
        (9, 4, "head", [0, 1, 2, 3]),
        (9, 4, "tail", [5, 6, 7, 8]),
        (9, 4, "head+tail", [0, 6, 7, 8]),
        (20, 8, "head+tail", [0, 1, 14, 15, 16, 17, 18, 19]),
        (9, 3, "head+tail", [6, 7, 8]),
    ],
)
def test_kept_positions(length, size, keep, expected):
    assert kept_positions(length, size, keep) == expected


def test_head_and_tail_split_as_in_the_paper():
    kept = kept_positions(1000, 510, "head+tail")
    assert kept[:127] == list(range(127))
    assert kept[127:] == list(range(1000 - 383, 1000))


@pytest.mark.parametrize("keep", ["head", "tail", "head+tail"])
def test_kept_positions_are_as_many_as_there_is_room_for(keep):
    rng = random.Random(8)
    for _ in range(1000):
        length, size = rng.randint(0, 200), rng.randint(0, 100)
        kept = kept_positions(length, size, keep)
        assert len(kept) == min(length, size)
        assert kept == sorted(set(kept))
        assert not kept or 0 <= kept[0] <= kept[-1] < length


def test_an_unknown_cut_is_refused():
    with pytest.raises(KeyError):
        kept_positions(9, 4, "middle")
