"""What a trained LM writes when nothing holds it: texts, and sequences where a SID should stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from genrec.lm.batch import encode_prompts, ending
from genrec.progress import Progress, silent
from genrec.schema import Segment

Prompts = Sequence[tuple[Segment, ...]]


class Writer:
    """A model, its tokenizer and the SID tokens, as `Recommender` holds them.

    Args:
        model: a causal LM that has been trained.
        tokenizer: its own.
        code_tokens: per level, the token id of each code. L int64 arrays [C_l].
        max_length: longest prompt, tokens; longer ones lose their oldest items.
        batch_size: B, prompts at once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        code_tokens: Sequence[np.ndarray],
        *,
        max_length: int,
        batch_size: int = 64,
    ) -> None:
        self._model, self._tokenizer, self._code_tokens = model, tokenizer, code_tokens
        self._max_length, self._batch_size = max_length, batch_size

    def texts(
        self,
        prompts: Prompts,
        *,
        max_tokens: int,
        step: str = "write",
        progress: Progress = silent,
    ) -> list[str]:
        """Returns the greedy continuation of each prompt as text, up to what ends one.

        SIDs are no text: a SID token that the model writes within a text is left out.

        Args:
            prompts: as `lm.compose` makes them.
            max_tokens: the longest text, in tokens.
            step: the name that `progress` is told.
            progress: told how many prompts are done.
        """
        stop = next(reversed(ending(self._tokenizer)), None)
        texts: list[str] = []
        for rows in self._generate(prompts, progress, step, new=max_tokens, stop=stop, beams=1):
            for row in rows[:, 0].tolist():
                texts.append(self._tokenizer.decode(row, skip_special_tokens=True).strip())
        return texts

    def sids(
        self,
        prompts: Prompts,
        *,
        num_beams: int,
        step: str = "write",
        progress: Progress = silent,
    ) -> NDArray[np.int64]:
        """Returns what stands where a SID should, searched over the whole vocabulary, no trie.

        Args:
            prompts: B prompts, which ask for a SID.
            num_beams: W; 1 is greedy.
            step: the name that `progress` is told.
            progress: told how many prompts are done.

        Returns:
            int64 [B, W, L], best first: the code of each level, -1 where another token stands.
        """
        levels = len(self._code_tokens)
        parts = self._generate(prompts, progress, step, new=levels, stop=None, beams=num_beams)
        written = np.concatenate(list(parts))
        codes = np.full(written.shape, -1, dtype=np.int64)
        for level, tokens in enumerate(self._code_tokens):
            code_of = {int(token): code for code, token in enumerate(tokens)}
            for place in np.ndindex(written.shape[:2]):
                codes[*place, level] = code_of.get(int(written[*place, level]), -1)
        return codes

    @torch.inference_mode()
    def _generate(
        self,
        prompts: Prompts,
        progress: Progress,
        step: str,
        *,
        new: int,
        stop: int | None,
        beams: int,
    ) -> Iterator[NDArray[np.int64]]:
        """Yields int64 [B, W, T]: what is new, batch by batch."""
        device = next(self._model.parameters()).device
        config = GenerationConfig(
            do_sample=False,
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=new,
            eos_token_id=stop,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        for start in range(0, len(prompts), self._batch_size):
            part = prompts[start : start + self._batch_size]
            input_ids, mask = encode_prompts(
                self._tokenizer, self._code_tokens, part, max_length=self._max_length
            )
            with _no_settings(self._model):
                out = self._model.generate(
                    input_ids=input_ids.to(device),
                    attention_mask=mask.to(device),
                    generation_config=config,
                )
            written = out[:, input_ids.shape[1] :].cpu().numpy()
            yield written.reshape(len(part), beams, -1)
            progress(step, start + len(part), len(prompts))


@contextmanager
def _no_settings(model: Any) -> Iterator[None]:
    """Takes a model's own generation settings away; `generate` fills in from them whatever is None.

    A penalty would change what the model says, and its EOS would end a sequence that is to have so
    many tokens.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
