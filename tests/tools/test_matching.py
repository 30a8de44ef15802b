"""Matching and sampling against torchvision's and against their rules; padded batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops
from torchvision.models.detection._utils import Matcher as TheirMatcher

from maskrcnn.tools.matching import IGNORED, NEGATIVE, POSITIVE, Matcher, Sampler, noise
from maskrcnn.tools.padding import every_slot, pad, slots, take

DOUBLE = torch.float64
seeds = st.integers(0, 2**31)
thorough = settings(deadline=None, max_examples=40)

# -----------------------------------------------------------------------------------------------
# match


def flags(count, *chosen):
    return torch.tensor([[k in chosen for k in range(count)]], dtype=torch.bool)


def match_one(candidates, boxes, valid=None, crowd=None, low_quality=False, **thresholds):
    """Match in one image. Every box is an object unless said otherwise."""
    candidates = torch.tensor(candidates, dtype=DOUBLE).reshape(1, -1, 4)
    boxes = torch.tensor(boxes, dtype=DOUBLE).reshape(1, -1, 4)
    count = boxes.shape[1]
    if valid is None:
        valid = ~flags(count) if crowd is None else ~crowd
    thresholds = {"positive_iou": 0.7, "negative_iou": 0.3, "crowd_overlap": 0.5} | thresholds
    matcher = Matcher(**thresholds, low_quality=low_quality)
    index, label = matcher(candidates, boxes, valid, crowd)
    return index[0].tolist(), label[0].tolist()


@thorough
@given(
    seed=seeds,
    candidates=st.integers(1, 40),
    objects=st.integers(1, 6),
    low_quality=st.booleans(),
    thresholds=st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.4, 0.1)]),
)
def test_match_is_torchvisions(seed, candidates, objects, low_quality, thresholds):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(2, candidates + objects, 2, generator=generator, dtype=DOUBLE) * 10
    boxes = torch.cat(
        [low, low + 5 + torch.rand(low.shape, generator=generator, dtype=DOUBLE) * 10], dim=2
    )
    boxes, objects_of = boxes[:, :candidates], boxes[:, candidates:]
    ours = Matcher(*thresholds, 0.5, low_quality)
    index, label = ours(boxes, objects_of, torch.ones(2, objects).bool(), None)
    matcher = TheirMatcher(*thresholds, allow_low_quality_matches=low_quality)
    for i in range(2):
        overlaps = ops.box_iou(objects_of[i], boxes[i])
        if low_quality and (overlaps.max(dim=1).values == 0).any():
            continue  # torchvision then makes everything positive that overlaps nothing
        want = matcher(overlaps)
        state = want.clamp(max=0).where(want < 0, POSITIVE)
        state = state.where(want != TheirMatcher.BELOW_LOW_THRESHOLD, NEGATIVE)
        state = state.where(want != TheirMatcher.BETWEEN_THRESHOLDS, IGNORED)
        assert torch.equal(label[i], state)
        assert torch.equal(index[i][want >= 0], want[want >= 0])


def test_thresholds_are_inclusive_above_and_exclusive_below():
    candidates = [[0, 0, 10, 7], [0, 0, 10, 6.9], [0, 0, 10, 3], [0, 0, 10, 2.9]]
    assert match_one(candidates, [0, 0, 10, 10])[1] == [POSITIVE, IGNORED, IGNORED, NEGATIVE]


def test_one_set_of_candidates_serves_all_images():
    anchors = torch.tensor([[[0.0, 0, 10, 10], [20, 0, 30, 10]]])
    boxes = anchors.transpose(0, 1).contiguous()
    _, label = Matcher(0.7, 0.3, 0.5)(anchors, boxes, torch.ones(2, 1).bool(), None)
    assert label.tolist() == [[POSITIVE, NEGATIVE], [NEGATIVE, POSITIVE]]


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("slots_of_padding", [0, 1, 3])
def test_without_objects_everything_is_negative(slots_of_padding, low_quality):
    # Padding lies exactly on the candidates and must not match all the same.
    candidates = [[0, 0, 10, 10], [0, 0, 0, 0], [5, 5, 20, 20]]
    padding = [[0, 0, 10, 10], [0, 0, 0, 0], [5, 5, 20, 20]][:slots_of_padding]
    index, label = match_one(
        candidates, padding, valid=flags(slots_of_padding), low_quality=low_quality
    )
    assert index == [0, 0, 0]
    assert label == [NEGATIVE] * 3


def test_padding_never_matches():
    index, label = match_one(
        [[0, 0, 10, 10], [50, 50, 60, 60]],
        [[50, 50, 60, 60], [0, 0, 10, 10], [0, 0, 10, 8]],
        valid=flags(3, 2),
        low_quality=True,
    )
    assert index[0] == 2
    assert label == [POSITIVE, NEGATIVE]


def test_crowds_are_neither_positive_nor_negative():
    crowd_box, object_box = [0, 0, 100, 100], [80, 80, 100, 100]
    candidates = [
        [0, 0, 100, 100],  # the crowd's very box
        [10, 10, 20, 20],  # inside it
        [90, 0, 110, 20],  # exactly half inside
        [91, 0, 111, 20],  # less than half inside
        [80, 80, 100, 100],  # an object within the crowd
        [200, 0, 210, 10],  # elsewhere
        [30, 30, 30, 30],  # without area: in nothing
    ]
    index, label = match_one(candidates, [crowd_box, object_box], crowd=flags(2, 0))
    assert label == [IGNORED, IGNORED, IGNORED, NEGATIVE, POSITIVE, NEGATIVE, NEGATIVE]
    assert index[4] == 1


def test_no_crowd_is_as_good_as_none():
    candidates, objects = (
        [[0, 0, 10, 7], [0, 0, 10, 3], [0, 0, 10, 2]],
        [[0, 0, 10, 10], [50, 50, 60, 60]],
    )
    assert match_one(candidates, objects, crowd=flags(2)) == match_one(candidates, objects)


def test_crowds_alone_and_two_that_do_not_add_up():
    halves = [[0, 0, 10, 10], [0, 10, 10, 20]]
    index, label = match_one(
        [[0, 5, 10, 15], [0, 2, 10, 12]], halves, crowd=flags(2, 0, 1), crowd_overlap=0.6
    )
    assert index == [0, 0]
    assert label == [NEGATIVE, IGNORED]


def test_low_quality_takes_the_best_of_each_object_with_ties():
    candidates = [[0, 0, 10, 10], [10, 0, 20, 10], [0, 20, 10, 30], [100, 100, 110, 110]]
    # Overlapped to a third by the first two alike; hardly by the third; by nothing.
    objects = [[5, 0, 15, 10], [0, 25, 100, 100], [300, 300, 310, 310]]
    assert match_one(candidates, objects)[1] == [IGNORED, IGNORED, NEGATIVE, NEGATIVE]
    index, label = match_one(candidates, objects, low_quality=True)
    assert label == [POSITIVE, POSITIVE, POSITIVE, NEGATIVE]
    assert index[:3] == [0, 0, 1]


# -----------------------------------------------------------------------------------------------
# sample


@thorough
@given(
    seed=seeds,
    images=st.integers(1, 3),
    candidates=st.integers(0, 40),
    size=st.integers(1, 30),
    fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_sample_keeps_its_promises(seed, images, candidates, size, fraction):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(-1, 2, (images, candidates), generator=generator)
    index, valid = Sampler(size, fraction)(label, torch.arange(images) + seed)
    promised = int(size * fraction)
    assert index.shape == valid.shape == (images, min(size, candidates))
    for i in range(images):
        chosen = index[i][valid[i]]
        drawn = label[i][chosen]
        assert len(set(chosen.tolist())) == len(chosen)
        assert not (drawn == IGNORED).any()
        positives = int((drawn == POSITIVE).sum())
        assert positives == min(promised, int((label[i] == POSITIVE).sum()))
        assert len(drawn) - positives == min(size - positives, int((label[i] == NEGATIVE).sum()))
        # Positives, then negatives, then padding.
        assert (drawn[:positives] == POSITIVE).all()
        assert valid[i].tolist() == sorted(valid[i].tolist(), reverse=True)


@pytest.mark.parametrize(
    ("positives", "negatives", "want"),
    [
        (50, 50, (4, 12)),
        (2, 50, (2, 14)),
        (0, 50, (0, 16)),
        (50, 3, (4, 3)),
        (50, 0, (4, 0)),
        (0, 0, (0, 0)),
        (1, 2, (1, 2)),
    ],
)
def test_sample_fills_with_negatives(positives, negatives, want):
    label = torch.cat(
        [
            torch.full((positives,), POSITIVE),
            torch.full((negatives,), NEGATIVE),
            torch.full((20,), IGNORED),
        ]
    )[None]
    index, valid = Sampler(16, 0.25)(label, torch.tensor([7]))
    drawn = label[0][index[0][valid[0]]]
    assert (int((drawn == POSITIVE).sum()), int((drawn == NEGATIVE).sum())) == want


def test_every_candidate_is_drawn_about_equally_often():
    label = torch.tensor([1, 0, -1, 1, 0, 0, 1, -1, 0, 1]).expand(2000, -1)
    index, valid = Sampler(4, 0.5)(label, torch.arange(2000))
    often = torch.zeros(10).index_add(0, index.flatten(), valid.flatten().float()) / 2000
    # Two of four positives and two of four negatives: each with a chance of 1/2, five standard
    # deviations wide.
    assert ((often[label[0] != IGNORED] - 0.5).abs() < 5 * 0.5 / 2000**0.5).all()
    assert (often[label[0] == IGNORED] == 0).all()


def test_sample_follows_the_key():
    """Of its image alone, whatever the others in the batch."""
    label = torch.randint(-1, 2, (1, 100)).expand(3, -1)
    index = Sampler(20, 0.5)(label, torch.tensor([5, 6, 5]))[0]
    assert torch.equal(index[0], index[2])
    assert not torch.equal(index[0], index[1])
    assert torch.equal(Sampler(20, 0.5)(label[:1], torch.tensor([6]))[0][0], index[1])


def test_noise_is_splitmix64():
    """The first numbers of seed 1234567, as Vigna's splitmix64.c prints them, without the highest
    bit."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    want = [number & 2**63 - 1 for number in published]
    assert noise(torch.tensor([1234567]), 5).tolist() == [want]
    many = noise(torch.arange(100), 1000).double() / 2**63
    assert float(many.mean()) == pytest.approx(0.5, abs=0.005)
    assert torch.corrcoef(many[:2]).abs()[0, 1] < 0.15


# -----------------------------------------------------------------------------------------------
# padding


@thorough
@given(
    seed=seeds,
    images=st.integers(0, 4),
    candidates=st.integers(0, 6),
    trailing=st.sampled_from([(), (4,), (2, 3)]),
)
def test_pack_then_unpack(seed, images, candidates, trailing):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(images, candidates, generator=generator) < 0.5
    padded = torch.randn(images, candidates, *trailing, generator=generator)
    used = slots(valid)
    packed = used.pack(padded)
    assert torch.equal(packed, padded[valid])
    assert torch.equal(used.image, valid.nonzero()[:, 0])
    back = used.unpack(packed)
    assert torch.equal(back[valid], padded[valid])
    assert (back[~valid] == 0).all()
    assert back.shape == padded.shape


def test_all_slots_are_kept_where_dropping_would_stall():
    valid = torch.tensor([[True, False], [False, False]])
    assert slots(valid.to("meta")).image.shape == (4,)
    used, padded = every_slot(valid), torch.randn(2, 2, 3)
    assert used.pack(padded).shape == (4, 3)
    assert torch.equal(used.unpack(used.pack(padded)), padded)
    assert used.image.tolist() == [0, 0, 1, 1]


def test_packing_carries_gradients():
    padded = torch.randn(2, 3, 4, requires_grad=True)
    valid = torch.tensor([[True, False, True], [False, False, True]])
    used = slots(valid)
    (used.unpack(used.pack(padded) * 2)).sum().backward()
    assert torch.equal(padded.grad, 2.0 * valid[:, :, None].expand(2, 3, 4))


@pytest.mark.parametrize("trailing", [(), (4,), (2, 3)])
def test_take(trailing):
    padded, index = torch.randn(2, 5, *trailing), torch.tensor([[4, 0, 0], [1, 3, 2]])
    got = take(padded, index)
    assert got.shape == (2, 3, *trailing)
    for i in range(2):
        assert torch.equal(got[i], padded[i][index[i]])
    assert take(padded, index[:, :0]).shape == (2, 0, *trailing)


def test_pad():
    rows = [torch.ones(2, 4), torch.zeros(0, 4), torch.full((3, 4), 7.0)]
    padded = pad(rows, 4)
    assert padded.shape == (3, 4, 4)
    for row, got in zip(rows, padded):
        assert torch.equal(got[: len(row)], row)
        assert (got[len(row) :] == 0).all()
    assert pad([torch.tensor([3, 1])], 3).tolist() == [[3, 1, 0]]
    assert pad([torch.zeros(0).bool()], 1).tolist() == [[False]]
