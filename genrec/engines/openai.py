"""Any endpoint that speaks OpenAI's chat completions: a `vllm serve` fleet, ollama, a hosted API.

The official client does the retries: 408, 409, 429, 5xx, timeouts and lost connections, waiting as
long as `Retry-After` says or twice as long each time. What concerns one request becomes its reply's
error; what concerns them all (a refused key, no such model, nobody there) is an `EngineError`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from genrec.data.images import BadImage, open_image
from genrec.engines.judge import listed_odds
from genrec.engines.protocol import EngineError, Message, Reply, Request, Score, one_line
from genrec.extras import install
from genrec.keys import api_key

T = TypeVar("T")
_LISTED = 20  # likeliest tokens that an endpoint lists at most
_LENGTHS = ("minLength", "maxLength")  # not among what hosted APIs take in their strict mode


class OpenAIEngine:
    """An endpoint and a model it serves.

    Args:
        base_url: such as http://localhost:8000/v1. Not part of the identity: replies come from the
            model, wherever it is served. Weights that differ need names or revisions that differ.
        model: as the endpoint names it.
        revision: anything that tells two states of one model name apart.
        key: the environment variable that holds the key; None where the endpoint needs none.
        concurrency: requests under way at once.
        timeout: seconds without an answer before a request is tried again.
        max_retries: further tries of a request, see above.
        per_minute: most requests in a minute, retries included, evenly spaced; None for no limit.
        strict: ask for OpenAI's strict mode, which takes no lengths in a schema; others ignore it.
        limit_name: the field that carries `max_tokens`; some hosted models take only the newer one.
        extra: further fields of the request's body that change replies.

    Raises:
        ValueError: the environment variable is not set.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        revision: str = "",
        key: str | None = "OPENAI_API_KEY",
        concurrency: int = 16,
        timeout: float = 120.0,
        max_retries: int = 6,
        per_minute: float | None = None,
        strict: bool = False,
        limit_name: str = "max_tokens",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self._key, self._key_name = api_key(key, whose="engine openai"), key
        self._url, self._model = base_url, model
        self._concurrency, self._timeout, self._max_retries = concurrency, timeout, max_retries
        self._per_minute, self._strict, self._limit_name = per_minute, strict, limit_name
        self._extra = dict(extra or {})
        settings = json.dumps([model, revision, strict, self._extra], sort_keys=True)
        self.identity = f"openai\n{settings}"

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Yields (index, reply) as they arrive; see `Engine.generate`.

        Raises:
            EngineError: the endpoint cannot be reached, refuses the key, or lacks the model; or
                the `openai` package is not installed.
        """
        yield from self._each(requests, {}, _reply)

    def log_odds(
        self, requests: Sequence[Request], *, yes: str = "yes", no: str = "no"
    ) -> Iterator[tuple[int, Score]]:
        """Yields (index, log-odds of the next word), as they arrive; see `Judge.log_odds`.

        An endpoint lists its 20 likeliest tokens: see `listed_odds` for what is not among them.

        Raises:
            EngineError: see there.
        """
        sampling = {
            "temperature": 0,
            self._limit_name: 1,
            "logprobs": True,
            "top_logprobs": _LISTED,
        }

        def read(answer: Any) -> Score:
            listed = getattr(answer.choices[0], "logprobs", None) if answer.choices else None
            if listed is None or not listed.content:
                return Score(None, "the endpoint gives no log-probabilities")
            top = [(c.token, c.logprob) for c in listed.content[0].top_logprobs]
            return listed_odds(top, yes, no)

        for row, score in self._each(requests, sampling, read):
            yield row, Score(None, score.error) if isinstance(score, Reply) else score

    def _each(
        self, requests: Sequence[Request], sampling: Mapping[str, Any], read: Callable[[Any], T]
    ) -> Iterator[tuple[int, T | Reply]]:
        """Yields what `read` makes of each answer, or the reply that says why there is none."""
        # A thread of its own: it works in notebooks too, whose thread already runs an event loop.
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        work = loop.create_task(self._all(requests, sampling, read, results))
        thread = threading.Thread(target=_drive, args=(loop, work, results), daemon=True)
        thread.start()
        try:
            while (got := results.get()) is not None:
                if isinstance(got, BaseException):
                    raise got
                yield got
        finally:
            loop.call_soon_threadsafe(work.cancel)
            thread.join()
            loop.close()

    def close(self) -> None:
        """Nothing stays open between two calls of `generate`."""

    async def _all(
        self,
        requests: Sequence[Request],
        sampling: Mapping[str, Any],
        read: Callable[[Any], Any],
        results: queue.SimpleQueue[Any],
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise EngineError(
                f"engine openai needs the openai package: {install('openai')}"
            ) from error
        hooks = {"request": [_Pace(self._per_minute).wait]} if self._per_minute else {}
        client = openai.AsyncOpenAI(
            base_url=self._url,
            api_key=self._key,
            timeout=self._timeout,
            max_retries=self._max_retries,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks=hooks, timeout=self._timeout),
        )
        rows = iter(range(len(requests)))

        async def worker() -> None:
            for row in rows:  # shared: each takes the next one
                answer = await self._ask(client, requests[row], sampling)
                results.put((row, answer if isinstance(answer, Reply) else read(answer)))

        async with client, asyncio.TaskGroup() as group:
            for _ in range(min(self._concurrency, len(requests))):
                group.create_task(worker())

    async def _ask(self, client: Any, request: Request, sampling: Mapping[str, Any]) -> Any:
        """Returns the endpoint's answer, or the reply that says why there is none."""
        import openai

        try:
            body = await asyncio.to_thread(self._body, request)
        except BadImage as error:
            return Reply.failed(str(error), permanent=True)
        try:
            return await client.chat.completions.create(**{**body, **sampling})
        except openai.APITimeoutError:
            return Reply.failed(f"timeout: no answer in {self._timeout:g} s, {self._tries()}")
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise EngineError(
                f"{self._url}: cannot be reached ({cause}), {self._tries()}; is it running? "
                "What was answered is kept: run again to go on"
            ) from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403, 404):
                raise EngineError(
                    f"{self._url}, model {self._model}: {_status(error)}; "
                    f"check base_url, model and the key (environment variable: {self._key_name})"
                ) from error
            return Reply.failed(_status(error))
        except (openai.APIError, ValueError) as error:  # HTTP 200 and a body that is not JSON
            return Reply.failed(f"malformed answer: {one_line(str(error))}")

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [_turn(m, request.longest_side) for m in request.messages],
            "temperature": request.temperature,
            "seed": request.seed,
            self._limit_name: request.max_tokens,
        }
        if request.schema is not None:
            schema = _without(request.schema, _LENGTHS) if self._strict else dict(request.schema)
            named = {"name": "reply", "schema": schema, "strict": self._strict}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body | ({"extra_body": self._extra} if self._extra else {})

    def _tries(self) -> str:
        return f"tried {self._max_retries + 1} times"


class _Pace:
    """Lets requests pass one by one, at most so many a minute."""

    def __init__(self, per_minute: float) -> None:
        self._gap, self._next = 60 / per_minute, 0.0

    async def wait(self, request: object) -> None:
        """Sleeps until this request's turn."""
        turn = max(self._next, time.monotonic())
        self._next = turn + self._gap
        await asyncio.sleep(turn - time.monotonic())


def _drive(
    loop: asyncio.AbstractEventLoop, work: asyncio.Task[None], results: queue.SimpleQueue[Any]
) -> None:
    """Runs the loop in its thread; the last thing put is None, or the error that ended it."""
    end: BaseException | None = None
    try:
        loop.run_until_complete(work)
    except BaseExceptionGroup as group:
        end = group.exceptions[0]
    except BaseException as error:  # the asker's thread raises it, if it still listens
        end = error
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        results.put(end)


def _turn(message: Message, longest_side: int) -> dict[str, Any]:
    if message.image is None:
        return {"role": message.role, "content": message.text}
    stream = io.BytesIO()  # PNG: the same pixels that every other engine's model sees
    open_image(message.image, longest_side=longest_side).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return {
        "role": message.role,
        "content": [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
            {"type": "text", "text": message.text},
        ],
    }


def _reply(answer: Any) -> Reply:
    choices = getattr(answer, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        return Reply.failed("malformed answer: no choices in it")
    message, finish = choices[0].message, choices[0].finish_reason
    if finish not in ("stop", "length"):  # such as content_filter
        why = getattr(message, "refusal", None) or f"finish reason '{finish}'"
        return Reply.failed(f"refused: {one_line(str(why))}", permanent=True)
    return Reply(message.content or "", finish)


def _without(schema: Any, names: Sequence[str]) -> Any:
    """Returns a JSON schema without some keywords, all the way down."""
    if isinstance(schema, Mapping):
        return {k: _without(v, names) for k, v in schema.items() if k not in names}
    return [_without(part, names) for part in schema] if isinstance(schema, list) else schema


def _status(error: Any) -> str:
    said = str(error.message).removeprefix(f"Error code: {error.status_code} - ")
    return f"HTTP {error.status_code}: {one_line(said)}"
