"""Exact constrained beam search with a `vllm serve` that runs elsewhere and that many may share.

As in `genrec.decode.vllm`, each level asks for the next codes' log-probabilities; here by one completion
request for all beams, whose masks `SIDProcessor` reads off their last tokens. vLLM's own scheduler joins
what several processes ask. `recipes/vllm/serve.py` starts such a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from genrec.decode.next_code import Answers, NextCode, NextCodeSearch
from genrec.extras import install
from genrec.keys import api_key
from genrec.sid.trie import SIDTrie

# JSON has no infinity: vLLM writes this number instead, and no number below it.
FLOOR = -9999.0
PROMPTS = 512  # of one request; vLLM takes 1024, unless VLLM_MAX_COMPLETION_PROMPTS says otherwise
CONNECTIONS = 4  # requests of a level under way at once
START = "start it by recipes/vllm/serve.py with this recipe"


class ServerUnreachable(ConnectionError):
    """The server does not answer, or answers with an error that is not the request's fault."""


class VLLMServerEngine(NextCodeSearch):
    """Recommends items of a catalogue with an LLM that a vLLM server runs.

    Args:
        base_url: such as http://localhost:8000/v1.
        trie: the catalogue.
        code_tokens: per level, the token id of each code. L integer arrays [C_l].
        model: as the server names it. `recipes/vllm/serve.py` puts the content of the artifacts into
            the name, so that another catalogue or other weights are not found.
        vocab_size: the model's V.
        key: the environment variable that holds the server's key; None where it needs none.
        sid_set: which of several sets of SIDs this is; `MixtureEngine` joins an engine for each.
        timeout: seconds without an answer before a request is tried again.
        max_retries: further tries of a request that failed by a lost connection, a timeout or 5xx.

    Raises:
        ImportError: the `openai` package is not installed.
        ServerUnreachable: see there.
        ValueError: the environment variable is not set, the server has another model, runs without
            `SIDProcessor` or has no such set, or the tokens do not fit the trie.
    """

    def __init__(
        self,
        base_url: str,
        trie: SIDTrie,
        code_tokens: Sequence[ArrayLike],
        *,
        model: str,
        vocab_size: int,
        sid_set: int = 0,
        key: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> None:
        self._url, self._model, self._set = base_url, model, sid_set
        self._client = _client(base_url, key, timeout=timeout, max_retries=max_retries)
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="vllm-serve")
        super().__init__(
            trie,
            code_tokens,
            vocab_size=vocab_size,
            max_length=self._served(),
            max_beams=vocab_size - 1,
        )
        other = np.setdiff1d(np.arange(vocab_size), np.concatenate(self._tokens))
        probe = torch.tensor([[other[0] if len(other) else self._tokens[-1][0]]])
        if not self.search(probe, torch.ones_like(probe), num_beams=1).valid.any():
            raise ValueError(
                f"{base_url} finds no item: it has no set {sid_set} of SIDs, counted from 0; {START}"
            )

    def close(self) -> None:
        """Closes the connections."""
        self._pool.shutdown()
        self._client.close()

    def _served(self) -> int:
        """Returns how many tokens the model takes, once it is clear that the server has it."""
        served = {
            model.id: model.model_extra or {} for model in self._call(self._client.models.list)
        }
        if self._model not in served:
            raise ValueError(
                f"{self._url} serves {sorted(served)}, not {self._model}: another recipe's model, or "
                f"other artifacts of this one; {START}"
            )
        return int(served[self._model]["max_model_len"])

    def _answer(self, level: int, questions: Sequence[NextCode]) -> Answers:
        requests = list(_requests(questions))

        def complete(request: tuple[list[int], int]) -> list[Mapping[str, float]]:
            rows, count = request
            return self._complete(level, [questions[row].tokens for row in rows], count)

        triples = [
            (row, *pair)
            for (rows, _), tops in zip(requests, self._pool.map(complete, requests), strict=True)
            for row, top in zip(rows, tops, strict=True)
            for pair in _pairs(top)
        ]
        row, token, value = zip(*triples, strict=True) if triples else ((), (), ())
        return Answers(
            np.array(row, np.int64), np.array(token, np.int64), np.array(value, np.float32)
        )

    def _complete(
        self, level: int, prompts: list[list[int]], count: int
    ) -> list[Mapping[str, float]]:
        """Returns the `count` best codes of `level` after each prompt, "token_id:7" to nats."""
        # After the prompt a SID begins, whatever its last tokens are.
        start = {"sid_set": self._set, "sid_level": 0, "sid_node": 0}
        place = start if level == 0 else {"sid": 1}
        answer = self._call(
            self._client.completions.create,
            model=self._model,
            prompt=prompts,
            max_tokens=1,
            temperature=0.0,
            logprobs=count,
            extra_body={"return_tokens_as_token_ids": True, "vllm_xargs": place},
        )
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        if len(choices) != len(prompts) or any(not c.logprobs for c in choices):
            raise ValueError(
                f"{self._url} answers {len(prompts)} prompts with {len(choices)} choices, or without "
                "log-probabilities; expected vLLM's completions API"
            )
        return [choice.logprobs.top_logprobs[0] for choice in choices]

    def _call(self, ask: Any, **body: Any) -> Any:
        """Asks the server; its errors say whose they are."""
        import openai

        try:
            return ask(**body)
        except openai.APIConnectionError as error:
            why = error.__cause__ or error
            raise ServerUnreachable(f"{self._url}: cannot be reached ({why}); {START}") from error
        except openai.APIStatusError as error:
            said = f"{self._url}: HTTP {error.status_code}: {error.message[:300]}"
            if error.status_code >= 500 or error.status_code == 429:
                raise ServerUnreachable(said) from error
            raise ValueError(said) from error


def _client(base_url: str, key: str | None, **options: Any) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ImportError(
            f"engine vllm-serve needs the openai package: {install('openai')}"
        ) from error
    return openai.OpenAI(
        base_url=base_url, api_key=api_key(key, whose="engine vllm-serve"), **options
    )


def _requests(requests: Sequence[NextCode]) -> Iterator[tuple[list[int], int]]:
    """Yields questions that go together, and how many codes are asked for.

    A request has one count for all of its prompts and no list of codes: where some may not come, all
    children of the prefix are asked for.
    """
    for cut in (False, True):
        rows = [row for row, request in enumerate(requests) if (request.codes is not None) == cut]
        for start in range(0, len(rows), PROMPTS):
            part = rows[start : start + PROMPTS]
            yield part, max(requests[row].children if cut else requests[row].wanted for row in part)


def _pairs(listed: Mapping[str, float]) -> Iterator[tuple[int, float]]:
    """Yields token and log-probability of what can come next."""
    for name, value in listed.items():
        if value > FLOOR:
            yield int(name.removeprefix("token_id:")), value
