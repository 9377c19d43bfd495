"""What the SIDs keep of the embeddings (SCD), and what the trained model knows of the SIDs (SSO)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from genrec import enrich, prompts, registry, schema
from genrec.analysis import content, fidelity
from genrec.analysis.judge import PLACEHOLDERS, Asker, judge
from genrec.analysis.language import followed, perplexity
from genrec.bundle import read_items
from genrec.engines import HFEngine, opened
from genrec.enrich.settings import Late, TextViewSettings
from genrec.evaluate import per_user, probes
from genrec.lm.batch import encode_texts as tokenize, ending
from genrec.lm.compose import questions
from genrec.lm.settings import PretrainedSettings
from genrec.lm.tasks import Corpus, shorten
from genrec.lm.write import Writer
from genrec.recommender import Recommender
from genrec.sid import SIDSets, load_quantizer
from genrec.sid.sets import file_of, in_set, set_of
from genrec.stages import Context
from genrec.weights import find_weights

Found = dict[str, Any]


def run(context: Context) -> None:
    """Measures what the recipe has; says of the rest why it is not measured."""
    probe = _Probe(context)
    measured: Found = {"rows": []}
    ways = {"write": probe.write, "find": probe.find}
    for number in range(len(probe.sets)):
        rows, unconstrained = probe.unconstrained(number)
        measured["rows"] += rows
        found = {"content": probe.content(number), "unconstrained": unconstrained}
        for task, (way, column) in _PROBES.items():
            absent = probe.why_not(task, column)
            if absent is None:
                found[task] = ways[way](task, column, number)
            elif number == 0:  # the reason is no set's own
                found[task] = absent
        measured |= {in_set(name, number): part for name, part in found.items()}
    measured["judge"] = probe.judge()
    measured |= probe.language()
    schema.write(context.out / "written.parquet", probe.table(), schema.WRITTEN)
    context.write_json("probes.json", measured)


_PROBES = {
    name: task.probe
    for way in ("write", "find")
    for name, task in registry.parts("tasks").items()
    if task.probe is not None and task.probe.way == way
}


class _Probe:
    """A recipe's finished stages, and the items and users of the questions."""

    def __init__(self, context: Context) -> None:
        self.context, self.section = context, context.section
        self.seed = context.recipe.seed
        self.items = read_items(context.inputs)
        self.sets = SIDSets.load(context.inputs["quantize"].path)
        self.sample = self._draw(len(self.items), self.section.items)
        self.written: dict[str, list[Found]] = {}
        self.tasks = context.recipe.compose.active(context.inputs)

    def content(self, number: int) -> Found:
        """Returns what quantization into a set of SIDs keeps of the embeddings, view by view."""
        if not self.context.recipe.quantize.learns:
            return _absent("the SIDs were published, not made from embeddings")
        quantize, embed = self.context.inputs["quantize"], self.context.inputs["embed"]
        quantizer = load_quantizer(quantize / file_of(number, "quantizer", "safetensors"))
        views = self.context.recipe.quantize.each_set[number].views
        embeddings, widths = enrich.load_fused(embed.path, views)
        return content.content_kept(
            embeddings,
            quantizer.decode(self.sets.own(number)[:, : quantizer.levels]),
            widths,
            k=self.section.neighbours,
            seed=self.seed,
        )

    def unconstrained(self, number: int) -> tuple[list[Found], Found]:
        """Returns the rows for the metrics, and what of the sequences is not even a SID."""
        file = file_of(number, "test", "parquet")
        examples = schema.read_examples(self.context.inputs["compose"] / file)
        test_prompts = [
            examples[row].prompt for row in self._draw(len(examples), self.section.users)
        ]
        written = {
            beams: self.writer(number).sids(
                test_prompts,
                num_beams=beams,
                step=in_set(f"write SIDs, {beams} beams", number),
                progress=self._progress,
            )
            for beams in dict.fromkeys((1, self.section.num_beams))
        }
        sids = self.sets[number]
        rows, broken = probes.invalid_rates(written, sids, number=number, seed=self.seed)
        found: Found = {"users": len(test_prompts), "not_a_sid": broken}
        if len(self.sets) > 1:
            others = [own for other, own in enumerate(self.sets) if other != number]
            found["of_other_sets"] = probes.of_other_sets(written, others)
        return rows, found

    def why_not(self, task: str, column: str) -> Found | None:
        """Returns why a task is not measured; None where it is."""
        if column not in self.items.columns:
            return _absent(f"the recipe makes no {column}s")
        if task not in self.tasks:
            return _absent(f"the model was not trained on it (compose.tasks.{task}.rate is 0)")
        if len(self._asked(column)) < 2:
            return _absent(f"fewer than two of the {len(self.sample)} items have a {column}")
        return None

    def write(self, task: str, column: str, number: int) -> Found:
        """Has the model write a text of each item, and compares it with those of all items."""
        with_text, truths = self._asked(column), self._texts(column)
        known = [item for item, text in enumerate(truths) if text]
        lengths = [len(ids) for ids in tokenize(self.recommender.tokenizer, truths)]
        written = self.writer(number).texts(
            self._prompts(task, number),
            max_tokens=max(lengths) + len(ending(self.recommender.tokenizer)),
            step=in_set(f"write {column}s", number),
            progress=self._progress,
        )
        vectors = self._encode(written + [truths[item] for item in known])
        own, others = vectors[: len(written)], vectors[len(written) :]
        where = np.searchsorted(known, with_text)
        pool = [truths[item] for item in known]
        right, ranks = fidelity.fidelity(written, own, where, pool, others)
        wrong = where[fidelity.shuffled(len(with_text), seed=self.seed)]
        shuffled, _ = fidelity.fidelity(written, own, wrong, pool, others)
        name = in_set(task, number)
        self.written[name] = [
            {"item": item, "task": name, "truth": truths[item], "written": text, "rank": rank}
            for item, text, rank in zip(with_text, written, ranks, strict=True)
        ]
        return {"items": len(with_text), "right": right, "shuffled": shuffled}

    def find(self, task: str, column: str, number: int) -> Found:
        """Has the model find items by their texts, as SIDs of one set."""
        with_text = self._asked(column)
        lists = self.recommender.of_set(number).recommend(
            self._prompts(task, number),
            k=max(fidelity.KS),
            num_beams=max(self.section.num_beams, *fidelity.KS),
            progress=self.context.progress_of(in_set(task, number)),
        )
        targets = pl.DataFrame(
            {"user": range(len(with_text)), "history": [[]] * len(with_text), "target": with_text},
            schema=dict(schema.SPLIT),
        )
        table = lists.to_table(range(len(with_text)))
        each = per_user(table, targets, num_items=len(self.items), ks=fidelity.KS, where=task)
        right = {f"recall@{k}": float(each[f"recall@{k}"].mean()) for k in fidelity.KS}  # type: ignore[arg-type]
        chance = {f"recall@{k}": min(1.0, k / len(self.items)) for k in fidelity.KS}
        return {"items": len(with_text), "right": right, "shuffled": chance}

    def judge(self) -> Found:
        """Has a VLM say how well texts go with their images, the true ones and the written."""
        section = self.section.judge
        if section.engine.kind == "none":
            return _absent("no judge: set probe.judge.engine to a vision-language model")
        template = prompts.load_chat(section.template, placeholders=PLACEHOLDERS[section.method])
        with opened(
            section.engine, lambda: self.context.device, store=self.context.store
        ) as engine:
            asker = Asker(
                engine, section.method, template, section.longest_side, self.context.cache
            )
            texts = {
                name: self._judged(name, asker, by_item) for name, by_item in self._judgeable()
            }
        return {"method": section.method, "texts": texts}

    def language(self) -> Found:
        """Measures what the model could do before it was trained here, and what it still can."""
        model, name = self.context.recipe.train.model, self.section.language
        if name is None:
            return {}
        if not isinstance(model, PretrainedSettings):
            return {"language": _absent("the model is from scratch and knew no language before")}
        template = prompts.load_language(name)
        folders = {
            "before": find_weights(model.name, store=self.context.store),
            "after": str(self.context.inputs["train"] / "merged"),
        }
        tokenizer, device = self.recommender.tokenizer, self.context.device
        codes = tokenizer.convert_ids_to_tokens(np.concatenate(self.recommender.code_tokens))
        found: Found = {"perplexity": {}, "followed": {}}
        said: list[Found] = [{"asked": one.ask} for one in template.instructions]
        for when, folder in folders.items():
            self._progress(f"read prose {when} training", 0, 1)
            found["perplexity"][when] = perplexity(
                folder,
                template.texts,
                without=codes,
                device=device,
                dtype=self.section.dtype,
            )
            if not said or not tokenizer.chat_template:
                continue
            engine = HFEngine(folder, device=device, dtype=self.section.dtype)
            self._progress(f"answer {when} training", 0, 1)
            answers = followed(engine, template.instructions)
            engine.close()
            found["followed"][when] = sum(right for right, _ in answers) / len(answers)
            for row, (right, reply) in zip(said, answers, strict=True):
                row[when] = {"reply": reply.text, "error": reply.error, "accepted": right}
        self.context.write_json("language.json", said)
        return {"language": found | {"texts": len(template.texts), "instructions": len(said)}}

    def table(self) -> pl.DataFrame:
        """Returns all that the model wrote, of schema `WRITTEN`."""
        rows = [row for task in self.written.values() for row in task]
        return pl.DataFrame(rows, schema=dict(schema.WRITTEN))

    @cached_property
    def recommender(self) -> Recommender:
        """The trained model with exact constrained search."""
        return Recommender.load(
            self.context.inputs["train"] / "merged",
            self.sets,
            max_length=self.context.recipe.train.max_length,
            batch_size=self.context.recipe.runtime.batch_size,
            device=self.context.device,
            dtype=self.section.dtype,
        )

    def writer(self, number: int) -> Writer:
        """Returns the same model, free to write what it likes where a SID of a set should stand."""
        recommender = self.recommender
        return Writer(
            recommender.of_set(number).engine.model,
            recommender.tokenizer,
            recommender.code_tokens[: self.sets.own(number).shape[1]],
            max_length=recommender.max_length,
            batch_size=recommender.batch_size,
        )

    # --- within ------------------------------------------------------------------------------

    def _progress(self, step: str, done: int, total: int) -> None:
        self.context.progress(step, done, total)

    def _draw(self, count: int, most: int) -> list[int]:
        rng = np.random.default_rng([self.seed, count])
        return sorted(rng.choice(count, size=min(most, count), replace=False).tolist())

    def _texts(self, column: str) -> list[str]:
        """Returns one text per item, as the tasks have it; empty where there is none."""
        most = self.context.recipe.compose.max_text
        return [shorten(text or "", most) for text in self.items[column]]

    def _asked(self, column: str) -> list[int]:
        texts = self._texts(column)
        return [item for item in self.sample if texts[item]]

    def _prompts(self, task: str, number: int) -> list[tuple[schema.Segment, ...]]:
        prepared, recipe = self.context.inputs["prepare"], self.context.recipe.compose
        column = _PROBES[task].column
        with_text = self._asked(column)
        items = self.items[with_text]
        corpus = Corpus(
            items=items,
            sids=self.sets[number][with_text],
            train=prepared.load("train.parquet"),
            valid=prepared.load("valid.parquet"),
            captions=items["caption"].to_list() if column == "caption" else None,
        )
        examples = questions(task, corpus, style=recipe.style, max_text=recipe.max_text)
        assert len(examples) == len(with_text), (
            f"{task}: {len(examples)} prompts, {len(with_text)} items"
        )
        return [example.prompt for example in examples]

    def _encode(self, texts: list[str]) -> np.ndarray:
        """Embeds texts by the recipe's text encoder, or the package's own where it has none."""
        embed, view = self.context.recipe.embed, TextViewSettings()
        if "embed" in self.context.inputs and isinstance(embed, Late) and embed.text is not None:
            view = embed.text
        return enrich.encode_texts(
            texts,
            model=view.model,
            batch_size=view.batch_size,
            max_tokens=view.max_tokens,
            device=self.context.device,
            cache=self.context.cache,
            progress=self.context.progress,
        )

    def _judgeable(self) -> list[tuple[str, dict[int, str]]]:
        """Returns kinds of texts, each by item; the true ones are what the others aim at."""
        texts_by_kind = []
        for column in ("title", "caption"):
            if column in self.items.columns:
                texts = self._texts(column)
                texts_by_kind.append(
                    (f"true {column}s", {item: texts[item] for item in self.sample})
                )
        for name, rows in self.written.items():
            column = _PROBES[name.partition("@")[0]].column
            kind = in_set(f"written {column}s", set_of(name))
            texts_by_kind.append((kind, {r["item"]: r["written"] for r in rows}))
        return texts_by_kind

    def _judged(self, name: str, asker: Asker, texts: dict[int, str]) -> Found:
        root, images = self.context.inputs["prepare"].path, self.items["image"]
        items = [item for item, text in texts.items() if text and images[item] is not None]
        least = 2 if asker.method == "question" else 3
        if len(items) < least:
            return _absent(f"{len(items)} items with text and image; needs {least}")
        right, shuffled = judge(
            [texts[item] for item in items],
            [root / images[item] for item in items],
            asker,
            others=self.section.judge.others,
            seed=self.seed,
            step=f"judge {name}",
            progress=self.context.progress,
        )
        values = [[s.value for s in scores if s.value is not None] for scores in (right, shuffled)]
        errors = [s.error for s in (*right, *shuffled) if s.error is not None]
        notes = {"failed": len(errors), "bounds": sum(s.bound for s in (*right, *shuffled))}
        if not all(values):
            return _absent(f"the judge gave no answer: {errors[0]}") | notes
        return fidelity.separation(*values) | notes


def _absent(reason: str) -> Found:
    return {probes.ABSENT: reason}
