"""Users per second of BeamEngine against transformers' beam search, with parity checked.

    python recipes/bench/decode.py [--catalogue 10000 100000 1000000] [--prompt 256] [--beams 20] ...

Three ways to the same lists with one model and one set of prompts: `BeamEngine`, `generate` with a
dict trie behind `prefix_allowed_tokens_fn` (how everyone starts), and `generate` without constraint,
which is faster than the second but writes SIDs of no item. Beside them one plain forward pass over
the tokens that a search computes, which no way of searching can beat. The exit status is 1 if the
first two do not return the same items. `recipes/bench/gpu.py` is for GPUs.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import Qwen3Config, Qwen3ForCausalLM

from genrec.decode import BeamEngine
from genrec.sid.trie import SIDTrie

CODES, TEXT = 256, 4096  # codes of a level; tokens that are no codes
PARITY = 1e-4  # nats; float32 rounding over another order of sums stays about a hundred times below


def main() -> int:
    """Runs every catalogue; returns the exit status."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    model, tokens = _model(args)
    prompts = _prompts(args)
    _describe(args, model)
    rows = [_measure(model, tokens, *prompts, items, args) for items in args.catalogue]
    print("\nusers/s, medians; ratios by the clock (by processor time)")
    print(f"{'items':>8} {'engine':>9} {'hf trie':>9} {'hf free':>9} {'forward':>9}")
    for row in rows:
        print(
            "{items:>8} {engine:>9.2f} {trie:>9.2f} {free:>9.2f} {forward:>9.2f}   engine is "
            "{over_trie:.1f}x ({work_trie:.1f}x) hf trie, {over_free:.1f}x ({work_free:.1f}x) hf free; "
            "takes {share:.2f} ({work_share:.2f}) of a forward pass's time".format(
                **row, share=1 / row["over_forward"], work_share=1 / row["work_forward"]
            )
        )
    return 0 if all(row["parity"] for row in rows) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--catalogue", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="items")
    add("--users", type=int, default=8, help="users per batch")
    add("--prompt", type=int, default=256, help="tokens of the longest prompt")
    add("--mixed", action="store_true", help="prompts of mixed length instead of one length")
    add("--beams", type=int, default=20, help="beams, and items per user")
    add("--levels", type=int, default=4, help="codes per SID")
    add("--repeats", type=int, default=3, help="timed repeats after one warm-up, interleaved")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--attention", default="sdpa", choices=["sdpa", "eager"])
    add("--seed", type=int, default=0)
    return parser.parse_args()


def _model(args: argparse.Namespace) -> tuple[Any, list[NDArray[np.int64]]]:
    """Returns a Qwen3 with random weights and the tokens of the codes."""
    torch.manual_seed(args.seed)
    config = Qwen3Config(
        vocab_size=TEXT + args.levels * CODES,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        # The default 0.02 gives flat logits, where rounding may swap items that nearly tie.
        initializer_range=0.1,
        attn_implementation=args.attention,
    )
    tokens = [TEXT + level * CODES + np.arange(CODES) for level in range(args.levels)]
    return Qwen3ForCausalLM(config).eval(), tokens


def _prompts(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(args.seed)
    ids = torch.randint(TEXT, (args.users, args.prompt), generator=generator)
    mask = torch.ones_like(ids)
    if args.mixed:
        for row in range(1, args.users):
            mask[row, : args.prompt * row // (2 * args.users)] = 0
    return ids, mask


def _describe(args: argparse.Namespace, model: Any) -> None:
    cpu = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    print(f"machine: {cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {model.dtype}")
    config = model.config
    print(
        f"model: {config.num_hidden_layers}-layer {config.hidden_size}-d Qwen3, random weights, "
        f"V={config.vocab_size}, {args.attention}"
    )
    lengths = "mixed lengths up to " if args.mixed else ""
    print(
        f"B={args.users} users, T={lengths}{args.prompt} tokens, W=K={args.beams}, "
        f"L={args.levels} levels of {CODES} codes; {args.repeats} repeats after a warm-up"
    )


def _measure(
    model: Any,
    tokens: list[NDArray[np.int64]],
    ids: torch.Tensor,
    mask: torch.Tensor,
    items: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Times the three ways on one catalogue and compares their lists."""
    codes = np.random.default_rng(args.seed).integers(0, CODES, (items, args.levels))
    # One item per SID, since generate returns token sequences and cannot tell items apart.
    codes = np.unique(codes, axis=0)
    started = time.perf_counter()
    trie = SIDTrie(codes)
    built = time.perf_counter()
    allowed = dict_trie(np.stack([t[codes[:, i]] for i, t in enumerate(tokens)], axis=1))
    print(
        f"\n{items} items ({len(codes)} SIDs): SIDTrie built in {built - started:.2f} s, "
        f"dict trie in {time.perf_counter() - built:.2f} s",
        flush=True,
    )
    engine = BeamEngine(model, trie, tokens)
    length = ids.shape[1]
    ways: dict[str, Callable[[], Any]] = {
        "engine": lambda: engine.search(ids, mask, num_beams=args.beams),
        "trie": lambda: generate(
            *(model, ids, mask), allowed=allowed, beams=args.beams, levels=args.levels
        ),
        "free": lambda: generate(*(model, ids, mask), beams=args.beams, levels=args.levels),
        "forward": lambda: _forward(model, ids, args),
    }
    results = {name: way() for name, way in ways.items()}  # the warm-up
    parity = _compare(results["engine"], results["trie"], tokens, length)
    written = _sids(results["free"], length)
    wrong = sum(
        row[-1] not in allowed.get(tuple(row[:-1]), [])
        for row in written.reshape(-1, args.levels).tolist()
    )
    print(f"  hf free wrote {wrong} of {args.users * args.beams} SIDs that no item has")
    return {"items": items, "parity": parity, **_race(ways, args)}


def _race(ways: dict[str, Callable[[], Any]], args: argparse.Namespace) -> dict[str, float]:
    """Times the ways in turn; returns users/s and ratios, by the clock and by processor time."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            seconds, processor = _time(way)
            wall[name].append(seconds)
            work[name].append(processor)
    for name in ways:
        listed = ", ".join(f"{seconds:.3f}" for seconds in wall[name])
        used = ", ".join(f"{seconds:.3f}" for seconds in work[name])
        print(f"  {name:>6}: {listed} s;  processor {used} s")
    others = [name for name in ways if name != "engine"]
    clock = {name: statistics.median(taken) for name, taken in wall.items()}
    used_up = {name: statistics.median(taken) for name, taken in work.items()}
    return {
        **{name: args.users / seconds for name, seconds in clock.items()},
        **{f"over_{name}": clock[name] / clock["engine"] for name in others},
        **{f"work_{name}": used_up[name] / used_up["engine"] for name in others},
    }


def dict_trie(names: NDArray[np.int64]) -> dict[tuple[int, ...], list[int]]:
    """Returns prefix -> tokens that may follow, for SIDs in ascending order."""
    trie: dict[tuple[int, ...], list[int]] = {}
    for row in names.tolist():  # in order, so a token repeats only right after itself
        for level, token in enumerate(row):
            after = trie.setdefault(tuple(row[:level]), [])
            if not after or after[-1] != token:
                after.append(token)
    return trie


def generate(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    *,
    beams: int,
    levels: int,
    allowed: dict[tuple[int, ...], list[int]] | None = None,
) -> Any:
    """Returns what transformers' beam search writes, under a dict trie if one is given."""
    length = ids.shape[1]

    def follow(_: int, row: torch.Tensor) -> list[int]:
        return (allowed or {})[tuple(row[length:].tolist())]

    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=levels,
        prefix_allowed_tokens_fn=None if allowed is None else follow,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        length_penalty=0.0,  # sums, as the engine's scores are
        return_dict_in_generate=True,
        output_scores=True,
    )


@torch.inference_mode()
def _forward(model: Any, ids: torch.Tensor, args: argparse.Namespace) -> Any:
    """Computes as many tokens as a search does, and logits where it needs them, in one pass."""
    later = args.beams * (args.levels - 1)
    more = torch.randint(TEXT, (len(ids), later))
    return model(input_ids=torch.cat([ids, more], dim=1), logits_to_keep=later + 1, use_cache=False)


def _sids(generated: Any, length: int) -> NDArray[np.int64]:
    return generated.sequences[:, length:].cpu().numpy()


def _compare(ours: Any, theirs: Any, tokens: list[NDArray[np.int64]], length: int) -> bool:
    """Prints whether both found the same items in the same order, and how far scores differ."""
    sids = ours.sids.numpy()
    names = np.stack([t[sids[..., i]] for i, t in enumerate(tokens)], axis=-1)
    generated = _sids(theirs, length).reshape(names.shape)
    same = bool(ours.valid.all()) and np.array_equal(names, generated)
    scores = theirs.sequences_scores.cpu().view(ours.scores.shape)
    difference = float((ours.scores - scores).abs().max())
    shared = np.mean(
        [
            len(set(map(tuple, a)) & set(map(tuple, b))) / len(a)
            for a, b in zip(names.tolist(), generated.tolist(), strict=True)
        ]
    )
    print(
        f"  parity: {'identical' if same else 'DIFFERENT'} items ({shared:.3f} in common), scores "
        f"differ by at most {difference:.1e}"
    )
    return same and difference < PARITY


def _time(way: Callable[[], Any]) -> tuple[float, float]:
    """Returns seconds by the clock and of the processor; a busy machine distorts only the first."""
    started, processor = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - started, time.process_time() - processor


if __name__ == "__main__":
    sys.exit(main())
