"""The row cache: what is computed, what is kept, what survives an interruption."""

import numpy as np
import pytest

from genrec.enrich.rows import cached_rows, fixed_batches, row_key
from genrec.progress import silent


def vectors_of(rows):
    return np.array([[row, row / 3] for row in rows], dtype=np.float32)


def run(keys, cache, asked, *, die_after=None, progress=silent):
    def batches(missing):
        asked.append(list(missing))
        for i, start in enumerate(range(0, len(missing), 2)):
            if i == die_after:
                raise KeyboardInterrupt
            part = missing[start : start + 2]
            yield part, vectors_of(part)

    return cached_rows(keys, batches, cache=cache, step="try", progress=progress)


def test_only_what_is_missing_is_computed_and_the_rest_comes_from_the_cache():
    cache, asked = {}, []
    first = run(["a", "b", "c", "d", "e"], cache, asked)
    assert (first == vectors_of(range(5))).all()
    again = run(["e", "x", "a"], cache, asked)
    assert asked == [[0, 1, 2, 3, 4], [1]]
    assert (again == np.stack([first[4], vectors_of([1])[0], first[0]])).all()
    assert run(["a"], cache, asked).tolist() == [first[0].tolist()]
    assert len(asked) == 2  # nothing missing: the model was not even asked for


def test_interrupted_it_keeps_whole_batches_and_goes_on():
    cache, asked = {}, []
    with pytest.raises(KeyboardInterrupt):
        run(list("abcde"), cache, asked, die_after=1)
    assert set(cache) == {"a", "b"}
    done = run(list("abcde"), cache, asked)
    assert asked[1] == [2, 3, 4]
    assert (done == vectors_of(range(5))).all()


def test_equal_keys_share_a_vector_and_none_is_zero():
    asked = []
    out = run(["a", None, "a", "b"], {}, asked)
    assert asked == [[0, 3]]
    assert (out[0] == out[2]).all()
    assert out.dtype == np.float32
    assert out[1].tolist() == [0, 0]


def test_a_batch_is_one_transaction():
    class Table(dict):
        transactions = ()

        def put_many(self, rows):
            self.transactions += (set(rows),)
            self.update(rows)

        def __setitem__(self, key, value):
            raise AssertionError("row by row")

    cache = Table()
    run(list("abc"), cache, [])
    assert cache.transactions == ({"a", "b"}, {"c"})


def test_progress_counts_distinct_keys_from_where_it_stands():
    told = []
    cache = {"a": vectors_of([9])[0].tobytes()}
    run(["a", "b", "b", "c", "d"], cache, [], progress=lambda *step: told.append(step))
    assert told == [("try", 1, 4), ("try", 3, 4), ("try", 4, 4)]


def test_nothing_to_encode_and_a_damaged_cache_are_errors():
    with pytest.raises(ValueError, match="none of the 2 items"):
        run([None, None], {}, [])
    with pytest.raises(ValueError, match="delete the cache"):
        run(["a", "b"], {"a": b"1234"}, [])


def test_batches_are_filled_up_to_one_size():
    assert list(fixed_batches([5, 6, 7], 2)) == [([5, 6], [5, 6]), ([7], [7, 7])]


def test_keys_tell_parts_apart():
    keys = {
        row_key("a", "b"),
        row_key("ab"),
        row_key("ab", ""),
        row_key("", "ab"),
        row_key("b", "a"),
    }
    assert len(keys) == 5
    assert row_key("ä") == row_key("ä".encode())
