"""Vectors to SIDs, every item its own if asked; or the SIDs that were published."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from genrec.enrich import load_fused
from genrec.sid import codes, published
from genrec.sid.findings import quantizer_findings
from genrec.stages import Context

logger = logging.getLogger(__name__)


def run(context: Context) -> None:
    """Vectors to SIDs, every item its own if asked; or the SIDs that were published."""
    section = context.section
    if section.kind == "published":
        sids = context.inputs["prepare"].load("published_sids.npy")
        resolved = published.resolve_published(sids) if section.resolve else None
        np.save(context.out / "sids.npy", sids if resolved is None else resolved)
        stats = published.inspect_published(sids, resolved=resolved)
        _write(context, stats)
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
    stats = codes.sid_stats(embeddings, before, after, quantizer)
    if found := quantizer_findings(stats, embeddings, quantizer):
        stats["findings"] = found
    _write(context, stats)


def _write(context: Context, stats: dict[str, object]) -> None:
    """Writes stats.json, and warns of its findings."""
    findings: Any = stats.get("findings", ())
    for finding in findings:
        logger.warning("quantize: %s", finding)
    context.write_json("stats.json", stats)
