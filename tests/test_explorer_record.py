"""The page's record: what is coded is decoded again, what has no room is named, and nothing else is in it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tombola.explorer.coding import Blobs, coded, decoded, quantised

some_masks = st.integers(1, 6).flatmap(
    lambda levels: arrays.arrays(bool, st.tuples(st.just(levels), st.integers(1, 40)), elements=st.booleans())
)


@given(some_masks)
def test_masks_are_decoded_as_they_were_whether_they_nest_or_not(masks: np.ndarray) -> None:
    nested = np.logical_and.accumulate(masks, axis=0)
    for levels, code in ((masks, None), (nested, "lives")):
        found = coded(list(levels))
        assert code is None or found.code == code
        assert np.array_equal(decoded(found, *levels.shape), levels)


@given(st.lists(st.integers(-8_000, 8_000), max_size=30))
def test_weights_as_bytes_are_close_and_keep_their_signs(thousandths: list[int]) -> None:
    values = (np.array(thousandths) / 1000).astype(np.float32)
    content, unit = quantised(values)
    found = np.frombuffer(content, np.int8)
    assert np.array_equal(np.sign(found), np.sign(values))
    assert np.all(np.abs(found * unit - values) <= unit * 1.001)


def test_parts_that_are_of_use_only_together_come_together_or_not_at_all() -> None:
    noise = np.random.default_rng(0).bytes(100)
    blobs = Blobs(200)
    assert blobs.add(noise) == 0 and blobs.add(noise) == 0
    left = blobs.room
    assert blobs.add_all([b"short", np.random.default_rng(1).bytes(100)]) is None
    assert blobs.room == left and len(blobs.parts) == 1 and blobs.add(b"short") == 1
