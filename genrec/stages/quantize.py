"""Vectors to SIDs, every item its own if asked; or the SIDs that were published."""

from __future__ import annotations

import logging

import numpy as np

from genrec import registry
from genrec.enrich import load_fused
from genrec.stages import Context

logger = logging.getLogger(__name__)


def run(context: Context) -> None:
    """Vectors to SIDs, every item its own if asked; or the SIDs that were published."""
    section, inputs = context.section, context.inputs
    if section.learns:
        given, device = load_fused(inputs["embed"].path)[0], context.device
    else:
        given, device = inputs["prepare"].load("published_sids.npy"), "cpu"
    maker = registry.implementation(section)(section, seed=context.recipe.seed, device=device)
    made = maker.make_sids(given, progress=context.progress)
    np.save(context.out / "sids.npy", made.sids)
    if made.quantizer is not None:
        made.quantizer.save(context.out / "quantizer.safetensors")
    for finding in made.stats.get("findings", ()):
        logger.warning("quantize: %s", finding)
    context.write_json("stats.json", made.stats)
