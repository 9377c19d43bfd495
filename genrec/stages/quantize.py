"""Vectors to SIDs, every item its own if asked; or the SIDs that were published."""

from __future__ import annotations

import logging
from itertools import combinations

import numpy as np

from genrec import registry
from genrec.enrich import load_fused
from genrec.sid import MadeSIDs, SIDSets
from genrec.sid.sets import file_of
from genrec.sid.settings import SetSettings
from genrec.stages import PUBLISHED_SIDS, Context

logger = logging.getLogger(__name__)


def run(context: Context) -> None:
    """Vectors to SIDs, every item its own if asked; or the SIDs that were published."""
    section = context.section
    if section.learns:
        made = [_made(context, own, number) for number, own in enumerate(section.each_set)]
    else:
        given = SIDSets.load(context.inputs["prepare"].path, PUBLISHED_SIDS).from_zero()
        maker = registry.implementation(section)(section, device="cpu")
        made = [maker.make_sids(given.own(number)) for number in range(len(given))]
    for a, b in combinations(range(len(made)), 2):
        if np.array_equal(made[a].sids, made[b].sids):
            logger.warning(
                "quantize.sets: sets %d and %d are the same, so the second one adds nothing; give it "
                "other views, another size or another seed",
                *(a + 1, b + 1),
            )
    SIDSets([part.sids for part in made]).save(context.out)
    for number, part in enumerate(made):
        if part.quantizer is not None:
            part.quantizer.save(context.out / file_of(number, "quantizer", "safetensors"))
        of = f" (set {number + 1} of quantize.sets)" if len(made) > 1 else ""
        own = section.each_set[number] if section.learns else SetSettings()
        for finding in part.stats.get("findings", ()):
            for field in own.model_dump(include={"levels", "codes"}, exclude_none=True):
                finding = finding.replace(f"quantize.{field}", f"quantize.sets.{number}.{field}")
            logger.warning("quantize%s: %s", of, finding)
    further = {"sets": [part.stats for part in made]} if len(made) > 1 else {}
    context.write_json("stats.json", made[0].stats | further)


def _made(context: Context, own: SetSettings, number: int) -> MadeSIDs:
    """One set of SIDs, of its own views, sizes and seed."""
    sizes = own.model_dump(include={"levels", "codes"}, exclude_none=True)
    section = context.section.model_copy(update={"sets": 1, **sizes})
    embeddings = load_fused(context.inputs["embed"].path, own.views)[0]
    seed = context.recipe.seed + number if own.seed is None else own.seed
    maker = registry.implementation(section)(section, seed=seed, device=context.device)
    progress = context.progress if number == 0 else context.progress_of(f"set {number + 1}")
    made: MadeSIDs = maker.make_sids(embeddings, progress=progress)
    return made
