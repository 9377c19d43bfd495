"""What both small models share: a tokenizer made on the spot, the chat format, and the training loop.

The chat format is ChatML. The loss is on the reply only, or on the whole of a plain text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

PAD, BOS, START, END = "<pad>", "<s>", "<|im_start|>", "<|im_end|>"
IMAGE, AROUND, GLOBAL = "<image>", "<fake_token_around_image>", "<global-img>"  # Idefics3's names
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<image>' }}{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


@dataclass(frozen=True)
class Row:
    """One training example.

    Attributes:
        ids: the whole sequence, prompt and reply.
        start: the first position of the reply, where the loss begins.
    """

    ids: tuple[int, ...]
    start: int


def train_tokenizer(
    texts: Iterable[str], *, vocab: int, specials: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `vocab` tokens, with the chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, BOS, START, END, *specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    roles = [f"{role}\n" for role in ("system", "user", "assistant")] * 1000
    tokenizer.train_from_iterator(chain(roles, texts), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=[START, *specials],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def chat(system: str, user: str, *, image: bool = False) -> list[dict[str, Any]]:
    """A conversation with one question; a picture stands before the text."""
    picture = [{"type": "image"}] if image else []
    messages = [{"role": "user", "content": [*picture, {"type": "text", "text": user}]}]
    if system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return messages


def encode(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Mapping[str, Any]],
    reply: str,
    *,
    image_tokens: int = 0,
) -> Row:
    """Renders a conversation as the processor would, with `image_tokens` for its picture."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    text = text.replace(IMAGE, f"{AROUND}{GLOBAL}{IMAGE * image_tokens}{AROUND}")
    prompt = tokenizer.encode(text, add_special_tokens=False)
    answer = tokenizer.encode(reply + END, add_special_tokens=False)
    return Row((*prompt, *answer), len(prompt))


def collate(rows: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded input_ids, attention_mask and labels, each int64 [B, T]."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        length = len(row.ids)
        ids[i, :length] = torch.tensor(row.ids)
        labels[i, row.start : length] = ids[i, row.start : length]
        mask[i, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def fit(
    name: str,
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[int], torch.Tensor],
    *,
    steps: int,
    lr: float,
    every: int = 50,
) -> None:
    """AdamW on a one-cycle schedule; `loss_of(step)` gives the loss of one batch."""
    weights = list(parameters)
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    began, losses = time.monotonic(), []
    for step in range(steps):
        loss = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == steps:
            mean, seconds = np.mean(losses[-every:]), time.monotonic() - began
            print(f"{name} {step + 1}/{steps}: loss {mean:.4f}, {seconds:.0f} s", flush=True)


def batches(count: int, size: int, rng: np.random.Generator) -> Callable[[], np.ndarray]:
    """Returns a function that gives the next `size` of `count` indices, epoch after epoch."""
    left = np.empty(0, dtype=np.int64)

    def draw() -> np.ndarray:
        nonlocal left
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(count)])
        taken, left = left[:size], left[size:]
        return taken

    return draw
