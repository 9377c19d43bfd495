"""generate with our loop against generate with its own, and against brute force."""

import copy
import gc
import pickle
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import ConfidenceCriteria, MaxTimeCriteria, TopKLogitsWarper

from genrec.decode import BeamEngine, generate as module
from genrec.decode.filters import Eligibility
from genrec.decode.generate import SIDBeamOutput, beam_search, check_settings
from genrec.sid.trie import SIDTrie

PROMPTS = [[3, 14, 15, 92, 65, 35], [8, 9], [79, 32, 38, 46, 26, 43, 38]]
LENGTH = 7


@pytest.fixture(scope="module")
def parts(make):
    codes, tokens = make.codes(), make.tokens()
    ids, mask = make.pad_left(PROMPTS)
    trie, model = SIDTrie(codes), make.model()
    model.generation_config.pad_token_id = 0
    return SimpleNamespace(
        model=model,
        codes=codes,
        tokens=tokens,
        names=np.stack([t[codes[:, i]] for i, t in enumerate(tokens)], axis=1),
        trie=trie,
        search=beam_search(trie, tokens),
        inputs={"input_ids": ids, "attention_mask": mask},
        scores=make.oracle(model, PROMPTS, codes, tokens),
    )


def ours(parts, *, search=None, **settings):
    settings = {"max_new_tokens": 3, "return_dict_in_generate": True, **settings}
    return parts.model.generate(
        **{**parts.inputs, **settings}, custom_generate=search or parts.search
    )


def theirs(parts, **settings):
    after = {}
    for row in parts.names.tolist():
        for level in range(3):
            after.setdefault(tuple(row[:level]), set()).add(row[level])
    return parts.model.generate(
        **parts.inputs,
        max_new_tokens=3,
        prefix_allowed_tokens_fn=lambda _, ids: sorted(
            after.get(tuple(ids[LENGTH:].tolist()), {1})
        ),
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )


@pytest.mark.parametrize("penalty", [None, 0.0, 2.0])
@pytest.mark.parametrize(("width", "returned"), [(2, 1), (4, 4), (10, 3), (20, 20)])
def test_equals_generate_with_a_prefix_function(parts, width, returned, penalty):
    settings = {"num_beams": width, "num_return_sequences": returned}
    if penalty is not None:
        settings["length_penalty"] = penalty
    found, expected = ours(parts, output_scores=True, **settings), theirs(parts, **settings)
    assert found.sequences.equal(expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=0)
    assert ours(parts, return_dict_in_generate=False, **settings).equal(expected.sequences)


def test_one_beam_is_greedy_search(parts):
    found = ours(parts)
    assert found.sequences.equal(theirs(parts).sequences)
    assert found.sequences.shape == (3, LENGTH + 3)


def test_a_model_with_an_end_of_text_and_its_own_settings(parts):
    """Ends and least lengths have no part in a SID; generate agrees."""
    settings = {"num_beams": 4, "eos_token_id": 1, "min_new_tokens": 2, "early_stopping": True}
    found = ours(parts, **settings)
    assert found.sequences.equal(theirs(parts, **settings).sequences)


def test_without_a_mask_generate_makes_one(parts):
    ids = torch.tensor([[5, 6, 7], [1, 2, 3]])
    found = parts.model.generate(ids, num_beams=4, max_new_tokens=3, custom_generate=parts.search)
    given_mask = {"attention_mask": torch.ones_like(ids), "num_beams": 4}
    expected = ours(parts, input_ids=ids, return_dict_in_generate=False, **given_mask)
    assert found.equal(expected)
    positions = torch.tensor([[0, 1, 2]]).expand(2, -1)
    assert ours(parts, input_ids=ids, position_ids=positions, **given_mask).sequences.equal(
        expected
    )


def test_the_output(parts):
    found = ours(parts, num_beams=60, num_return_sequences=60, length_penalty=0.0)
    assert isinstance(found, SIDBeamOutput)
    assert list(found.keys()) == ["sequences", "sequences_scores", "sequences_items", "exact"]
    assert found.exact.all()
    names = [tuple(row) for row in parts.names.tolist()]
    shared = max(names.count(name) for name in names)
    assert shared > 1
    assert found.sequences_items.shape == (180, shared)
    distinct = len(set(names))
    for user in range(3):
        rows = slice(60 * user, 60 * (user + 1))
        written = [tuple(row) for row in found.sequences[rows, LENGTH:].tolist()]
        assert len(set(written[:distinct])) == distinct
        assert written[distinct:] == [(0, 0, 0)] * (60 - distinct)
        assert (found.sequences_scores[rows][distinct:] == -torch.inf).all()
        assert (found.sequences_items[rows][distinct:] == -1).all()
        for row in range(distinct):
            items = [item for item, name in enumerate(names) if name == written[row]]
            listed = found.sequences_items[rows][row].tolist()
            assert listed == items + [-1] * (shared - len(items))
            score = found.sequences_scores[rows][row]
            assert score == pytest.approx(float(parts.scores[user, items[0]]), abs=1e-4)
    for tensor in found.values():
        assert not tensor.is_inference()  # or the caller's autograd would refuse it


@pytest.mark.parametrize(
    ("settings", "fill"),
    [
        ({"pad_token_id": 5}, 5),
        ({"pad_token_id": None, "eos_token_id": [4, 3]}, 4),
        ({"pad_token_id": None, "eos_token_id": 4}, 4),
        ({"pad_token_id": None}, -1),
    ],
)
def test_rows_without_a_sid_are_filled_as_by_generate(parts, settings, fill):
    model = copy.copy(parts.model)
    model.generation_config = copy.deepcopy(parts.model.generation_config)
    model.generation_config.pad_token_id = None
    search = beam_search(SIDTrie([[0, 1, 2], [4, 3, 5], [4, 3, 5]]), parts.tokens)
    found = model.generate(
        **parts.inputs,
        **settings,
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=3,
        custom_generate=search,
    ).view(3, 4, -1)
    assert (found[:, 2:, LENGTH:] == fill).all()
    assert (found[..., :LENGTH] == parts.inputs["input_ids"][:, None]).all()
    names = [[int(t[c]) for t, c in zip(parts.tokens, sid, strict=True)] for sid in ([0, 1, 2],)]
    assert all(names[0] in rows for rows in found[:, :2, LENGTH:].tolist())


def eligible_lists(make, parts, eligible, width):
    """Brute force: each user's eligible SIDs, best first, with their eligible items."""
    lists = []
    for user, items in enumerate(eligible):
        groups = {}
        for item in make.expected(parts.scores[user], parts.codes, len(parts.codes), items):
            groups.setdefault(tuple(parts.names[item].tolist()), []).append(item)
        lists.append(list(groups.items())[:width])
    return lists


@pytest.mark.parametrize("form", ["mask", "counted", "lists", "none", "shared"])
@pytest.mark.parametrize("excluding", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_filters_of_items_become_filters_of_sids(parts, make, form, excluding, fixed):
    rng = np.random.default_rng(7)
    table = rng.random((3, 60)) < 0.5
    table[2] = False  # a user with nothing
    if form == "shared":
        table[:] = table[0]
    allowed = [set(np.flatnonzero(row).tolist()) for row in table]
    given_as = {
        "mask": table,
        "counted": Eligibility.of_mask(parts.trie, table),
        "lists": allowed,
        "none": None,
        "shared": table[0],
    }[form]
    allowed = [set(range(60))] * 3 if form == "none" else allowed
    exclude = [set(rng.choice(60, 30, replace=False).tolist()) for _ in range(3)]
    exclude = exclude if excluding else None
    eligible = [yes - (exclude[u] if excluding else set()) for u, yes in enumerate(allowed)]
    filters = {"allowed": given_as, "exclude": exclude}
    search = beam_search(parts.trie, parts.tokens, **(filters if fixed else {}))
    width = 60
    found = ours(
        parts,
        search=search,
        num_beams=width,
        num_return_sequences=width,
        length_penalty=0.0,
        **({} if fixed else filters),
    )
    expected = eligible_lists(make, parts, eligible, width)
    assert any(len(items) > 1 for rows in expected for _, items in rows) or form != "none"
    for user, rows in enumerate(expected):
        here = slice(width * user, width * user + len(rows))
        written = [tuple(row) for row in found.sequences[here, LENGTH:].tolist()]
        assert written == [name for name, _ in rows]
        listed = [[i for i in row if i >= 0] for row in found.sequences_items[here].tolist()]
        assert listed == [items for _, items in rows]
        rest = slice(width * user + len(rows), width * (user + 1))
        assert (found.sequences_scores[rest] == -torch.inf).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_sids_are_eligible_if_one_of_their_items_is(data):
    sids = data.draw(st.lists(st.tuples(*[st.integers(0, 2)] * 2), min_size=1, max_size=20))
    trie, users = SIDTrie(sids), data.draw(st.integers(1, 3))
    own = beam_search(trie, [[0, 1, 2], [3, 4, 5]])._sids
    assert own.num_items == len(set(sids))
    some = st.sets(st.integers(0, len(sids) - 1))
    allowed = [data.draw(some) for _ in range(users)]
    exclude = data.draw(st.none() | st.just([data.draw(some) for _ in range(users)]))
    table = np.array([[i in row for i in range(len(sids))] for row in allowed])
    form = data.draw(st.sampled_from(["lists", "mask", "shared", "none"]))
    if form in ("shared", "none"):
        allowed = [allowed[0] if form == "shared" else set(range(len(sids)))] * users
    given_as = {"lists": allowed, "mask": table, "shared": table[0], "none": None}[form]
    options = {"users": users, "device": "cpu"}
    eligible = Eligibility.build(trie, given_as, exclude, **options)
    filters = {"allowed": None, "exclude": None}
    filters.update(module._sid_filters(trie, own, eligible, users))
    of_sids = Eligibility.build(own, **filters, **options)
    everything = torch.arange(own.num_items)
    for user in range(users):
        items = allowed[user] - (exclude[user] if exclude else set())
        wanted = {sids[item] for item in items}
        found = (
            everything
            if of_sids is None
            else everything[of_sids.contains(torch.tensor(user), everything)]
        )
        assert {sorted(set(sids))[sid] for sid in found.tolist()} == wanted


def test_filters_in_two_places_are_refused(parts):
    stock = np.ones(60, dtype=bool)
    search = beam_search(parts.trie, parts.tokens, allowed=stock)
    with pytest.raises(ValueError, match="allowed was given to beam_search and to generate"):
        ours(parts, search=search, allowed=stock)
    ours(parts, search=search, exclude=[[], [], []])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_catalogues_equal_brute_force(make, parts, data):
    levels = data.draw(st.integers(1, 3))
    row = st.tuples(*[st.integers(0, data.draw(st.sampled_from([0, 1, 4])))] * levels)
    codes = np.array(data.draw(st.lists(row, min_size=1, max_size=25)))
    tokens = [np.arange(5) + 5 * level + 20 for level in range(levels)]
    # the test is of the loop, not of the model
    search = beam_search(SIDTrie(codes), tokens, strategy="tree")
    found = parts.model.generate(
        **parts.inputs,
        num_beams=25,
        num_return_sequences=25,
        max_new_tokens=levels,
        custom_generate=search,
        return_dict_in_generate=True,
        length_penalty=0.0,
    )
    scores = make.oracle(parts.model, PROMPTS, codes, tokens)
    for user in range(3):
        order = make.expected(scores[user], codes, len(codes))
        sids = list(dict.fromkeys(tuple(codes[item].tolist()) for item in order))
        written = found.sequences.view(3, 25, -1)[user, : len(sids), LENGTH:]
        names = [[int(t[c]) for t, c in zip(tokens, sid, strict=True)] for sid in sids]
        assert written.tolist() == names
        assert (found.sequences_scores.view(3, 25)[user, len(sids) :] == -torch.inf).all()


def test_bfloat16_and_adapters(make):
    codes, tokens = make.codes(), make.tokens()
    ids, mask = make.pad_left(PROMPTS)
    model = make.model(seed=3)
    search = beam_search(SIDTrie(codes), tokens)
    settings = {"attention_mask": mask, "num_beams": 5, "max_new_tokens": 3}
    plain = model.generate(ids, **settings, custom_generate=search)
    wrapped = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False))
    tuned = wrapped.generate(input_ids=ids, **settings, custom_generate=search)
    engine = BeamEngine(wrapped, SIDTrie(np.unique(codes, axis=0)), tokens)
    sids = engine.search(ids, mask, num_beams=5, k=1).sids[:, 0]
    names = np.stack([t[sids[:, i]] for i, t in enumerate(tokens)], axis=1)
    assert tuned[:, LENGTH:].tolist() == names.tolist()
    assert not tuned.equal(plain)
    low = make.model(seed=3).bfloat16()
    written = low.generate(ids, **settings, custom_generate=beam_search(SIDTrie(codes), tokens))
    valid = {tuple(int(t[c]) for t, c in zip(tokens, sid, strict=True)) for sid in codes}
    assert {tuple(row) for row in written[:, LENGTH:].tolist()} <= valid


def test_a_model_is_tried_out_once_and_not_kept_alive(make, monkeypatch):
    built = []

    def build(*args, **options):
        built.append(1)
        return BeamEngine(*args, **options)

    monkeypatch.setattr(module, "BeamEngine", build)
    model, other = make.model(), make.model(seed=1)
    search, again = (beam_search(SIDTrie(make.codes()), make.tokens()) for _ in range(2))
    for use, callable_ in ((model, search), (model, search), (other, search), (model, search)):
        use.generate(torch.tensor([[1, 2]]), max_new_tokens=3, custom_generate=callable_)
    assert len(built) == 2
    model.generate(torch.tensor([[1, 2]]), max_new_tokens=3, custom_generate=again)
    engines = vars(model)[module._ATTRIBUTE]
    assert len(engines) == 2
    del again
    gc.collect()
    assert len(engines) == 1
    clone = copy.deepcopy(model)
    clone.generate(torch.tensor([[1, 2]]), max_new_tokens=3, custom_generate=search)
    assert vars(clone)[module._ATTRIBUTE][search].model is clone
    assert pickle.loads(pickle.dumps(engines)) == {}
    gone = weakref.ref(model)
    del model, engines, use
    gc.collect()
    assert gone() is None, "the callable keeps models alive"


def test_bad_tokens_are_refused_at_once(parts):
    with pytest.raises(ValueError, match="2 levels"):
        beam_search(parts.trie, parts.tokens[:2])
    with pytest.raises(ValueError, match="resize_token_embeddings"):
        ours(parts, search=beam_search(parts.trie, [t + 60 for t in parts.tokens]))


@pytest.fixture(scope="module")
def model(make):
    return make.model()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_sample": True}, "not obey do_sample of"),
        ({"do_sample": True, "num_beams": 3}, "not obey do_sample of"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"bad_words_ids": [[3]]}, "bad_words_ids"),
        ({"suppress_tokens": [3]}, "suppress_tokens"),
        ({"begin_suppress_tokens": [3]}, "begin_suppress_tokens"),
        ({"sequence_bias": [[[3], 2.0]]}, "sequence_bias"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"renormalize_logits": True, "num_beams": 2}, "renormalize_logits"),
        ({"remove_invalid_values": True}, "remove_invalid_values"),
        ({"forced_bos_token_id": 3, "forced_eos_token_id": 4}, "bos_token_id, forced_eos_token_id"),
        (
            {"exponential_decay_length_penalty": (1, 1.1), "eos_token_id": 1},
            "exponential_decay_len",
        ),
        ({"encoder_repetition_penalty": 1.2}, "encoder_repetition_penalty"),
        ({"encoder_no_repeat_ngram_size": 2}, "encoder_no_repeat_ngram_size"),
        ({"prefix_allowed_tokens_fn": lambda _, ids: [1]}, "prefix_allowed_tokens_fn"),
        (
            {"logits_processor": LogitsProcessorList([TopKLogitsWarper(3)])},
            r"logits_processor=\[TopKLogitsWarper\]",
        ),
        ({"max_time": 5.0}, "max_time"),
        ({"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(5.0)])}, "max_time"),
        (
            {"stopping_criteria": StoppingCriteriaList([ConfidenceCriteria(0.5)])},
            r"stopping_criteria=\[ConfidenceCriteria\]",
        ),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
        ({"dola_layers": "high"}, "dola_layers"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, "num_beam_groups"),
        ({"num_beams": 4, "force_words_ids": [[3]]}, "force_words_ids"),
        ({"output_logits": True}, "output_logits"),
        ({"output_attentions": True}, "output_attentions"),
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"past_key_values": DynamicCache()}, "past_key_values"),
        ({"inputs_embeds": torch.zeros(3, LENGTH, 32)}, "inputs_embeds"),
        ({"position_ids": torch.arange(LENGTH).expand(3, -1)}, "leave position_ids out"),
        ({"max_new_tokens": 4}, "write 4 tokens, and a SID has 3: set max_new_tokens=3"),
        ({"allowed": np.ones(59, dtype=bool)}, "expected bool"),
        ({"exclude": [[1]]}, "exclude has 1 entries"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_would_be_passed_over_is_refused(model, make, change, message):
    ids, mask = make.pad_left(PROMPTS)
    with pytest.raises(ValueError, match=message):
        model.generate(
            **{"input_ids": ids, "attention_mask": mask, "max_new_tokens": 3, **change},
            custom_generate=beam_search(SIDTrie(make.codes()), make.tokens(), strategy="tree"),
        )


def test_a_cache_that_holds_something_is_refused(model):
    """Also where generate does not mark a caller's cache, as before transformers 5.19."""
    cache = DynamicCache()
    check_settings(model.generation_config, [], [], {"past_key_values": cache})
    cache.update(torch.zeros(3, 2, 4, 8), torch.zeros(3, 2, 4, 8), 0)
    with pytest.raises(ValueError, match="not obey past_key_values of"):
        check_settings(model.generation_config, [], [], {"past_key_values": cache})
