"""Several sets of SIDs: codes that tell the sets apart, files, settings."""

from pathlib import Path

import numpy as np
import pytest

from genrec.recipe import RecipeError, load
from genrec.sid import RKMeans, SIDSets

FIRST = np.array([[0, 1], [2, 0], [1, 1]], dtype=np.int32)
SECOND = np.array([[1, 0, 3], [0, 0, 2], [1, 1, 0]], dtype=np.int32)


def test_each_code_is_of_one_set() -> None:
    sets = SIDSets([FIRST, SECOND])
    assert len(sets) == 2
    assert sets.num_items == 3
    assert sets.levels == 3
    assert sets.codes_per_level == [5, 4, 4]
    np.testing.assert_array_equal(sets[0], FIRST)
    np.testing.assert_array_equal(sets[1], np.add(SECOND, [3, 2, 0]))
    for level in range(2):
        assert not set(sets[0][:, level]) & set(sets[1][:, level])


def test_one_set_is_as_it_was(tmp_path: Path) -> None:
    sets = SIDSets([FIRST])
    np.testing.assert_array_equal(sets[0], FIRST)
    assert sets.codes_per_level == [3, 2]
    sets.save(tmp_path)
    np.save(tmp_path / "as-before.npy", FIRST)
    assert (tmp_path / "sids.npy").read_bytes() == (tmp_path / "as-before.npy").read_bytes()


def test_they_come_back_from_files(tmp_path: Path) -> None:
    SIDSets([FIRST, SECOND, FIRST]).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"sids.npy", "sids-1.npy", "sids-2.npy"}
    loaded = SIDSets.load(tmp_path)
    for own, expected in zip(loaded, SIDSets([FIRST, SECOND, FIRST]), strict=True):
        np.testing.assert_array_equal(own, expected)


def test_sets_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[N, L\] each, of the same N"):
        SIDSets([FIRST, SECOND[:2]])
    with pytest.raises(ValueError, match=r"expected \[N, L\]"):
        SIDSets([FIRST[0]])


def test_a_fingerprint_has_sets_only_where_there_are_some() -> None:
    assert "sets" not in load("demo", ["quantize.sets=1"]).quantize.model_dump()
    several = load("demo", ["quantize.sets=[{views: {text: 1}}, {levels: 3, codes: 64}]"]).quantize
    assert [own.levels for own in several.each_set] == [None, 3]
    assert several.model_dump()["sets"][0]["views"] == {"text": 1}
    assert len(load("demo", ["quantize.sets=4"]).quantize.each_set) == 4
    assert len(RKMeans(levels=2, codes=4).settings.each_set) == 1


@pytest.mark.parametrize(
    "sets", ["0", "9", "[{views: {}}]", "[{views: {text: 0}}]", "[{veiws: {}}]"]
)
def test_sets_that_cannot_be(sets: str) -> None:
    with pytest.raises(RecipeError, match="quantize"):
        load("demo", [f"quantize.sets={sets}"])


def test_sets_come_back_from_the_codes_of_the_model() -> None:
    sets = SIDSets([FIRST, SECOND])
    again = SIDSets.of_codes([*sets])
    for number, expected in enumerate((FIRST, SECOND)):
        np.testing.assert_array_equal(again.own(number), expected)
    with pytest.raises(ValueError, match=r"set 2 of SIDs: code 2 on level 1 .* expected 3 or more"):
        SIDSets.of_codes([FIRST, np.add(SECOND, [2, 2, 0])])


def test_vectors_of_one_set_are_its_codebooks() -> None:
    books = np.random.default_rng(0).standard_normal((2, 3, 5))
    for book, vectors in zip(books, SIDSets([FIRST]).code_vectors([books], 3), strict=True):
        np.testing.assert_array_equal(book, vectors)


def test_vectors_of_several_sets_share_no_direction() -> None:
    """Within a set likeness is the codebook's; a level without one has codes like no other."""
    rng = np.random.default_rng(0)
    books = [rng.standard_normal((2, 8, 5)), 9 * rng.standard_normal((2, 8, 3))]
    levels = SIDSets([FIRST, SECOND]).code_vectors(books, 5)
    first, second, third = (vectors @ vectors.T for vectors in levels)
    assert first.shape == second.shape == third.shape == (5, 5)
    assert not first[:3, 3:].any()  # three codes of the first set on it, two of the second
    own = books[0][0][:3] - books[0][0][:3].mean(axis=0)
    np.testing.assert_allclose(first[:3, :3] / (own @ own.T), first[0, 0] / (own[0] @ own[0]))
    assert not second[:2, 2:].any()  # two and two; the last book goes on
    np.testing.assert_allclose(second[:2].diagonal().mean(), 1)
    np.testing.assert_allclose(second[2:].diagonal(offset=2).mean(), 1)
    np.testing.assert_array_equal(third, np.eye(5))
