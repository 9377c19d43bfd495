"""SIDTrie against a dict trie on random catalogues, and its errors."""

import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save_file

from genrec.sid.trie import SIDTrie


@st.composite
def catalogues(draw):
    levels = draw(st.integers(1, 4))
    top = draw(st.sampled_from([0, 1, 3, 300]))  # 0 makes one-child chains of duplicates
    row = st.tuples(*[st.integers(0, top)] * levels)
    return draw(st.lists(row, min_size=1, max_size=40))


@settings(max_examples=100, deadline=None)
@given(catalogues())
def test_below_is_what_starts_so(sids):
    trie = SIDTrie(sids)
    for prefix in {sid[:length] for sid in sids for length in range(len(sid) + 1)}:
        starts = [item for item, sid in enumerate(sids) if sid[: len(prefix)] == prefix]
        assert trie.below(prefix).tolist() == starts
    with pytest.raises(KeyError, match="no item starts with"):
        trie.below((max(sids)[0] + 1,))


@settings(max_examples=200, deadline=None)
@given(catalogues())
def test_equals_a_dict_trie(sids):
    children, items = defaultdict(set), defaultdict(list)
    for item, sid in enumerate(sids):
        items[sid].append(item)
        for level in range(len(sid)):
            children[sid[:level]].add(sid[level])
    trie = SIDTrie(sids)

    assert (trie.num_items, trie.levels) == (len(sids), len(sids[0]))
    for prefix, codes in children.items():
        assert trie.children(prefix).tolist() == sorted(codes)
    for sid, expected in items.items():
        assert trie.items(sid).tolist() == expected
        assert trie.children(sid).tolist() == []
    for level in range(trie.levels):
        assert trie.fan_out[level] == max(len(c) for p, c in children.items() if len(p) == level)
        assert trie.num_codes[level] == max(sid[level] for sid in sids) + 1
        assert len(trie.node_codes[level]) == len({sid[: level + 1] for sid in sids})
    rows = trie.row_of_item
    assert trie.row_items[rows].tolist() == list(range(len(sids)))
    assert trie.sids_of_rows(rows).tolist() == [list(sid) for sid in sids]


@settings(max_examples=100, deadline=None)
@given(catalogues(), st.lists(st.integers(-1, 301), min_size=1, max_size=5))
def test_a_prefix_that_no_item_has_is_a_key_error(sids, prefix):
    trie = SIDTrie(np.array(sids, dtype=np.int32))
    known = {sid[:length] for sid in sids for length in range(1, len(sid) + 1)}
    if tuple(prefix) not in known:
        with pytest.raises(KeyError):
            trie.children(prefix)
    if tuple(prefix) not in sids:
        with pytest.raises(KeyError):
            trie.items(prefix)


def test_hand_made_catalogue():
    #        item 0        1          2          3
    trie = SIDTrie([[2, 0, 1], [0, 1, 1], [2, 0, 1], [2, 5, 0]])
    assert trie.children(()).tolist() == [0, 2]
    assert trie.children([2]).tolist() == [0, 5]
    assert trie.children(np.array([2, 0])).tolist() == [1]
    assert trie.items((2, 0, 1)).tolist() == [0, 2]
    with pytest.raises(KeyError, match=r"\(2, 1\)"):
        trie.children((2, 1, 0))
    with pytest.raises(KeyError, match="has 2 codes"):
        trie.items((2, 0))


@settings(max_examples=50, deadline=None)
@given(catalogues())
def test_saved_and_loaded_is_the_same(tmp_path_factory, sids):
    path = tmp_path_factory.mktemp("trie") / "trie.safetensors"
    trie = SIDTrie(sids)
    trie.save(path)
    loaded = SIDTrie.load(path)
    assert repr(loaded) == repr(trie)
    assert (loaded.num_codes, loaded.fan_out) == (trie.num_codes, trie.fan_out)
    for name, array in trie.arrays().items():
        assert loaded.arrays()[name].dtype == np.int32
        assert loaded.arrays()[name].tolist() == array.tolist()
    assert loaded.items(sids[0]).tolist() == trie.items(sids[0]).tolist()


def test_files_that_hold_no_trie(tmp_path):
    path = tmp_path / "trie.safetensors"
    with pytest.raises(FileNotFoundError):
        SIDTrie.load(path)
    path.write_bytes(b"not a trie")
    with pytest.raises(ValueError, match=r"trie.safetensors: .*SIDTrie.save"):
        SIDTrie.load(path)
    arrays = SIDTrie([[0, 1], [2, 3]]).arrays()
    for change, message in (
        ({"first_child.0": None}, r"\['first_child.0'\] missing"),
        ({"row_items": None}, "missing"),
        ({"row_items": arrays["row_items"][:1]}, "level 1 does not fit"),
        ({"node_codes.0": arrays["node_codes.0"][:1]}, "level 0 does not fit"),
    ):
        changed = {name: a for name, a in (arrays | change).items() if a is not None}
        save_file(changed, path)
        with pytest.raises(ValueError, match=message):
            SIDTrie.load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="missing"):
        SIDTrie.load(path)


@pytest.mark.parametrize("top", [2**8 - 1, 2**8, 2**16 - 1, 2**16, 2**31 - 1])
def test_codes_at_the_edges_of_their_types(top):
    trie = SIDTrie([[top, 0], [0, top], [top, 0]])
    assert trie.children(()).tolist() == [0, top]
    assert trie.items((top, 0)).tolist() == [0, 2]


def test_what_is_returned_is_the_callers():
    trie = SIDTrie([[0, 1], [2, 3]])
    trie.children(())[:] = 9
    trie.items((0, 1))[:] = 9
    assert trie.children(()).tolist() == [0, 2]
    assert trie.items((0, 1)).tolist() == [0]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([], "shape"),
        (np.empty((0, 3), dtype=int), "no SIDs"),
        (np.empty((3, 0), dtype=int), "no SIDs"),
        ([1, 2, 3], "shape"),
        ([[1, 2], [3]], "unequal length"),
        ([[1.0, 2.0]], "float64"),
        ([[True, False]], "bool"),
        ([["a", "b"]], "dtype"),
        ([[0, 1], [0, -1]], "item 1 has code -1 on level 1"),
        ([[0, 2**31]], "item 0 has code 2147483648 on level 1"),
    ],
)
def test_bad_codes(codes, message):
    with pytest.raises(ValueError, match=message):
        SIDTrie(codes)


def test_needs_no_torch():
    code = "import sys, genrec.sid.trie; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
