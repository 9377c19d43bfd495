"""The catalogue as a vLLM logits processor needs it: a file, a walk over tokens, a mask over logits.

vLLM's workers are other processes, so the trie and the tokens of its codes travel as one file. No
part of this module imports vLLM.
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


def save_constraint(path: str | Path, trie: SIDTrie, code_tokens: Sequence[ArrayLike]) -> None:
    """Writes the file that `SIDProcessor` reads.

    Args:
        path: where to, a safetensors file.
        trie: the catalogue.
        code_tokens: per level, the token id of each code. L integer arrays [C_l].

    Raises:
        ValueError: if the tokens do not fit the trie.
    """
    tokens = check_tokens(code_tokens, trie, vocab_size=2**31)
    named = {f"code_tokens.{level}": ids for level, ids in enumerate(tokens)}
    save_file(trie.arrays() | named, path)


def load_constraint(path: str | Path) -> tuple[SIDTrie, list[NDArray[np.int64]]]:
    """Reads what `save_constraint` wrote.

    Returns:
        The trie and, per level, the token id of each code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """
    try:
        named = load_file(path)
        trie = SIDTrie.from_arrays(named)
        tokens = [named.get(f"code_tokens.{level}", np.empty(0)) for level in range(trie.levels)]
        return trie, check_tokens(tokens, trie, vocab_size=2**31)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: {error}; expected a file written by save_constraint") from error


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
            "genrec.decode.vllm_constraint.save_constraint(path, trie, code_tokens)"
        )
    return settings


class Constraint:
    """Which tokens may follow, for rows of logits whose place in the trie is known or walked to.

    A place is the level whose code comes next and a node of the level above (0 at the root); a node
    of -1 stands for a prefix that no item has.
    """

    def __init__(
        self,
        trie: SIDTrie,
        code_tokens: list[NDArray[np.int64]],
        *,
        vocab_size: int,
        end: int | None,
        device: torch.device | str,
    ) -> None:
        """Lays the tables out.

        Args:
            trie: the catalogue.
            code_tokens: per level, the token id of each code, as `load_constraint` returns.
            vocab_size: the model's V.
            end: the token that ends a text; None takes the first token that is no code.
            device: where the logits are.

        Raises:
            ValueError: if a code has a token that the model does not have.
        """
        check_tokens(code_tokens, trie, vocab_size=vocab_size)
        self.levels, self.code_tokens = trie.levels, code_tokens
        # One more than the vocabulary, so that -1, "no token", finds level -1.
        self._level = np.full(vocab_size + 1, -1, dtype=np.int16)
        self._code = np.zeros(vocab_size + 1, dtype=np.int64)
        for level, tokens in enumerate(code_tokens):
            self._level[tokens] = level
            self._code[tokens] = np.arange(len(tokens))
        self._end = int(np.flatnonzero(self._level == -1)[0]) if end is None else end
        self._keys = _keys(trie, code_tokens)
        self._fan_out = trie.fan_out
        self.num_nodes = [1, *(len(codes) for codes in trie.node_codes)]
        self._device = torch.device(device)
        self._tokens = [
            torch.from_numpy(tokens[codes]).to(device)
            for tokens, codes in zip(code_tokens, trie.node_codes, strict=True)
        ]
        root = torch.tensor([0, len(trie.node_codes[0])], dtype=torch.int32, device=device)
        self._first_child = [root, *(torch.from_numpy(p).to(device) for p in trie.first_child[:-1])]

    def walk(self, tails: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Finds the place of texts by their last tokens.

        No token belongs to two levels, so the last one tells how long the prefix is: none after a
        token that is no code, and none after a code of the last level, which ends a SID.

        Args:
            tails: the last L - 1 tokens of each text, -1 where there is none. int64 [R, L - 1].

        Returns:
            Level and node of each, int64 [R].
        """
        rows, longest = tails.shape
        level, node = np.zeros((2, rows), dtype=np.int64)
        if not longest:
            return level, node
        last = self._level[tails[:, -1]]
        level = np.where(last == self.levels - 1, 0, last + 1).astype(np.int64)
        for step in range(longest):
            at = np.flatnonzero((level > step) & (node >= 0))
            token = tails[at, longest - level[at] + step]
            key = node[at] * len(self.code_tokens[step]) + self._code[token]
            position = np.searchsorted(self._keys[step], key)
            there = self._keys[step][position.clip(max=len(self._keys[step]) - 1)] == key
            node[at] = np.where(there & (self._level[token] == step), position, -1)
        return level, node

    def apply(
        self,
        logits: torch.Tensor,
        rows: NDArray[np.int64],
        level: NDArray[np.int64],
        node: NDArray[np.int64],
        codes: Sequence[Sequence[int] | None],
    ) -> None:
        """Writes log-probabilities over the full vocabulary, and -inf where no item goes on.

        Rows that are not named only get their log-softmax. A row of a place that no item has keeps
        the end of the text as its only token, with the log-probability IMPOSSIBLE. A row with NaN
        or infinite logits becomes NaN.

        Args:
            logits: what the model says, changed in place. float32 [M, V].
            rows: which rows are constrained. int64 [R], distinct.
            level: the level whose code comes next. int64 [R].
            node: the node of the level above, -1 where no item has the prefix. int64 [R].
            codes: the only codes that each may take; None for all that the trie has.
        """
        normaliser = logits.logsumexp(-1, keepdim=True)
        logits -= torch.where(normaliser.isfinite(), normaliser, torch.nan)
        listed = {row: entry for row, entry in enumerate(codes) if entry is not None}
        whole = node >= 0
        whole[list(listed)] = False
        parts = []  # (rows, tokens [r, F]): tokens repeat where a row has fewer than F
        for depth in range(self.levels):
            if (here := whole & (level == depth)).any():
                parts.append((rows[here], self._children(depth, node[here])))
        for row, entry in listed.items():
            if node[row] >= 0:
                tokens = torch.from_numpy(self.code_tokens[level[row]][list(entry)])
                parts.append((rows[[row]], tokens.to(self._device)[None]))
        index = [torch.from_numpy(part).to(self._device)[:, None] for part, _ in parts]
        kept = [logits[i, tokens] for i, (_, tokens) in zip(index, parts, strict=True)]
        logits.index_fill_(0, torch.from_numpy(rows).to(self._device), -torch.inf)
        for i, (_, tokens), values in zip(index, parts, kept, strict=True):
            logits[i, tokens] = values
        logits[torch.from_numpy(rows[node < 0]).to(self._device), self._end] = IMPOSSIBLE

    def _children(self, level: int, nodes: NDArray[np.int64]) -> torch.Tensor:
        """Returns the tokens below each node, int64 [r, F]; the first one fills the rest."""
        above = torch.from_numpy(nodes).to(self._device)
        start = self._first_child[level][above].unsqueeze(-1)
        end = self._first_child[level][above + 1].unsqueeze(-1)
        child = start + torch.arange(self._fan_out[level], device=self._device)
        return self._tokens[level][torch.where(child < end, child, start)]


def _keys(trie: SIDTrie, code_tokens: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Returns parent * C + code of every node above the last level, ascending per level."""
    keys, above = [], np.array([len(trie.node_codes[0])])
    for level, codes in enumerate(trie.node_codes[:-1]):
        parents = np.repeat(np.arange(len(above)), above)
        keys.append(parents * len(code_tokens[level]) + codes)
        above = np.diff(trie.first_child[level])
    return keys
