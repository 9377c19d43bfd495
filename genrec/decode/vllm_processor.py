"""A vLLM logits processor that lets a request write only SIDs of the catalogue.

vLLM 0.32 has two model runners with a processor interface each and refuses the other's, so one
class implements both. It is named at start-up and not registered as an entry point, which would be
loaded into every vLLM on the machine:

    LLM(folder, logits_processors=["genrec.decode.vllm_processor:SIDProcessor"],
        logprobs_mode="processed_logits",
        additional_config={"genrec": {"constraint": "sid_constraint.safetensors"}})
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessor as RunnerV1
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as RunnerV2

from genrec.decode.head import SOFTMAX
from genrec.decode.rope import refuse_in_vllm
from genrec.decode.vllm_constraint import Constraint, load_constraint, read_settings


class Request(NamedTuple):
    """A constrained request: where it stands, or (level None) its tokens to walk by."""

    sid_set: int
    level: int | None
    node: int
    codes: list[int] | None
    prompt: list[int]
    output: list[int]


class SIDProcessor(RunnerV1, RunnerV2):
    """Masks what no item of the catalogue continues, and writes log-probabilities.

    With `logprobs_mode="processed_logits"` and temperature 0, the log-probabilities that vLLM
    returns are those of the model: over the full vocabulary or, if it was trained so
    (`train.softmax=codes`), of a code among those of its level and set. Where a request stands is
    read from its last tokens: after text or a whole SID a new SID begins, and part of a SID is
    continued. A prefix that no item has can only be ended: the end-of-text token is left, at -1e30.

    `extra_args` of a request's SamplingParams (`vllm_xargs` over HTTP):
        sid: whether it is constrained. Without it, `default` of the settings holds ("constrain",
            unless set to "free").
        sid_set: the set whose SIDs come after text, the first one by default; after a SID, the next
            one is of the same set.
        sid_level, sid_node: where it stands, for max_tokens=1: the level whose code comes next and
            the node of the set's trie on the level above (0 for the first level).
        sid_codes: the only codes that may come next, with sid_level and sid_node.
    """

    def __init__(self, vllm_config: Any, where: Any, is_pin_memory: bool | None = None) -> None:
        """Reads the constraint file; vLLM calls this.

        Args:
            vllm_config: vLLM's configuration, with `additional_config["genrec"]`.
            where: the device (first interface) or the state of all requests (second).
            is_pin_memory: given by the first interface only.

        Raises:
            FileNotFoundError: the constraint file is not there.
            ValueError: the settings or the file are not what they should be, or vLLM gives the model
                another RoPE than transformers.
        """
        settings = read_settings(vllm_config.additional_config)
        if vllm_config.speculative_config is not None:
            raise ValueError("SIDProcessor and speculative decoding exclude each other: drop one")
        self._default = settings.get("default", "constrain") == "constrain"
        self._states = None if isinstance(where, torch.device) else where
        model = vllm_config.model_config
        end = getattr(model.hf_text_config, "eos_token_id", None)
        sets = load_constraint(settings["constraint"])
        longest = max(trie.levels for trie, _ in sets)
        refuse_in_vllm(model.hf_text_config, model.max_model_len, levels=longest)
        self.constraint = Constraint(
            sets,
            vocab_size=model.get_vocab_size(),
            end=end[0] if isinstance(end, list) else end,
            device=where if self._states is None else where.device,
            among_codes=getattr(model.hf_text_config, SOFTMAX, None) == "codes",
        )
        self._requests: dict[int, Request] = {}  # by row (first interface) or slot (second)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Checks a request's `extra_args`.

        Raises:
            ValueError: if they are not as the class says.
        """
        extra = sampling_params.extra_args or {}
        if extra.get("sid", 0) not in (0, 1):
            raise ValueError(f"sid={extra['sid']!r}; expected true or false")
        number = extra.get("sid_set", 0)
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"sid_set={number!r}; expected the number of a set, 0 or more")
        given = {name for name in ("sid_level", "sid_node", "sid_codes") if name in extra}
        if not given:
            return
        if not given >= {"sid_level", "sid_node"}:
            raise ValueError(f"extra_args has {sorted(given)}; expected sid_level and sid_node too")
        codes = extra.get("sid_codes", [0])
        numbers = [extra["sid_level"], extra["sid_node"], *(codes or [None])]
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError("sid_level, sid_node and sid_codes must be integers, 0 or more")
        if sampling_params.max_tokens != 1:
            raise ValueError(
                f"max_tokens={sampling_params.max_tokens} with sid_node, which names the place of "
                "one token; expected max_tokens=1 (without sid_node, the place is read from the "
                "tokens)"
            )

    def is_argmax_invariant(self) -> bool:
        """Returns False: the mask decides which token is the best."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follows the batch's requests (first interface)."""
        # Outputs are read in `apply`, not here: under asynchronous scheduling the last token is a
        # placeholder until just before sampling, when vLLM puts it right.
        process_dict_updates(self._requests, batch_update, self._request)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Takes a request into its slot (second interface)."""
        request = self._request(sampling_params, None, [])
        self._requests.pop(req_idx, None)
        if request is not None:
            self._requests[req_idx] = request
        # Free requests too: their log-probabilities are to be normalised.
        return True

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Masks the constrained rows in place, and normalises all.

        Args:
            logits: float32 [M, V].
            ctx: which request each row belongs to (second interface).

        Returns:
            The same tensor.
        """
        rows, slots = self._rows(logits, ctx)
        requests = [self._requests[slot] for slot in slots.tolist()]
        places = np.array([(r.sid_set, r.level or 0, r.node) for r in requests], dtype=np.int64)
        places = places.reshape(-1, 3)
        walking = np.flatnonzero([request.level is None for request in requests])
        if len(walking):
            if ctx is None:
                tails = _tails([requests[i] for i in walking], self.constraint.tail)
            else:
                tails = self._committed(ctx, rows[walking], slots[walking])
            places[walking] = self.constraint.walk(tails, places[walking, 0])
        self.constraint.apply(logits, rows, places, [request.codes for request in requests])
        return logits

    def _rows(self, logits: torch.Tensor, ctx: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the constrained rows and where each one's request is kept, int64 [R]."""
        if ctx is None:
            rows = np.array(sorted(self._requests), dtype=np.int64)
            return rows, rows
        slots = ctx.idx_mapping_np
        if len(slots) != len(logits):  # rows were spread over devices
            slots = ctx.expanded_idx_mapping.cpu().numpy()
        rows = np.flatnonzero([slot in self._requests for slot in slots.tolist()])
        return rows, slots[rows].astype(np.int64)

    def _request(
        self, params: SamplingParams, prompt: list[int] | None, output: list[int]
    ) -> Request | None:
        """Returns what to keep of a request; None if it is not constrained."""
        extra = params.extra_args or {}
        if "sid_node" not in extra and not extra.get("sid", self._default):
            return None
        # A place outside the trie came from a client, and must not take the engine down.
        number, outside = extra.get("sid_set", 0), Request(0, 0, -1, None, [], [])
        if "sid_node" not in extra:
            known = number < len(self.constraint.levels)
            return Request(number, None, 0, None, prompt or [], output) if known else outside
        level, node, codes = extra["sid_level"], extra["sid_node"], extra.get("sid_codes")
        codes = self.constraint.known_codes(number, level, node, codes)
        return outside if codes == [] else Request(number, level, node, codes, [], [])

    def _committed(
        self, ctx: Any, rows: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Returns the last tokens of some rows, int64 [r, tail] (second interface)."""
        assert self._states is not None
        device, length = self._states.device, self.constraint.tail
        row = torch.from_numpy(rows).to(device)
        slot = torch.from_numpy(slots).to(device)[:, None]
        place = ctx.pos[row].long()[:, None] + torch.arange(1 - length, 1, device=device)
        tokens = self._states.all_token_ids.gpu[slot, place.clamp(min=0)].long()
        # What this row was fed is its last token, whether or not it is committed already.
        tokens[:, -1:] = ctx.input_ids[row].long()[:, None]
        return tokens.masked_fill_(place < 0, -1).cpu().numpy()


def _tails(requests: list[Request], length: int) -> NDArray[np.int64]:
    """Returns the last tokens of each request, int64 [r, length]; -1 where there is none."""
    tails = np.full((len(requests), length), -1, dtype=np.int64)
    for row, request in enumerate(requests):
        tokens = (request.prompt[-length:] + request.output[-length:])[-length:]
        tails[row, length - len(tokens) :] = tokens
    return tails
