"""transformers in this process: text and vision-language models, batched, on a CPU or a GPU.

Prompts are padded on the left and batched with others of their kind. Sampling adds Gumbel noise from
a generator of each row's own, so that a reply depends on its request's seed and on nothing else in
the batch. A JSON schema is held by xgrammar, which masks every token that would break it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
)

from genrec.data.images import BadImage, open_image
from genrec.engines import judge
from genrec.engines.protocol import EngineError, Reply, Request, Score
from genrec.weights import find_weights, loading, weights_identity

T = TypeVar("T")
Images = list[Image.Image]
Work = Callable[[Sequence[int], Any], Sequence[T]]  # of rows and their encoded prompts


class HFEngine:
    """A model loaded by transformers; loads on the first request.

    Args:
        model: hub id, folder, GGUF file, `asset:<name>` or `package:<import name>`; see
            `find_weights`. Chat template included.
        device: where it runs.
        dtype: torch dtype of the weights by name; "auto" keeps that of the files.
        batch_size: B, requests computed at once.
        chat_options: given to the chat template, such as {"enable_thinking": False}.
        store: as of `find_weights`.

    Raises:
        FileNotFoundError: there is no such model.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        batch_size: int = 8,
        chat_options: Mapping[str, Any] | None = None,
        store: str | Path | None = None,
    ) -> None:
        self._name, self._device, self._dtype, self._store = model, device, dtype, store
        self._batch_size, self._chat_options = batch_size, dict(chat_options or {})
        self._loaded: _Loaded | None = None
        options = json.dumps(self._chat_options, sort_keys=True)
        self.identity = f"hf\n{weights_identity(model)}\n{dtype}\n{options}"

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Yields (index, reply), batch by batch; see `Engine.generate`.

        Raises:
            EngineError: the model sees no images and a request has one.
        """

        def write(rows: Sequence[int], inputs: Any) -> list[Reply]:
            part = [requests[row] for row in rows]
            processors = self._processors(part)
            return self._model().complete(inputs, part[0].max_tokens, processors)

        yield from self._each(requests, write)

    def log_odds(
        self, requests: Sequence[Request], *, yes: str = "yes", no: str = "no"
    ) -> Iterator[tuple[int, Score]]:
        """Yields (index, log-odds of the next word), batch by batch; see `Judge.log_odds`.

        Raises:
            EngineError: see there.
        """

        def odds(rows: Sequence[int], inputs: Any) -> list[Score]:
            model = self._model()
            words = [judge.word_tokens(model.tokenizer, word) for word in (yes, no)]
            return judge.next_odds(model.model, inputs, *words)

        yield from _scores(self._each(requests, odds))

    def log_likelihoods(
        self, requests: Sequence[Request], replies: Sequence[str]
    ) -> Iterator[tuple[int, Score]]:
        """Yields (index, log-likelihood of a reply), batch by batch; see `Reader`.

        Raises:
            EngineError: as `generate`.
        """

        def read(rows: Sequence[int], inputs: Any) -> list[Score]:
            said = [(replies[row], requests[row].max_tokens) for row in rows]
            return judge.likelihoods(self._model().model, self._model().tokenizer, inputs, said)

        yield from _scores(self._each(requests, read, alike=True))

    def close(self) -> None:
        """Drops the model."""
        self._loaded = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _model(self) -> _Loaded:
        if self._loaded is None:
            self._loaded = _Loaded(self._name, self._device, self._dtype, self._store)
        return self._loaded

    def _each(
        self, requests: Sequence[Request], work: Work[T], *, alike: bool = False
    ) -> Iterator[tuple[int, T | Reply]]:
        """Yields what `work` makes of each request, or the reply that says why it makes nothing."""
        for rows in _batches(requests, self._batch_size):
            opened, failed = _open(requests, rows)
            yield from failed
            if opened:
                yield from self._answer(requests, opened, work, alike)

    def _answer(
        self,
        requests: Sequence[Request],
        opened: Mapping[int, Images],
        work: Work[T],
        alike: bool,
    ) -> Iterator[tuple[int, T | Reply]]:
        """Answers one batch; its requests differ in texts, images and seeds only.

        With `alike` its prompts are of one length too, so that none is padded.
        """
        model, rows = self._model(), list(opened)
        first = requests[rows[0]]
        chats = [_chat(requests[row], opened[row], model.sees) for row in rows]
        inputs = model.encode(chats, self._chat_options)
        room = model.context - first.max_tokens
        lengths = dict(zip(rows, inputs["attention_mask"].sum(dim=1).tolist(), strict=True))
        groups: dict[int, dict[int, Images]] = {}
        for row, length in lengths.items():
            if length > room:
                yield row, _too_long(length, first.max_tokens, room)
            else:
                groups.setdefault(length if alike else 0, {})[row] = opened[row]
        if groups and len(next(iter(groups.values()))) == len(rows):
            yield from zip(rows, work(rows, inputs), strict=True)
        else:
            for group in groups.values():
                yield from self._answer(requests, group, work, alike)

    def _processors(self, requests: Sequence[Request]) -> LogitsProcessorList:
        processors, first = LogitsProcessorList(), requests[0]
        if first.schema is not None:
            processors.append(self._model().grammar(first.schema))
        if first.temperature > 0:
            processors.append(_GumbelNoise([r.seed for r in requests], first.temperature))
        return processors


class _Loaded:
    """A model, and the processor or tokenizer that speaks its chat template."""

    def __init__(self, name: str, device: str, dtype: str, store: str | Path | None) -> None:
        folder = find_weights(name, store=store)
        with loading(name):
            config = AutoConfig.from_pretrained(folder)
            self.sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            kind = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
            self.model = kind.from_pretrained(folder, dtype=dtype).to(device).eval()
            processor = (AutoProcessor if self.sees else AutoTokenizer).from_pretrained(folder)
        self._processor, self._name = processor, name
        self.tokenizer = processor.tokenizer if self.sees else processor
        self.tokenizer.padding_side = "left"
        self._config = copy.deepcopy(self.model.generation_config)
        self._stops = _stop_tokens(self._config.eos_token_id, self.tokenizer)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = self._stops[0]
        limit = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.context = int(limit) if limit else 2**31
        self._compiler: Any = None

    def encode(self, chats: list[list[dict[str, Any]]], options: Mapping[str, Any]) -> Any:
        """Renders and tokenises conversations: input_ids [B, T], left-padded, and the images."""
        settings: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        if self.sees:
            settings = {"processor_kwargs": settings | {"padding_side": "left"}}
        try:
            encoded = self._processor.apply_chat_template(
                chats,
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                **settings,
                **options,
            )
        except ValueError as error:
            raise EngineError(f"{self._name}: its chat template cannot be used: {error}") from error
        return encoded.to(self.model.device)

    def grammar(self, schema: Mapping[str, Any]) -> LogitsProcessor:
        """Returns the processor that holds replies to a JSON schema; good for one batch."""
        import xgrammar  # slow; captions need it not
        from xgrammar.contrib.hf import LogitsProcessor as Grammar

        if self._compiler is None:
            size = self.model.get_output_embeddings().weight.shape[0]
            info = xgrammar.TokenizerInfo.from_huggingface(
                self.tokenizer, vocab_size=size, stop_token_ids=self._stops
            )
            self._compiler = xgrammar.GrammarCompiler(info)  # remembers what it has compiled
        # A free choice of white space is a loop that small models fall into.
        text = json.dumps(schema)
        return Grammar(self._compiler.compile_json_schema(text, any_whitespace=False))

    @torch.inference_mode()
    def complete(
        self, inputs: Any, max_tokens: int, processors: LogitsProcessorList
    ) -> list[Reply]:
        """Continues each row of input_ids [B, T] by at most `max_tokens`."""
        config = copy.deepcopy(self._config)
        config.update(
            do_sample=False,  # the noise in `processors` samples, row by row
            temperature=None,
            top_p=None,
            top_k=None,
            max_length=None,
            max_new_tokens=max_tokens,
            eos_token_id=self._stops,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        out = self.model.generate(**inputs, generation_config=config, logits_processor=processors)
        return [self._reply(row.tolist()) for row in out[:, inputs["input_ids"].shape[1] :]]

    def _reply(self, tokens: list[int]) -> Reply:
        ends = [place for place, token in enumerate(tokens) if token in self._stops]
        kept = tokens[: ends[0]] if ends else tokens
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        return Reply(text, "stop" if ends else "length")


class _GumbelNoise(LogitsProcessor):
    """Makes greedy decoding sample: argmax(logits / T + Gumbel noise) has the softmax's odds.

    Each row draws from a generator of its own, on the CPU, the same on every device.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns float32 [B, vocabulary]; masked tokens stay masked."""
        size = scores.shape[1]
        drawn = torch.stack([torch.empty(size).exponential_(generator=g) for g in self._generators])
        noise = -drawn.clamp_min(torch.finfo(torch.float32).tiny).log()
        return scores.float() / self._temperature + noise.to(scores.device)


def _scores(results: Iterable[tuple[int, Score | Reply]]) -> Iterator[tuple[int, Score]]:
    """Turns the replies that report an error into scores that do."""
    for row, score in results:
        yield row, Score(None, score.error) if isinstance(score, Reply) else score


def _batches(requests: Sequence[Request], size: int) -> Iterable[list[int]]:
    """Divides requests into batches of one kind, longest first: memory runs out early, if at all."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for row, request in enumerate(requests):
        kind = (
            json.dumps(request.schema, sort_keys=True),
            request.max_tokens,
            request.temperature,
            bool(request.images),
        )
        kinds.setdefault(kind, []).append(row)
    for rows in kinds.values():
        rows.sort(key=lambda row: -sum(len(m.text) for m in requests[row].messages))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _open(
    requests: Sequence[Request], rows: Sequence[int]
) -> tuple[dict[int, Images], list[tuple[int, Reply]]]:
    """Returns the images of each row, and the rows that have one which no model may see."""
    opened: dict[int, Images] = {}
    failed = []
    for row in rows:
        side = requests[row].longest_side
        try:
            opened[row] = [open_image(p, longest_side=side) for p in requests[row].images]
        except BadImage as error:
            failed.append((row, Reply.failed(str(error), permanent=True)))
    return opened, failed


def _chat(request: Request, images: Images, sees: bool) -> list[dict[str, Any]]:
    """Returns a conversation as transformers' chat templates read it."""
    if not sees:
        if images:
            raise EngineError("this model sees no images; expected a vision-language model")
        return [{"role": m.role, "content": m.text} for m in request.messages]
    left, chat = iter(images), []
    for message in request.messages:
        parts: list[dict[str, Any]] = [{"type": "text", "text": message.text}]
        if message.image is not None:
            parts.insert(0, {"type": "image", "image": next(left)})
        chat.append({"role": message.role, "content": parts})
    return chat


def _stop_tokens(configured: int | list[int] | None, tokenizer: Any) -> list[int]:
    listed = configured if isinstance(configured, list) else [configured]
    stops = sorted({int(t) for t in (*listed, tokenizer.eos_token_id) if t is not None})
    if not stops:
        raise EngineError(
            "this model has no end-of-turn token: set eos_token_id in its "
            "generation_config.json or eos_token in its tokenizer"
        )
    return stops


def _too_long(length: int, max_tokens: int, room: int) -> Reply:
    return Reply.failed(
        f"prompt too long: {length} tokens and {max_tokens} to write, "
        f"the model holds {room + max_tokens}",
        permanent=True,
    )
