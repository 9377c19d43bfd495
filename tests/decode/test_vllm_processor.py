"""Both of vLLM's processor interfaces, driven as its two model runners drive them; no engine runs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-vllm` runs this")

from vllm import SamplingParams
from vllm.v1.sample.logits_processor import _load_custom_logitsprocs
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs

from genrec.decode.vllm import PROCESSOR
from genrec.decode.vllm_constraint import IMPOSSIBLE, save_constraint
from genrec.decode.vllm_processor import SIDProcessor
from genrec.sid.trie import SIDTrie

pytestmark = pytest.mark.vllm

VOCAB, END = 24, 23
CODES = np.array([[0, 0, 1], [0, 2, 0], [1, 1, 1], [1, 1, 0]])
A, B, C = np.array([3, 7]), np.array([11, 5, 2]), np.array([8, 13])  # tokens of the three levels
TEXT = 17
SECOND = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])  # another set, of two levels
D, E = np.array([20, 4]), np.array([18, 21])


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "constraint.safetensors"

    def make(*further, softmax=None, **settings):
        save_constraint(path, [(SIDTrie(CODES), [A, B, C]), *further])
        return SimpleNamespace(
            additional_config={"genrec": {"constraint": str(path), **settings}},
            speculative_config=None,
            model_config=SimpleNamespace(
                get_vocab_size=lambda: VOCAB,
                hf_text_config=SimpleNamespace(eos_token_id=[END, 1], sid_softmax=softmax),
                max_model_len=128,
            ),
        )

    return make


def params(**extra):
    return SamplingParams(max_tokens=1 if "sid_node" in extra else 9, extra_args=extra or None)


class FirstRunner:
    """Keeps requests in rows, moves them about, and shares their growing lists of output."""

    def __init__(self, config):
        self.processor = SIDProcessor(config, torch.device("cpu"), False)

    def update(self, added=(), removed=(), moved=()):
        self.processor.update_state(BatchUpdate(9, list(removed), list(added), list(moved)))

    def run(self, requests, logits):
        self.update([(row, *request) for row, request in enumerate(requests)])
        return self.processor.apply(logits)


class SecondRunner:
    """Keeps requests in slots, tokens on the device, and rows in another order each step."""

    def __init__(self, config):
        tokens = SimpleNamespace(gpu=torch.full((8, 16), -5, dtype=torch.int32))
        self.states = SimpleNamespace(device=torch.device("cpu"), all_token_ids=tokens)
        self.processor = SIDProcessor(config, self.states)

    def run(self, requests, logits):
        slots = np.arange(len(requests))[::-1] + 1
        lengths = []
        for slot, (sampling, prompt, output) in zip(slots, requests, strict=True):
            assert self.processor.add_request(int(slot), sampling)
            text = torch.tensor([*(prompt or []), *output])
            self.states.all_token_ids.gpu[slot, : len(text) - 1] = text[:-1].int()
            lengths.append(len(text))
        self.processor.apply_staged_writes()
        last = [[*(prompt or []), *output][-1] for _, prompt, output in requests]
        ctx = SimpleNamespace(
            idx_mapping_np=slots.astype(np.int32),
            expanded_idx_mapping=torch.from_numpy(slots.copy()),
            pos=torch.tensor(lengths) - 1,
            input_ids=torch.tensor(last, dtype=torch.int32),
        )
        return self.processor.apply(logits, ctx)


REQUESTS = [  # prompt, output, extra_args -> tokens that may follow; None: all
    ([TEXT], [], {}, [*A]),
    ([TEXT, A[0], B[2], C[0]], [], {}, [*A]),  # a whole SID of the history
    ([TEXT], [A[0]], {}, [B[0], B[2]]),
    ([TEXT, A[1]], [B[1]], {}, [*C]),  # from the prompt into the answer
    ([A[1]], [], {}, [B[1]]),  # the shortest of prompts
    ([TEXT, A[0]], [B[1]], {}, "end"),  # no item has it
    ([TEXT, B[1]], [], {}, "end"),  # the middle of a SID alone
    ([TEXT], [], {"sid": False}, None),
    ([TEXT], [A[0]], {"sid_level": 0, "sid_node": 0}, [*A]),  # said, not read
    ([TEXT], [], {"sid_level": 1, "sid_node": 0, "sid_codes": [2]}, [B[2]]),
    ([TEXT], [], {"sid_level": 2, "sid_node": 1}, [C[0]]),
    ([TEXT], [], {"sid_level": 1, "sid_node": 2}, "end"),  # outside the trie
    ([TEXT], [], {"sid_level": 3, "sid_node": 0}, "end"),
    ([TEXT], [], {"sid_level": 0, "sid_node": 0, "sid_codes": [77]}, "end"),
]


def left(row, expected, case):
    """Returns the tokens that a masked row leaves, after checking that they are those expected."""
    tokens = range(VOCAB) if expected is None else [END] if expected == "end" else expected
    found = np.flatnonzero(row > -torch.inf)
    assert found.tolist() == sorted(tokens), case
    if expected == "end":
        assert row[END] == IMPOSSIBLE
    return found


@pytest.mark.parametrize("runner", [FirstRunner, SecondRunner])
@pytest.mark.parametrize("part", [slice(0, 7), slice(7, None)])
def test_rows(config, runner, part):
    cases = REQUESTS[part]
    logits = torch.randn(len(cases), VOCAB) * 4
    plain = logits.log_softmax(-1)
    requests = [
        (params(**extra), [int(t) for t in prompt], [int(t) for t in output])
        for prompt, output, extra, _ in cases
    ]
    masked = runner(config()).run(requests, logits)
    assert masked is logits, "it must be changed in place"
    for row, (*_, expected) in enumerate(cases):
        found = left(masked[row], expected, cases[row])
        if expected != "end":
            torch.testing.assert_close(masked[row, found], plain[row, found])


OF_TWO_SETS = [  # with the level and set among which a code is normalised
    ([TEXT], [], {}, [*A], A),
    ([TEXT], [], {"sid_set": 1}, [*D], D),
    ([TEXT, D[1]], [], {}, [*E], E),  # the last token tells the set
    ([TEXT, D[0]], [E[1]], {}, [*D], D),  # after a whole SID, the next one of its set
    ([TEXT, A[0], B[2], C[0]], [], {"sid_set": 1}, [*A], A),
    ([TEXT, D[0]], [B[0]], {}, "end", None),  # begun in one set, gone on in another
    ([TEXT], [A[0]], {}, [B[0], B[2]], B),
    ([TEXT], [], {"sid_set": 2}, "end", None),  # there is none
    ([TEXT], [], {"sid": False, "sid_set": 1}, None, None),
    ([TEXT], [], {"sid_set": 1, "sid_level": 0, "sid_node": 0}, [*D], D),
    ([TEXT], [], {"sid_set": 1, "sid_level": 1, "sid_node": 1, "sid_codes": [1]}, [E[1]], E),
    ([TEXT], [], {"sid_set": 1, "sid_level": 2, "sid_node": 0}, "end", None),
    ([TEXT], [], {"sid_set": 2, "sid_level": 0, "sid_node": 0}, "end", None),
]


@pytest.mark.parametrize("runner", [FirstRunner, SecondRunner])
@pytest.mark.parametrize("part", [slice(0, 7), slice(7, None)])
@pytest.mark.parametrize("softmax", [None, "codes"])
def test_rows_of_two_sets(config, runner, part, softmax):
    cases = OF_TWO_SETS[part]
    logits = torch.randn(len(cases), VOCAB) * 4
    plain = logits.clone()
    requests = [
        (params(**extra), [int(t) for t in prompt], [int(t) for t in output])
        for prompt, output, extra, *_ in cases
    ]
    masked = runner(config((SIDTrie(SECOND), [D, E]), softmax=softmax)).run(requests, logits)
    for row, (*_, expected, level) in enumerate(cases):
        found = left(masked[row], expected, cases[row])
        if expected != "end":
            among = level if softmax and level is not None else range(VOCAB)
            total = plain[row, list(among)].logsumexp(-1)
            torch.testing.assert_close(masked[row, found], plain[row, found] - total)


@pytest.mark.parametrize("runner", [FirstRunner, SecondRunner])
def test_sets_of_one_level_are_told_by_the_last_token(config, runner):
    """Their SIDs have one token: that the last one was of a set is not to be lost."""
    settings = config()
    path = settings.additional_config["genrec"]["constraint"]
    save_constraint(path, [(SIDTrie([[0], [1]]), [A]), (SIDTrie([[0], [1]]), [D])])
    requests = [(params(), [TEXT, int(D[0])], []), (params(), [TEXT], [])]
    masked = runner(settings).run(requests, torch.randn(2, VOCAB))
    assert [np.flatnonzero(r.isfinite()).tolist() for r in masked] == [sorted(D), sorted(A)]


@pytest.mark.parametrize("runner", [FirstRunner, SecondRunner])
def test_requests_are_free_where_the_settings_say_so(config, runner):
    requests = [(params(), [TEXT], []), (params(sid=True), [TEXT], [])]
    masked = runner(config(default="free")).run(requests, torch.randn(2, VOCAB))
    assert masked[0].isfinite().all()
    assert np.flatnonzero(masked[1].isfinite()).tolist() == sorted(A)


def allowed(processor, rows):
    logits = processor.apply(torch.randn(rows, VOCAB))
    return [np.flatnonzero(row > -torch.inf).tolist() for row in logits]


def test_first_runner_follows_moves_and_growing_outputs(config):
    runner = FirstRunner(config())
    output: list[int] = []
    everything, top = list(range(VOCAB)), sorted(A.tolist())
    runner.update([(0, params(sid=False), [TEXT], []), (1, params(), [TEXT], output)])
    assert allowed(runner.processor, 2) == [everything, top]
    output.append(int(A[0]))  # vLLM appends to the list that it gave
    runner.update(removed=[0], moved=[(1, 0, MoveDirectionality.UNIDIRECTIONAL)])
    assert allowed(runner.processor, 1) == [sorted([B[0], B[2]])]
    output.append(int(B[2]))
    runner.processor.update_state(None)
    assert allowed(runner.processor, 1) == [[C[0]]]
    output.append(int(C[0]))
    assert allowed(runner.processor, 1) == [top], "after a whole SID the next one begins"
    runner.update([(0, params(sid=False), [TEXT], [])])  # another request in its place
    assert allowed(runner.processor, 1) == [everything]


def test_second_runner_forgets_a_slot_that_is_used_again(config):
    runner = SecondRunner(config())
    runner.run([(params(), [TEXT], [])], torch.randn(1, VOCAB))
    masked = runner.run([(params(sid=False), [TEXT], [])], torch.randn(1, VOCAB))
    assert masked.isfinite().all()


def test_second_runner_with_rows_spread_over_devices(config):
    """Fewer rows than requests: which is which stands on the device."""
    runner = SecondRunner(config())
    runner.processor.add_request(1, params(sid=False))
    runner.processor.add_request(2, params())
    ctx = SimpleNamespace(
        idx_mapping_np=np.array([1, 2]),
        expanded_idx_mapping=torch.tensor([2]),
        pos=torch.tensor([0]),
        input_ids=torch.tensor([TEXT]),
    )
    masked = runner.processor.apply(torch.randn(1, VOCAB), ctx)
    assert np.flatnonzero(masked[0] > -torch.inf).tolist() == sorted(A)


def test_one_class_is_taken_by_both_loaders():
    assert _load_custom_logitsprocs([PROCESSOR]) == [SIDProcessor]
    assert _load_v2_logitsprocs([PROCESSOR]) == [SIDProcessor]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"sid": "yes"}, "true or false"),
        ({"sid_set": -1}, "sid_set=-1"),
        ({"sid_set": "b"}, "sid_set='b'"),
        ({"sid_node": 3}, "sid_level and sid_node"),
        ({"sid_codes": [1]}, "sid_level and sid_node"),
        ({"sid_level": 1, "sid_node": "a"}, "integers"),
        ({"sid_level": 1, "sid_node": -1}, "integers"),
        ({"sid_level": 1, "sid_node": 0, "sid_codes": []}, "integers"),
    ],
)
def test_bad_requests_are_refused(extra, said):
    with pytest.raises(ValueError, match=said):
        SIDProcessor.validate_params(params(**extra))


def test_a_place_holds_for_one_token():
    place = SamplingParams(max_tokens=2, extra_args={"sid_level": 0, "sid_node": 0})
    with pytest.raises(ValueError, match="max_tokens=2"):
        SIDProcessor.validate_params(place)
    SIDProcessor.validate_params(SamplingParams(max_tokens=2))


def test_bad_starts_are_refused(config):
    settings = config()
    settings.speculative_config = object()
    with pytest.raises(ValueError, match="speculative"):
        SIDProcessor(settings, torch.device("cpu"), False)
    settings = config()
    settings.additional_config = {}
    with pytest.raises(ValueError, match="constraint file"):
        SIDProcessor(settings, torch.device("cpu"), False)
    settings = config()
    settings.model_config.hf_text_config.rope_parameters = {
        "rope_type": "longrope",
        "original_max_position_embeddings": 100,
    }
    with pytest.raises(ValueError, match="max_model_len=100"):
        SIDProcessor(settings, torch.device("cpu"), False)
