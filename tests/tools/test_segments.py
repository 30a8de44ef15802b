"""Masks as bytes, against COCO's own routines on the raw annotations and against masks drawn by
hand."""

import numpy as np
import pytest
from faster_coco_eval import mask as rle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maskrcnn.tools import segments

masks = arrays.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@settings(max_examples=200, deadline=None)
@given(masks)
def test_masks_come_back(mask):
    code = segments.from_mask(mask)
    assert code[1:] == rle.encode(np.asfortranarray(mask, np.uint8))["counts"]
    assert np.array_equal(segments.decode([code, code], *mask.shape), [mask, mask])
    assert segments.area(code, *mask.shape) == mask.sum()
    ys, xs = np.nonzero(mask)
    expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]
    assert segments.tight_box(code, *mask.shape) == expected
    assert segments.extent(code, *mask.shape) == (mask.sum(), expected)


def runs(mask):
    """The lengths of background and object in turn, down the columns, counted pixel by pixel."""
    counts, value = [0], False
    for pixel in mask.T.flatten():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@settings(max_examples=100, deadline=None)
@given(masks)
def test_run_length_codes(mask):
    size = list(mask.shape)
    plain = segments.from_rle({"size": size, "counts": runs(mask)})
    assert plain == segments.from_mask(mask)
    # as JSON has it
    assert segments.from_rle({"size": size, "counts": plain[1:].decode()}) == plain
    assert segments.from_rle({"size": size, "counts": plain[1:]}) == plain
    assert segments.to_rle(plain, *size) == {"size": size, "counts": plain[1:]}


def test_no_masks():
    assert segments.decode([], 4, 5).shape == (0, 4, 5)


def test_long_runs():
    """Numbers of several digits, of either sign."""
    mask = np.zeros((1000, 700), bool)
    mask[3:, 5:400] = True
    mask[500:502, 300:650] ^= True
    code = segments.from_mask(mask)
    assert np.array_equal(segments.decode([code], 1000, 700)[0], mask)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([3, 4], "runs of 7 pixels for a size of 4 x 5"),
        ([30, -10], "runs of 20 pixels for a size of 4 x 5"),
        ("37", "runs of 10 pixels for a size of 4 x 5"),
        ("3", "runs of 3 pixels"),
        ("", "runs of 0 pixels"),
        ("o", "damaged"),
        ("~~", "damaged"),
        ("oooooooooooooooooooooo0", "damaged"),
        ("N", "negative"),
    ],
)
def test_broken_codes(counts, message):
    with pytest.raises(ValueError, match=message):
        segments.from_rle({"size": [4, 5], "counts": counts})


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12))
def test_any_bytes_are_refused_or_a_mask(counts):
    try:
        code = segments.from_rle({"size": [4, 5], "counts": counts})
    except ValueError:
        return
    mask = segments.decode([code], 4, 5)[0]
    assert np.array_equal(rle.decode({"size": [4, 5], "counts": counts}), mask)


def test_polygons_are_drawn_as_coco_draws_them():
    star = [10.5, 2.25, 13, 8, 19.75, 8.13, 14, 12, 16, 18.01, 10.5, 14, 5, 18, 7, 12, 1, 8, 8, 8]
    square = [20.0, 20, 30, 20, 30, 30, 20, 30]
    code = segments.from_polygons([star, square])
    expected = rle.decode(rle.merge(rle.frPyObjects([star, square], 40, 50)))
    assert np.array_equal(segments.decode([code], 40, 50)[0], expected)
    assert segments.tight_box(segments.from_polygons([square]), 40, 50) == [20, 20, 30, 30]
    assert segments.area(segments.from_polygons([square]), 40, 50) == 100


def test_a_hole_by_a_ring_that_runs_in_and_out():
    keyhole = [0.0, 0, 20, 0, 20, 20, 0, 20, 0, 5, 5, 5, 5, 15, 15, 15, 15, 5, 0, 5]
    mask = segments.decode([segments.from_polygons([keyhole])], 20, 20)[0]
    expected = np.ones((20, 20), bool)
    expected[5:15, 5:15] = False
    assert (mask != expected).sum() <= 2 * 10  # the slit and its rounding
    assert not mask[7:13, 7:13].any()


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ([0.01, 7.29, 1234.56, 0.07, 99999.99, 3.0], b"H"),
        ([1 / 3, 7.29, 1234.56, 0.07, 9.0, 3.0], b"P"),
    ],
)
def test_coordinates_are_kept_exactly(numbers, kind, monkeypatch):
    code = segments.from_polygons([numbers, numbers[::-1]])
    assert code[:1] == kind
    seen = []
    monkeypatch.setattr(rle, "frPyObjects", lambda rings, h, w: seen.extend(rings) or rings)
    monkeypatch.setattr(rle, "merge", lambda rings: rings)
    segments.to_rle(code, 5, 5)
    assert seen == [numbers, numbers[::-1]]


def test_hundredths_take_half_the_bytes():
    ring = np.random.default_rng(0).integers(0, 64000, 60) / 100
    assert len(segments.from_polygons([ring])) == 1 + 4 + 4 + 4 * 60
    assert len(segments.from_polygons([ring + 1e-5])) == 1 + 4 + 4 + 8 * 60


@pytest.mark.parametrize(
    "polygons",
    [
        [],
        [[]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, np.nan]],
        [[1, 2, 3, 4, 5, "x"]],
        [[[1, 2], [3, 4], [5, 6]]],
        [[1, 2, 3, 4, 5, 1e300]],
        [[1, 2, 3, 4, 5, 6], [1, 2]],
    ],
)
def test_no_polygons(polygons):
    with pytest.raises(ValueError):
        segments.from_polygons(polygons)
