"""What the small models are trained on: captions, verdicts, replies, and how a row is made."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from genrec.demo.catalogue import make_products
from genrec.demo.interests import INTERESTS
from genrec.enrich.interests import InterestReader

pytest.importorskip("recipes.assets.chat", reason="needs the root of a checkout on the path")
captions, chat, motives, pictures = (
    importlib.import_module(f"recipes.assets.{name}")
    for name in ("captions", "chat", "motives", "pictures")
)
PRODUCTS = make_products(300, seed=5)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [product.title for product in PRODUCTS]
    specials = [chat.IMAGE, chat.AROUND, chat.GLOBAL]
    return chat.train_tokenizer(texts, vocab=400, specials=specials)


def test_a_caption_names_its_product_and_no_other_look() -> None:
    rng = np.random.default_rng(0)
    for product in PRODUCTS:
        text = captions.caption(product, rng)
        assert all(captions.named(text, product).values()), text
        other = replace(product, colour="teal" if product.colour != "teal" else "red")
        assert not captions.named(text, other)["colour"]
        assert captions.named(text, other)["pattern"]


def test_a_caption_that_names_two_colours_names_none_rightly() -> None:
    product = replace(PRODUCTS[0], category="mug", colour="red", pattern="dots", silhouette="boxy")
    right = captions.named("A red teal dotted mug, squat.", product)
    assert right == {"noun": True, "colour": False, "pattern": True, "shape": True}


def test_replies_pass_the_pipelines_reader_and_quote_the_page() -> None:
    rng, reader = np.random.default_rng(0), InterestReader()
    typical = motives.typical_interests(make_products(2000, seed=6))
    for product in PRODUCTS:
        mined = reader(motives.reply(product, typical, rng))
        found = motives.hints(product)
        assert mined.dropped == 0
        assert all(quote in f"{product.title} {product.description}" for quote in mined.evidence)
        if found:
            assert mined.interests == [INTERESTS[key].wording for key in found]
        else:
            assert max(mined.confidence) < motives.HINTED


def test_typical_interests_are_shares() -> None:
    mug = replace(PRODUCTS[0], category="mug", material="Steel")
    shop = [replace(mug, interests=("van_life",))] * 3 + [
        replace(mug, interests=("yoga", "van_life"))
    ]
    assert motives.typical_interests(shop) == {
        ("mug", "Steel"): [("van_life", 1.0), ("yoga", 0.25)]
    }


def test_a_row_is_the_chat_and_its_reply(tokenizer) -> None:
    messages = chat.chat("Be brief.", "What?", image=True)
    row = chat.encode(tokenizer, messages, "A mug.", image_tokens=2)
    image = f"{chat.AROUND}{chat.GLOBAL}{chat.IMAGE * 2}{chat.AROUND}"
    prompt = (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{image}What?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.decode(row.ids[: row.start]) == prompt
    assert tokenizer.decode(row.ids[row.start :]) == "A mug.<|im_end|>"
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    assert chat.encode(tokenizer, plain, "A mug.") == chat.encode(
        tokenizer, chat.chat("Be brief.", "What?"), "A mug."
    )


def test_the_loss_is_on_replies_alone() -> None:
    rows = [chat.Row((5, 6, 7, 8), 2), chat.Row((5, 9), 1)]
    batch = chat.collate(rows, 0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 8], [-100, 9, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_batches_go_through_all_rows_before_any_again() -> None:
    draw = chat.batches(5, 2, np.random.default_rng(0))
    drawn = np.concatenate([draw() for _ in range(5)])
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == [0, 1, 2, 3, 4]


def test_variants_keep_the_picture_within_its_frame() -> None:
    rng = np.random.default_rng(0)
    pixels = np.zeros((4, 3, pictures.SIDE, pictures.SIDE), dtype=np.uint8)
    pixels[:, :, 30:34, 10:14] = 255
    made = pictures.varied(pixels, rng)
    assert made.shape == pixels.shape
    assert (made.sum(axis=(1, 2, 3)) == pixels.sum(axis=(1, 2, 3))).all()
