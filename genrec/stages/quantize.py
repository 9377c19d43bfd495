"""Vectors to SIDs, every item its own if asked; or the SIDs that were published."""

from __future__ import annotations

import numpy as np

from genrec.enrich import load_fused
from genrec.sid import codes, published
from genrec.stages import Context


def run(context: Context) -> None:
    """Vectors to SIDs, every item its own if asked; or the SIDs that were published."""
    section = context.section
    if section.kind == "published":
        sids = context.inputs["prepare"].load("published_sids.npy")
        resolved = published.resolve_published(sids) if section.resolve else None
        np.save(context.out / "sids.npy", sids if resolved is None else resolved)
        stats = published.inspect_published(sids, resolved=resolved)
        context.write_json("stats.json", stats)
        return
    from genrec.sid import RQVAE, Quantizer, RKMeans  # torch and faiss, of no use to published SIDs

    embeddings, _ = load_fused(context.inputs["embed"].path)
    options = section.model_dump(exclude={"kind", "resolve"})
    if section.kind == "rqvae":
        quantizer: Quantizer = RQVAE(**options, seed=context.recipe.seed, device=context.device)
    else:
        quantizer = RKMeans(**options, seed=context.recipe.seed)
    quantizer.fit(embeddings, progress=context.progress)
    before = quantizer.encode(embeddings)
    after = before
    if section.resolve:
        distances = quantizer.last_level_distances(embeddings, before)
        after = codes.resolve_collisions(before, distances, codes=section.codes).sids
    np.save(context.out / "sids.npy", after)
    quantizer.save(context.out / "quantizer.safetensors")
    context.write_json("stats.json", codes.sid_stats(embeddings, before, after, quantizer))
