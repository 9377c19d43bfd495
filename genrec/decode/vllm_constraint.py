"""The catalogue as a vLLM logits processor needs it: a file, a walk over tokens, a mask over logits.

vLLM's workers are other processes, so the trie and the tokens of its codes travel as one file; those of
several sets of SIDs (`genrec.sid.SIDSets`) too. No part of this module imports vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec.decode.checks import check_tokens
from genrec.sid.trie import SIDTrie

SETTINGS = {"constraint", "default"}
EXAMPLE = 'additional_config={"genrec": {"constraint": "sid_constraint.safetensors"}}'
# The log-probability written where nothing may follow: finite, since a row of -inf has no softmax.
IMPOSSIBLE = -1e30

# One set of SIDs: its trie and, per level, the token id of each code.
Catalogue = tuple[SIDTrie, Sequence[ArrayLike]]
Checked = tuple[SIDTrie, list[NDArray[np.int64]]]


def save_constraint(path: str | Path, sets: Sequence[Catalogue]) -> None:
    """Writes the file that `SIDProcessor` reads.

    Args:
        path: where to, a safetensors file.
        sets: the trie and the tokens of each set of SIDs; mostly there is one.

    Raises:
        ValueError: if the tokens do not fit the tries, or two sets share one.
    """
    named: dict[str, NDArray[Any]] = {}
    for number, (trie, tokens) in enumerate(_checked(sets, vocab_size=2**31)):
        arrays = trie.arrays() | {f"code_tokens.{level}": ids for level, ids in enumerate(tokens)}
        named |= {_prefix(number) + name: array for name, array in arrays.items()}
    save_file(named, path)


def load_constraint(path: str | Path) -> list[Checked]:
    """Reads what `save_constraint` wrote.

    Returns:
        Of each set the trie and, per level, the token id of each code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """
    try:
        named = load_file(path)
        sets: list[Catalogue] = []
        while not sets or any(name.startswith(_prefix(len(sets))) for name in named):
            prefix = _prefix(len(sets))
            own = {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
            trie = SIDTrie.from_arrays(own)
            tokens = [own.get(f"code_tokens.{level}", np.empty(0)) for level in range(trie.levels)]
            sets.append((trie, tokens))
        return _checked(sets, vocab_size=2**31)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: {error}; expected a file written by save_constraint") from error


def _prefix(number: int) -> str:
    """Returns how the names of a set's arrays begin; those of the first set are plain."""
    return f"{number}." if number else ""


def _checked(sets: Sequence[Catalogue], *, vocab_size: int) -> list[Checked]:
    """Checks that tokens fit their tries, and that each is a code of one set only."""
    if not sets:
        raise ValueError("no set of SIDs; expected one or more")
    checked = [(trie, check_tokens(tokens, trie, vocab_size=vocab_size)) for trie, tokens in sets]
    whole = [np.concatenate(tokens) for _, tokens in checked]
    ids, counts = np.unique(np.concatenate(whole), return_counts=True)
    if counts.max() > 1:
        token = ids[counts.argmax()]
        holders = [number for number, own in enumerate(whole) if token in own]
        raise ValueError(
            f"token {token} stands for codes of sets {holders}; expected tokens of its own for each "
            "set, as genrec.sid.SIDSets.tokens gives them"
        )
    return checked


def read_settings(additional_config: Any) -> dict[str, str]:
    """Returns `additional_config["genrec"]`, or says what is wrong with it.

    Raises:
        ValueError: if there is none, or it has other settings than it should.
    """
    settings = additional_config.get("genrec") if isinstance(additional_config, dict) else None
    if not isinstance(settings, dict) or not settings.get("constraint"):
        raise ValueError(f"SIDProcessor finds no constraint file; expected {EXAMPLE}")
    if unknown := sorted(settings.keys() - SETTINGS):
        raise ValueError(f"additional_config['genrec'] has {unknown}; expected {sorted(SETTINGS)}")
    if settings.get("default", "constrain") not in ("constrain", "free"):
        raise ValueError(f"default is {settings['default']!r}; expected 'constrain' or 'free'")
    if not Path(settings["constraint"]).is_file():
        raise FileNotFoundError(
            f"{settings['constraint']}: no constraint file; write it with "
            "genrec.decode.vllm_constraint.save_constraint(path, [(trie, code_tokens)])"
        )
    return settings


class Constraint:
    """Which tokens may follow, for rows of logits whose place in a trie is known or walked to.

    A place is three numbers: the set of SIDs, the level whose code comes next, and a node of the level
    above (0 at the root). A node of -1 stands for a prefix that no item has.
    """

    def __init__(
        self,
        sets: Sequence[Catalogue],
        *,
        vocab_size: int,
        end: int | None,
        device: torch.device | str,
        among_codes: bool = False,
    ) -> None:
        """Lays the tables out.

        Args:
            sets: the trie and the tokens of each set, as `load_constraint` returns.
            vocab_size: the model's V.
            end: the token that ends a text; None takes the first token that is no code.
            device: where the logits are.
            among_codes: a code's probability is among those of its level and set, and not over the
                vocabulary, as the model was trained (`genrec.decode.head.SOFTMAX`).

        Raises:
            ValueError: if a code has a token that the model does not have.
        """
        checked = _checked(sets, vocab_size=vocab_size)
        self._device, self._among_codes = torch.device(device), among_codes
        self.levels = np.array([trie.levels for trie, _ in checked])
        self.tail = max(1, int(self.levels.max()) - 1)  # the last tokens that tell a place
        # All levels of all sets in a row; what follows has an entry for each of these steps.
        self._first_step = self.levels.cumsum() - self.levels
        self._set = np.repeat(np.arange(len(checked)), self.levels)
        self._level = np.arange(len(self._set)) - self._first_step[self._set]
        self._code_tokens = [tokens for _, each in checked for tokens in each]
        self._keys = [keys for trie, tokens in checked for keys in _keys(trie, tokens)]
        self._fan_out = [most for trie, _ in checked for most in trie.fan_out]
        self._num_nodes = [n for trie, _ in checked for n in (1, *map(len, trie.node_codes[:-1]))]
        self._all_codes = [torch.from_numpy(tokens).to(device) for tokens in self._code_tokens]
        self._tokens, self._first_child = [], []
        for trie, tokens in checked:
            ids_of_nodes = [t[c] for t, c in zip(tokens, trie.node_codes, strict=True)]
            self._tokens += [torch.from_numpy(each).to(device) for each in ids_of_nodes]
            root = np.array([0, len(trie.node_codes[0])], dtype=np.int32)
            pointers = [root, *trie.first_child[:-1]]
            self._first_child += [torch.from_numpy(each).to(device) for each in pointers]
        # One more than the vocabulary, so that -1, "no token", finds step -1.
        self._step = np.full(vocab_size + 1, -1, dtype=np.int16)
        self._code = np.zeros(vocab_size + 1, dtype=np.int64)
        for step, ids in enumerate(self._code_tokens):
            self._step[ids] = step
            self._code[ids] = np.arange(len(ids))
        self._end = int(np.flatnonzero(self._step == -1)[0]) if end is None else end

    def known_codes(
        self, number: int, level: int, node: int, codes: Sequence[int] | None
    ) -> list[int] | None:
        """Returns those of `codes` that the level has (None: any); [] if there is no such place."""
        if number >= len(self.levels) or level >= self.levels[number]:
            return []
        step = self._first_step[number] + level
        if node >= self._num_nodes[step]:
            return []
        if codes is None:
            return None
        return [code for code in codes if code < len(self._code_tokens[step])]

    def walk(self, tails: NDArray[np.int64], sets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Finds the place of texts by their last tokens.

        No token belongs to two levels or sets, so the last one tells the set and how long the prefix
        is: none after a token that is no code, and none after a code of the last level, which ends a
        SID; the next one is of the same set.

        Args:
            tails: the last `tail` tokens of each text, -1 where there is none. int64 [R, tail].
            sets: the set of a text whose last token is no code. int64 [R].

        Returns:
            The places, int64 [R, 3].
        """
        last = self._step[tails[:, -1]]
        number = np.where(last >= 0, self._set[last], sets)
        level = np.where(last >= 0, self._level[last] + 1, 0)
        level[level == self.levels[number]] = 0
        node = np.zeros_like(level)
        for step, (own, depth) in enumerate(zip(self._set, self._level, strict=True)):
            at = np.flatnonzero((number == own) & (level > depth) & (node >= 0))
            if not len(at):
                continue
            token = tails[at, self.tail - level[at] + depth]
            key = node[at] * len(self._code_tokens[step]) + self._code[token]
            position = np.searchsorted(self._keys[step], key)
            there = self._keys[step][position.clip(max=len(self._keys[step]) - 1)] == key
            node[at] = np.where(there & (self._step[token] == step), position, -1)
        return np.stack([number, level, node], axis=1)

    def apply(
        self,
        logits: torch.Tensor,
        rows: NDArray[np.int64],
        places: NDArray[np.int64],
        codes: Sequence[Sequence[int] | None],
    ) -> None:
        """Writes log-probabilities, and -inf where no item goes on.

        They are over the full vocabulary or, in constrained rows with `among_codes`, among the codes
        of the level. Rows that are not named only get their log-softmax. A row of a place that no item
        has keeps the end of the text as its only token, with the log-probability IMPOSSIBLE. A row
        with NaN or infinite logits becomes NaN.

        Args:
            logits: what the model says, changed in place. float32 [M, V].
            rows: which rows are constrained. int64 [R], distinct.
            places: where each stands. int64 [R, 3].
            codes: the only codes that each may take; None for all that the trie has.
        """
        number, level, node = places.T
        steps = self._first_step[number] + level
        on_trie = node >= 0
        normaliser = logits.logsumexp(-1, keepdim=True)
        normaliser = torch.where(normaliser.isfinite(), normaliser, torch.nan)
        if self._among_codes:
            for step in np.unique(steps[on_trie]).tolist():
                here = self._to_device(rows[on_trie & (steps == step)])
                own = logits[here[:, None], self._all_codes[step]]
                own = torch.where(own.isfinite() & normaliser[here].isfinite(), own, torch.nan)
                normaliser[here] = own.logsumexp(-1, keepdim=True)
        logits -= normaliser
        listed = {row: entry for row, entry in enumerate(codes) if entry is not None}
        whole = on_trie.copy()
        whole[list(listed)] = False
        parts = []  # (rows, tokens [r, F]): tokens repeat where a row has fewer than F
        for step in np.unique(steps[whole]).tolist():
            here = whole & (steps == step)
            parts.append((rows[here], self._children(step, node[here])))
        for row, entry in listed.items():
            if on_trie[row]:
                tokens = self._code_tokens[steps[row]][list(entry)]
                parts.append((rows[[row]], self._to_device(tokens)[None]))
        index = [self._to_device(part)[:, None] for part, _ in parts]
        kept = [logits[i, tokens] for i, (_, tokens) in zip(index, parts, strict=True)]
        logits.index_fill_(0, self._to_device(rows), -torch.inf)
        for i, (_, tokens), values in zip(index, parts, kept, strict=True):
            logits[i, tokens] = values
        logits[self._to_device(rows[~on_trie]), self._end] = IMPOSSIBLE

    def _children(self, step: int, nodes: NDArray[np.int64]) -> torch.Tensor:
        """Returns the tokens below each node, int64 [r, F]; the first one fills the rest."""
        above = self._to_device(nodes)
        start = self._first_child[step][above].unsqueeze(-1)
        end = self._first_child[step][above + 1].unsqueeze(-1)
        child = start + torch.arange(self._fan_out[step], device=self._device)
        return self._tokens[step][torch.where(child < end, child, start)]

    def _to_device(self, numbers: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._device)


def _keys(trie: SIDTrie, code_tokens: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Returns parent * C + code of every node, ascending per level; none of the last, a whole SID."""
    keys, above = [], np.array([len(trie.node_codes[0])])
    for level, codes in enumerate(trie.node_codes[:-1]):
        parents = np.repeat(np.arange(len(above)), above)
        keys.append(parents * len(code_tokens[level]) + codes)
        above = np.diff(trie.first_child[level])
    return [*keys, np.empty(0, dtype=np.int64)]
