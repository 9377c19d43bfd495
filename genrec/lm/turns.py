"""Turns of a chat: the tokens that a tokenizer's chat template puts around a prompt and its answer.

A tokenizer says itself whether its model is spoken to in turns, in tokenizer_config.json. So training,
validation, probes, a published model and every decoder encode alike, whoever loads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

_SAID = "genrec_turns"  # of tokenizer_config.json
_PROMPT, _ANSWER = "[[prompt]]", "[[answer]]"


@dataclass(frozen=True)
class Turns:
    """Token ids around a prompt and its answer.

    Attributes:
        before: from the first token of the sequence to the prompt: a system message too, where the
            template has one by default.
        between: the end of the user's turn, and what asks the model to speak.
        end: closes the answer; its last token is the one at which the model stops speaking. Empty
            where the template has none.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    end: tuple[int, ...]


def use_turns(tokenizer: PreTrainedTokenizerBase, wanted: bool) -> bool:
    """Settles whether a tokenizer encodes in turns from now on, saved and loaded too.

    Args:
        tokenizer: changed in place.
        wanted: whether to, if it has a chat template.

    Returns:
        Whether it does.

    Raises:
        ValueError: its template cannot be used.
    """
    tokenizer.init_kwargs.pop(_SAID, None)
    if wanted and tokenizer.chat_template:
        tokenizer.init_kwargs[_SAID] = True
    return turns_of(tokenizer) is not None


def turns_of(tokenizer: PreTrainedTokenizerBase) -> Turns | None:
    """Returns the turns of a tokenizer; None where it encodes without.

    Models that can think before they speak are asked not to.

    Raises:
        ValueError: the template leaves out what it is given, or changes it.
    """
    if not tokenizer.init_kwargs.get(_SAID):
        return None
    asked = [{"role": "user", "content": _PROMPT}]
    told = [*asked, {"role": "assistant", "content": _ANSWER}]
    options = {"tokenize": False, "enable_thinking": False}
    question = tokenizer.apply_chat_template(asked, add_generation_prompt=True, **options)
    whole = tokenizer.apply_chat_template(told, **options)
    if question.count(_PROMPT) != 1 or whole.count(_ANSWER) != 1:
        raise ValueError(
            "the chat template of train.model's tokenizer does not write a user's and an assistant's "
            "message once each and as they are; set train.model.chat_template=false to do without it"
        )
    before, between = question.split(_PROMPT)
    end = _ids(tokenizer, whole.split(_ANSWER)[1])
    special = [place for place, token in enumerate(end) if token in tokenizer.all_special_ids]
    # What follows the token at which the model stops is never spoken.
    stop = special[0] + 1 if special else 0
    return Turns(_ids(tokenizer, before), _ids(tokenizer, between), end[:stop])


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()
