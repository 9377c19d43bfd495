"""Memory and time of a training step on paper: from model, tokens, devices, adapter and precision.

Parameters, optimizer and sharding as in ZeRO (arXiv 1910.02054, section 3), 4-bit weights as in QLoRA
(arXiv 2305.14314), operations as in Kaplan et al. (arXiv 2001.08361, section 2.1). Activations are those
that autograd keeps of a Qwen3 layer (RMSNorm, grouped-query attention without the [T, T] matrix,
SwiGLU), read off transformers' code and equal to what `saved_tensors_hooks` counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Tune = Literal["full", "lora", "qlora"]
Sharding = Literal["none", "zero2", "zero3"]

_NF4 = 0.5 + 0.127 / 8  # bytes: 4 bits, and 0.127 for doubly quantized scales (QLoRA, section 3)
_LOGITS = 2**27  # targets x vocabulary held at once, `lm.loss.MAX_LOGITS`
# What a layer keeps for the backward pass, bytes per token, as multiples of (hidden, intermediate,
# heads x head_dim, kv_heads x head_dim, heads, kv_heads).
_KEPT = {
    ("full", "fp32"): (24, 16, 16, 16, 8, 4),
    ("full", "bf16"): (26, 8, 10, 10, 8, 4),
    ("lora", "fp32"): (16, 16, 12, 12, 8, 4),
    ("lora", "bf16"): (18, 8, 10, 8, 8, 4),
}
# LoRA's dropout keeps the dropped input of each of its seven layers, and its mask: a byte per number on
# a GPU, a float on a CPU.
_DROPPED = {"fp32": (12, 0, 4, 0, 0, 0), "bf16": (10, 2, 2, 0, 0, 0)}
_MASKS = (5, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Shape:
    """A decoder of Qwen3's or Llama's kind; `vocab` with the SID tokens."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Reads a transformers configuration."""
        return cls(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", config.hidden_size // config.num_attention_heads),
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            tied=config.tie_word_embeddings,
        )

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of a layer's matrices: q, k, v, o, gate, up, down."""
        h, i = self.hidden, self.intermediate
        q, k = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return ((h, q), (h, k), (h, k), (q, h), (h, i), (h, i), (i, h))

    @property
    def linear(self) -> int:
        """Parameters of the layers' matrices, which adapters adapt and 4 bits hold."""
        return self.layers * sum(a * b for a, b in self.sides)

    @property
    def vocabulary(self) -> int:
        """Parameters of the embedding and, where it is another matrix, the output head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All of them; the norms' are few."""
        norms = self.layers * (2 * self.hidden + 2 * self.head_dim) + self.hidden
        return self.linear + self.vocabulary + norms

    def adapter(self, rank: int, new_rows: int) -> int:
        """Parameters of LoRA's matrices and of the SID rows."""
        rows = new_rows * self.hidden * (1 if self.tied else 2)
        return self.layers * sum(rank * (a + b) for a, b in self.sides) + rows


@dataclass(frozen=True)
class Estimate:
    """One device's memory in bytes, and a step's work.

    Attributes:
        weights: all parameters, as far as this device holds them.
        gradients: of what is trained, and DDP's buckets.
        optimizer: its states.
        activations: what the backward pass needs, at its largest.
        logits: of the targets: as made, in fp32, as log-probabilities, and their gradient.
        trained: parameters that are trained, over all devices.
        operations: of a step's matrix products, over all devices.
        seconds: of a step; None without `speed`.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    trained: int
    operations: float
    seconds: float | None

    @property
    def memory(self) -> float:
        """Their sum, bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def estimate(
    shape: Shape,
    *,
    tune: Tune,
    tokens: int,
    length: int,
    targets: int,
    devices: int = 1,
    sharding: Sharding = "none",
    rank: int = 16,
    dropout: bool = True,
    new_rows: int = 0,
    precision: Literal["fp32", "bf16"] = "bf16",
    base_bytes: int = 4,
    optimizer_bytes: float = 8.0,
    checkpointing: bool = False,
    gpu: bool = True,
    speed: float | None = None,
    link: float | None = None,
) -> Estimate:
    """Says what a step takes.

    Args:
        shape: of the model.
        tune: as in `load_pretrained`.
        tokens: padded tokens of a step, over all devices.
        length: T, tokens of a row; attention's work grows with it.
        targets: tokens with a loss, over all devices.
        devices: data-parallel processes.
        sharding: `zero2` shares gradients and optimizer among them, `zero3` (and FSDP2) the weights too.
        rank: of LoRA.
        dropout: whether LoRA has any.
        new_rows: SID tokens.
        precision: of the matrix products; `bf16` is autocast over fp32 weights.
        base_bytes: of a weight; 4 unless `train.model.dtype` is bfloat16.
        optimizer_bytes: per trained parameter: 8 for AdamW in fp32, 2 in 8 bits (an embedding that
            is trained whole keeps 8, by transformers' choice).
        checkpointing: layers keep their input alone, and are computed again.
        gpu: whether dropout masks are bytes.
        speed: operations per second that a device reaches over a whole step: `operations` / seconds of
            one that was measured, or a share of the data sheet. Only products are counted, so it also
            pays for all else (on a CPU it was 0.5 to 0.6 of what one large product reaches).
        link: bytes per second between devices; without it communication counts nothing.
    """
    local, own_targets = tokens / devices, targets / devices
    trained = shape.parameters if tune == "full" else shape.adapter(rank, new_rows)
    shared = {
        "weights": devices if sharding == "zero3" else 1,
        "rest": devices if sharding != "none" else 1,
    }
    weights = _weights(shape, tune, base_bytes) + (0 if tune == "full" else 4 * trained)
    layer = _layer(shape, tune, precision, rank=rank, dropout=dropout, gpu=gpu)
    kept = 4 * shape.hidden if checkpointing else layer
    activations = local * (
        shape.layers * kept + (layer if checkpointing else 0) + 12 * shape.hidden
    )
    if precision == "bf16":  # autocast's copies stay until the backward pass has used them
        copies = 2 * shape.linear if base_bytes == 4 and tune != "qlora" else 0
        activations += copies / (shape.layers if checkpointing or sharding == "zero3" else 1)
    if tune != "full":  # PEFT puts the rows into a copy of the vocabulary, whose gradient is whole
        activations += 2 * 4 * shape.vocabulary / (1 if shape.tied else 2)
    if tune == "qlora":  # one matrix at a time is written out
        activations += max(a * b for a, b in shape.sides) * (4 if precision == "fp32" else 2)
    held = min(own_targets * shape.vocab, max(_LOGITS, shape.vocab))
    operations = _operations(
        *(shape, tune, tokens, length, targets),
        adapter=shape.adapter(rank, new_rows=0),
        again=1 if checkpointing else 0,
    )
    return Estimate(
        weights=weights / shared["weights"],
        gradients=4 * trained * _copies(devices, sharding) / shared["rest"],
        optimizer=_states(shape, tune, trained, optimizer_bytes) / shared["rest"],
        activations=activations,
        logits=held * (4 * 3 + (2 if precision == "bf16" else 0)),
        trained=trained,
        operations=operations,
        seconds=_seconds(operations, devices, weights, trained, sharding, speed, link),
    )


def _states(shape: Shape, tune: Tune, trained: int, each: float) -> float:
    embedding = shape.vocab * shape.hidden if tune == "full" else 0
    return each * (trained - embedding) + 8 * embedding


def _copies(devices: int, sharding: Sharding) -> int:
    return 2 if devices > 1 and sharding == "none" else 1  # DDP sums gradients in its own buckets


def _weights(shape: Shape, tune: Tune, base_bytes: int) -> float:
    """Bytes of the base; 4 bits hold its matrices only, not the vocabulary."""
    if tune == "qlora":
        return _NF4 * shape.linear + 4 * (shape.parameters - shape.linear)
    return base_bytes * shape.parameters


def _layer(
    shape: Shape, tune: Tune, precision: str, *, rank: int, dropout: bool, gpu: bool
) -> float:
    """Bytes that one layer keeps of one token."""
    sizes = (
        *(shape.hidden, shape.intermediate, shape.heads * shape.head_dim),
        *(shape.kv_heads * shape.head_dim, shape.heads, shape.kv_heads),
    )
    kind = "full" if tune == "full" else "lora"
    factors: list[tuple[int, ...]] = [_KEPT[kind, precision]]
    width = 2 if precision == "bf16" else 4
    if kind == "lora" and dropout:
        mask = 1 if gpu else width
        factors += [_DROPPED[precision], tuple(mask * factor for factor in _MASKS)]
    kept = sum(f * size for row in factors for f, size in zip(row, sizes, strict=True))
    return kept + 8 + (7 * rank * width if kind == "lora" else 0)


def _operations(
    shape: Shape,
    tune: Tune,
    tokens: int,
    length: int,
    targets: int,
    *,
    adapter: int,
    again: int,
) -> float:
    """Forward 2 per weight and token, attention's two products; backward the same for the inputs.

    And once more for the weights that are trained, which adapters' base is not. Rows are looked up, no
    product. A causal mask halves attention's work.
    """
    head = 2 * shape.vocab * shape.hidden * targets
    attention = 2 * tokens * length * shape.heads * shape.head_dim * shape.layers
    forward = 2 * shape.linear * tokens + attention
    if tune == "full":
        return (3 + again) * forward + 3 * head
    return (2 + again) * forward + attention + 3 * head + 6 * adapter * tokens


def _seconds(
    operations: float,
    devices: int,
    weights: float,
    trained: int,
    sharding: Sharding,
    speed: float | None,
    link: float | None,
) -> float | None:
    if speed is None:
        return None
    seconds = operations / devices / speed
    if link is not None and devices > 1:
        share = (devices - 1) / devices
        # ZeRO, section 7: gradients are summed and spread; with zero3 the weights are gathered twice.
        moved = 2 * 4 * trained if sharding != "zero3" else 4 * trained + 2 * weights
        seconds += share * moved / link
    return seconds
