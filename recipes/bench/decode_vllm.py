"""Users per second of vLLM: our search, and its own beam search bare, with a grammar, with our mask.

Two vLLM processes, one after the other, with the same model, prompts and cache blocks: one as genrec
starts it, one as it comes. The prefix cache is emptied before every run. Every list is compared with
brute force; the exit status is 1 if one of ours is not what `BeamEngine` returns.

    python recipes/bench/decode_vllm.py                          # about four minutes on two cores
    python recipes/bench/decode_vllm.py --prompt 250 --beams 20  # the last block is not full
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from genrec.decode.beam import BeamEngine
from genrec.decode.vllm import VLLMBeamEngine
from genrec.sid.trie import SIDTrie

WORDS = 4096
PARITY = 1e-3  # nats; two libraries round sums of logits in the tens differently
OURS, MASKED, FREE = "VLLMBeamEngine", "beam_search + SIDProcessor", "beam_search, unconstrained"
STOCK, GRAMMAR = "beam_search, unconstrained, vLLM as it comes", "beam_search + grammar"
Lists = list[list[tuple[tuple[int, ...], float]]]  # per user, (tokens, score)


def main() -> int:
    """Runs both processes and prints the table; returns the exit status."""
    args = _arguments()
    os.environ.update(OMP_NUM_THREADS=str(args.threads), VLLM_ENABLE_V1_MULTIPROCESSING="0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if args.part:
        {"ours": _run_ours, "stock": _run_stock}[args.part](args)
        return 0
    with TemporaryDirectory(prefix="genrec-bench-") as folder:
        args.folder = Path(folder)
        model = _write_checkpoint(args)
        _describe(args)
        runs: list[dict[str, Any]] = [{} for _ in args.beams]
        for part in ("ours", "stock"):
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
            subprocess.run([*command, "--folder", folder], check=True)
            more = json.loads((args.folder / f"{part}.json").read_text())
            runs = [run | extra for run, extra in zip(runs, more, strict=True)]
    return _report(args, model, runs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--items", type=int, default=4000, help="items of the catalogue")
    add("--users", type=int, default=4, help="users per batch")
    add("--grammar-users", type=int, default=2, help="users for the grammar, which is slow")
    add("--prompt", type=int, default=256, help="tokens per prompt")
    add("--beams", type=int, nargs="+", default=[20, 50, 200], help="beams, and items per user")
    add("--levels", type=int, default=3, help="codes per SID")
    add("--codes", type=int, default=256, help="codes per level")
    add("--block-size", type=int, default=32, help="tokens per cache block, in both processes")
    add("--repeats", type=int, default=2, help="timed repeats after one warm-up")
    add("--threads", type=int, default=1)
    add("--part", choices=["ours", "stock"], help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _catalogue(args: argparse.Namespace) -> tuple[SIDTrie, list[NDArray[np.int64]]]:
    """Returns one item per SID, since beam search cannot tell items apart, and the codes' tokens."""
    shape = (args.items, args.levels)
    codes = np.unique(np.random.default_rng(0).integers(0, args.codes, shape), axis=0)
    return SIDTrie(codes), [
        WORDS + level * args.codes + np.arange(args.codes) for level in range(args.levels)
    ]


def _prompts(args: argparse.Namespace) -> list[list[int]]:
    return np.random.default_rng(1).integers(2, WORDS, (args.users, args.prompt)).tolist()


def _name(level: int, code: int) -> str:
    return f"<{chr(97 + level)}_{code}>"


def _write_checkpoint(args: argparse.Namespace) -> Any:
    """Saves a 4-layer Qwen3 with random weights and a tokenizer of words and SIDs."""
    torch.manual_seed(0)
    names = [_name(level, code) for level in range(args.levels) for code in range(args.codes)]
    config = Qwen3Config(
        vocab_size=WORDS + len(names),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        initializer_range=0.1,  # the default 0.02 gives flat logits, where items nearly tie
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    model = Qwen3ForCausalLM(config).eval()
    _teach_levels(model, args)
    model.save_pretrained(args.folder)
    vocab = {f"w{i}": i for i in range(WORDS)} | {n: WORDS + i for i, n in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", eos_token="w1", additional_special_tokens=names
    ).save_pretrained(args.folder)
    return model


@torch.no_grad()
def _teach_levels(model: Any, args: argparse.Namespace) -> None:
    """Gives the model what training gives first: after a word or a SID, a code of the next level.

    One direction of the hidden state per level says whose turn it is. Without it hardly a code is
    among the 2W best tokens, and a search that filters those afterwards would lose nearly all.
    """
    inputs, outputs = model.model.embed_tokens.weight, model.lm_head.weight
    inputs[:, : args.levels] = outputs[:, : args.levels] = 0
    inputs[:, 0] = 1
    for level in range(args.levels):
        first = WORDS + level * args.codes
        codes = slice(first, first + args.codes)
        outputs[codes, level] = 2
        inputs[codes, : args.levels] = 0
        inputs[codes, (level + 1) % args.levels] = 1


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "dtype": "float32",
        "max_model_len": args.prompt + 64,
        "block_size": args.block_size,
        "enforce_eager": True,
        "kv_cache_memory_bytes": 2**30,
        "skip_tokenizer_init": False,
        "max_logprobs": 2 * max(args.beams),
        "generation_config": "vllm",
    }


def _run_ours(args: argparse.Namespace) -> None:
    import vllm.entrypoints.generate.beam_search.offline as stock
    from vllm import SamplingParams

    trie, tokens = _catalogue(args)
    engine = VLLMBeamEngine.load(args.folder, trie, tokens, **_options(args))
    prompts = _prompts(args)

    def ours(width: int) -> Lists:
        return _lists(engine, prompts, tokens, width)

    def masked(width: int) -> Lists:
        return _beam_search(engine.llm, prompts, args, width)

    def free(width: int) -> Lists:  # beam search has no parameter to pass a request's extra_args by
        stock.SamplingParams = lambda **given: SamplingParams(**given, extra_args={"sid": False})
        try:
            return masked(width)
        finally:
            stock.SamplingParams = SamplingParams

    ways = {OURS: ours, MASKED: masked, FREE: free}
    runs = [_race(engine.llm, ways, width, args.repeats) for width in args.beams]
    _write(args, runs)


def _run_stock(args: argparse.Namespace) -> None:
    from vllm import LLM
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.structured_output.utils import choice_as_grammar

    llm = LLM(str(args.folder), structured_outputs_config={"backend": "xgrammar"}, **_options(args))
    prompts = _prompts(args)
    trie, _ = _catalogue(args)
    sids = trie.sids_of_rows(np.arange(trie.num_items)).tolist()
    texts = ["".join(_name(level, code) for level, code in enumerate(sid)) for sid in sids]
    # `choice=texts`, the natural way, is refused by beam search in vLLM 0.32.
    grammar = StructuredOutputsParams(grammar=choice_as_grammar(texts))
    few = prompts[: args.grammar_users]

    def plain(width: int) -> Lists:
        return _beam_search(llm, prompts, args, width)

    def constrained(width: int) -> Lists:
        return _beam_search(llm, few, args, width, grammar)

    runs = [
        _race(llm, {STOCK: plain}, width, args.repeats)
        | _race(llm, {GRAMMAR: constrained}, width, 1)
        for width in args.beams
    ]
    _write(args, runs)


def _beam_search(
    llm: Any,
    prompts: list[list[int]],
    args: argparse.Namespace,
    width: int,
    grammar: Any = None,
) -> Lists:
    from vllm.sampling_params import BeamSearchParams

    params = BeamSearchParams(
        beam_width=width, max_tokens=args.levels, ignore_eos=True, structured_outputs=grammar
    )
    outputs = llm.beam_search([{"prompt_token_ids": prompt} for prompt in prompts], params)
    return [
        [(tuple(found.tokens[args.prompt :]), found.cum_logprob) for found in output.sequences]
        for output in outputs
    ]


def _race(
    llm: Any, ways: dict[str, Callable[[int], Lists]], width: int, repeats: int
) -> dict[str, Any]:
    """Times the ways in turn, each with an empty prefix cache; the first round is a warm-up."""
    runs: dict[str, Any] = {name: {"seconds": [], "processor": []} for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            llm.reset_prefix_cache()
            started, busy = time.perf_counter(), time.process_time()
            runs[name]["lists"] = way(width)
            if turn:
                runs[name]["seconds"].append(time.perf_counter() - started)
                runs[name]["processor"].append(time.process_time() - busy)
    return runs


def _write(args: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    (args.folder / f"{args.part}.json").write_text(json.dumps(runs))


def _describe(args: argparse.Namespace) -> None:
    from vllm import __version__ as version

    cpu = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    print(f"machine: {cpu}, {os.cpu_count()} cores, {args.threads} threads used")
    print(
        f"vLLM {version}, torch {torch.__version__}, float32; 4-layer 256-d Qwen3, random weights"
    )
    print(
        f"{args.users} users ({args.grammar_users} for the grammar), T={args.prompt} tokens in "
        f"blocks of {args.block_size}, {args.items} items, L={args.levels} levels "
        f"of {args.codes} codes; medians of {args.repeats} repeats after a warm-up (grammar: 1)",
        flush=True,
    )


@torch.inference_mode()
def _brute_force(model: Any, args: argparse.Namespace) -> list[dict[tuple[int, ...], float]]:
    """Returns the log-probability of every SID, per user: one plain sequence each."""
    trie, tokens = _catalogue(args)
    sids = trie.sids_of_rows(np.arange(trie.num_items))
    names = torch.from_numpy(np.stack([t[sids[:, i]] for i, t in enumerate(tokens)], axis=1))
    scores = []
    for prompt in _prompts(args):
        totals: list[float] = []
        done = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        for some in names.split(250):  # each has a copy of the prompt's cache
            cache = copy.deepcopy(done.past_key_values)
            cache.batch_repeat_interleave(len(some))
            rest = model(some[:, :-1], past_key_values=cache).logits
            logits = torch.cat([done.logits.expand(len(some), -1, -1), rest], dim=1)
            steps = logits.log_softmax(-1).gather(-1, some.unsqueeze(-1))
            totals += steps.squeeze(-1).sum(-1).tolist()
        scores.append(dict(zip(map(tuple, names.tolist()), totals, strict=True)))
    return scores


def _report(args: argparse.Namespace, model: Any, runs: list[dict[str, Any]]) -> int:
    """Prints a table per width; returns the exit status."""
    truth = _brute_force(model, args)
    ranked = [sorted(user, key=user.__getitem__, reverse=True) for user in truth]
    trie, tokens = _catalogue(args)
    engine = BeamEngine(model, trie, tokens)
    good = True
    for width, run in zip(args.beams, runs, strict=True):
        expected = _lists(engine, _prompts(args), tokens, width)
        print(f"\nW=K={width:<41} users/s  ours is  (processor)   of best    no item   exact")
        for name, way in run.items():
            way["lists"] = [[(tuple(sid), score) for sid, score in user] for user in way["lists"]]
            same = all(map(_same, way["lists"], expected))
            good &= same or name not in (OURS, MASKED)
            _row(name, way, run[OURS], [user[:width] for user in ranked], truth, same)
    print(
        "\nof best: how many of a user's W best items by brute force are listed; no item: how many"
    )
    print("listed SIDs are no item's; exact: the list of BeamEngine, beam search without loss")
    return 0 if good else 1


def _row(name: str, way: Any, ours: Any, best: Any, truth: Any, same: bool) -> None:
    users, found = len(way["lists"]), [{sid for sid, _ in user} for user in way["lists"]]
    overlap = sum(len(set(b) & f) for b, f in zip(best, found, strict=False)) / users
    wrong = sum(len(user - truth[0].keys()) for user in found) / users
    each = {key: statistics.median(way[key]) / users for key in ("seconds", "processor")}
    ratio = {key: each[key] * len(best) / statistics.median(ours[key]) for key in each}
    print(
        f"{name:46}{1 / each['seconds']:8.2f} {ratio['seconds']:7.1f}x {ratio['processor']:9.1f}x "
        f"{overlap:10.1f} {wrong:10.1f} {'yes' if same else 'no':>7}"
    )


def _lists(
    engine: Any, prompts: list[list[int]], tokens: list[NDArray[np.int64]], width: int
) -> Lists:
    """Returns what an engine of ours finds, as vLLM's beam search would say it."""
    ids = torch.tensor(prompts)
    found = engine.search(ids, torch.ones_like(ids), num_beams=width)
    names = np.stack([t[found.sids.numpy()[..., i]] for i, t in enumerate(tokens)], axis=-1)
    return [
        [(tuple(sid), score) for sid, score in zip(*user, strict=True)]
        for user in zip(names.tolist(), found.scores.tolist(), strict=True)
    ]


def _same(found: list[tuple[Any, float]], expected: list[tuple[Any, float]]) -> bool:
    scores = [abs(a[1] - b[1]) for a, b in zip(found, expected, strict=False)]
    return [a[0] for a in found] == [b[0] for b in expected] and max(scores) < PARITY


if __name__ == "__main__":
    sys.exit(main())
