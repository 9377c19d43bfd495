"""Several SIDs for each item: sets of SIDs that one model writes, told apart by their codes.

On each level the codes of a set follow those of the sets before it, so that `<a_5>` belongs to one set
only and a SID says of which set it is. With one set nothing changes: its codes are as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]


class SIDSets:
    """M sets of SIDs of N items.

    Args:
        sets: int [N, L_m] each, codes from 0 as a quantizer makes them.

    Raises:
        ValueError: no set, or sets of different numbers of items.
    """

    def __init__(self, sets: Sequence[Ints]) -> None:
        self._own = [np.asarray(own) for own in sets]
        if len({own.shape[0] for own in self._own}) != 1 or any(own.ndim != 2 for own in self._own):
            shapes = [own.shape for own in self._own]
            raise ValueError(
                f"sets of SIDs of shapes {shapes}; expected [N, L] each, of the same N"
            )
        self.levels = max(own.shape[1] for own in self._own)
        sizes = np.zeros((len(self._own), self.levels), dtype=np.int64)
        for row, own in zip(sizes, self._own, strict=True):
            row[: own.shape[1]] = own.max(axis=0) + 1
        self._first = np.cumsum(sizes, axis=0) - sizes
        self.codes_per_level: list[int] = sizes.sum(axis=0).tolist()

    @classmethod
    def of(cls, sids: npt.ArrayLike | SIDSets) -> SIDSets:
        """Returns several sets as they are, and one array of SIDs as the only set."""
        return sids if isinstance(sids, SIDSets) else cls([np.asarray(sids)])

    @classmethod
    def of_codes(cls, sets: Sequence[Ints]) -> SIDSets:
        """Returns the sets that have these SIDs in the codes of the model, as index files have them.

        Raises:
            ValueError: a code of a set does not follow those of the sets before it.
        """
        own: list[Ints] = []
        levels = max(given.shape[1] for given in sets)
        first = np.zeros(levels, dtype=np.int64)
        for number, given in enumerate(sets):
            width = given.shape[1]
            if (low := given.min(axis=0) < first[:width]).any():
                level = int(low.argmax())
                raise ValueError(
                    f"set {number + 1} of SIDs: code {int(given[:, level].min())} on level "
                    f"{level + 1} is one of a set before it; expected {first[level]} or more"
                )
            own.append((given - first[:width]).astype(np.int32))
            first[:width] = given.max(axis=0) + 1
        return cls(own)

    def __len__(self) -> int:
        """M."""
        return len(self._own)

    def __getitem__(self, number: int) -> npt.NDArray[np.int32]:
        """The SIDs of set `number` in the codes of the model. int32 [N, L_m]."""
        own = self._own[number]
        return (own + self._first[number, : own.shape[1]]).astype(np.int32)

    def own(self, number: int) -> npt.NDArray[np.int32]:
        """The SIDs of set `number` in codes from 0, as its quantizer made them. int32 [N, L_m]."""
        return self._own[number].astype(np.int32)

    def tokens(self, code_tokens: Sequence[Ints]) -> list[list[Ints]]:
        """Returns the tokens of each set's own codes, per level int [C].

        Args:
            code_tokens: per level, the token of each code of the model.
        """
        return [
            [
                code_tokens[level][self._first[number, level] :][: own[:, level].max() + 1]
                for level in range(own.shape[1])
            ]
            for number, own in enumerate(self._own)
        ]

    def code_vectors(self, codebooks: Sequence[Sequence[Floats]], codes: int) -> list[Floats]:
        """Returns a vector for each of the model's codes, alike where the codebooks' are.

        Those of different sets share no direction. A code without a vector, as on a level that
        resolves collisions, is like no other.

        Args:
            codebooks: of each set, for each level that it has one for, float [K_m, D_m].
            codes: K of every level of the model; the last codebook on it goes on up to there.

        Returns:
            Per level float [K, D]; of one set its codebooks as they are.
        """
        from scipy.linalg import block_diag

        levels = []
        for level in range(self.levels):
            blocks = []
            for number, books in enumerate(codebooks):
                last = number + 1 == len(self)
                size = codes if last else int(self._first[number + 1, level])
                size -= int(self._first[number, level])
                known = books[level][:size] if level < len(books) else np.zeros((0, 0))
                if len(known) == codes:
                    blocks.append(known)
                    continue
                blocks += [_scaled(known), np.eye(size - len(known))]
            levels.append(blocks[0] if len(blocks) == 1 else block_diag(*blocks))
        return levels

    def mean_vectors(self, vectors: Floats, codes: int) -> list[Floats]:
        """Returns for each of the model's codes the mean vector of the items that have it.

        Args:
            vectors: float [N, D].
            codes: K of every level of the model.

        Returns:
            Per level float [K, D]; 0 for a code that no item has.
        """
        levels: list[Floats] = []
        for level in range(self.levels):
            owners = [own[:, level] for own in self if level < own.shape[1]]
            counts = np.bincount(np.concatenate(owners), minlength=codes)
            total = np.zeros((codes, vectors.shape[1]))
            for own in owners:
                np.add.at(total, own, vectors)
            levels.append(total / np.maximum(counts, 1)[:, None])
        return levels

    def __iter__(self) -> Iterator[npt.NDArray[np.int32]]:
        """Yields the SIDs of each set in the codes of the model."""
        return (self[number] for number in range(len(self)))

    @property
    def num_items(self) -> int:
        """N."""
        return len(self._own[0])

    def from_zero(self) -> SIDSets:
        """Returns the sets in codes from 0 where they were read from files in the codes of a model."""
        try:
            return SIDSets.of_codes(self._own)
        except ValueError:  # they do not follow each other, so they are codes from 0 already
            return self

    def save(self, folder: str | Path, name: str = "sids") -> None:
        """Writes `sids.npy`, and `sids-1.npy` and so on for further sets, in codes from 0."""
        for number, own in enumerate(self._own):
            np.save(Path(folder) / file_of(number, name), own)

    @classmethod
    def load(cls, folder: str | Path, name: str = "sids") -> SIDSets:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no `sids.npy`.
        """
        files = [Path(folder) / file_of(0, name), *further_files(Path(folder), name)]
        return cls([np.load(file, allow_pickle=False) for file in files])


def file_of(number: int, name: str = "sids", suffix: str = "npy") -> str:
    """Returns the file of a set: `sids.npy` of the first, `sids-1.npy` of the next."""
    return f"{name}{f'-{number}' if number else ''}.{suffix}"


def further_files(folder: Path, name: str = "sids", suffix: str = "npy") -> Iterator[Path]:
    """Yields the files of the sets after the first, as far as there are any."""
    number = 1
    while (file := folder / file_of(number, name, suffix)).is_file():
        yield file
        number += 1


def in_set(name: str, number: int) -> str:
    """Returns what a name is in a further set of SIDs: `history_to_sid@2` in the second."""
    return f"{name}@{number + 1}" if number else name


def set_of(name: str) -> int:
    """Returns the set of SIDs that a name says, from 0."""
    return int(name.partition("@")[2] or 1) - 1


def _scaled(vectors: Floats) -> Floats:
    """Centres vectors and makes them as long, on average, as the unit vectors of other blocks."""
    if not len(vectors):
        return vectors
    centred = vectors - vectors.mean(axis=0)
    scaled: Floats = centred / (np.sqrt(np.square(centred).sum(axis=1).mean()) + 1e-12)
    return scaled
