"""An item's description -> its SID."""

from collections.abc import Iterator
from pathlib import Path

from genrec.lm.tasks import Corpus, Options, Probe, Slots, shorten, sid_segments, task
from genrec.schema import Segment


@task(
    "description",
    description="an item's description -> its SID",
    probe=Probe("find", "description"),
    path=Path(__file__).with_name("description_to_sid.yaml"),
)
def description_to_sid(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """An item's description to its SID."""
    for item, text in enumerate(corpus.items["description"]):
        if text:
            description = (Segment(text=shorten(text, options.max_text)),)
            yield [{"description": description, "target": sid_segments(corpus.sids[[item]])}]
