"""Published SIDs: oddities found by hand, and collisions resolved without touching a code."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from genrec.sid.published import inspect_published, resolve_published

# Level a tells nothing, level c counts on from b's codes, items 1 and 3 collide.
ODD = np.array([[5, 0, 4], [5, 1, 5], [5, 2, 4], [5, 1, 5]], dtype=np.int32)


def test_oddities_by_hand() -> None:
    stats = inspect_published(ODD)
    assert stats["letters"] == ["a", "b", "c"]
    assert stats["lowest"] == [5, 0, 4]
    assert stats["highest"] == [5, 2, 5]
    assert stats["codes_used"] == [1, 3, 2]
    assert stats["prefixes"] == [1, 3, 3]
    assert stats["degenerate_levels"] == ["a"]
    assert stats["colliding_items"] == 2
    assert stats["collision_rate"] == 0.5
    degenerate, offset, collisions = stats["findings"]  # type: ignore[misc]
    assert degenerate.startswith("level a is degenerate: all items have the code 5")
    assert offset.startswith("level c counts from 4 to 5 for 2 codes: its lower 4 tokens")
    assert collisions.startswith(
        "2 of 4 items share their SID with another, up to 2 on one SID; kept"
    )


def test_nothing_odd_is_said_of_good_ones() -> None:
    sids = np.array([[0, 0], [0, 1], [1, 0]], dtype=np.int32)
    assert inspect_published(sids)["findings"] == []
    assert resolve_published(sids) is sids


def test_resolved_by_hand() -> None:
    resolved = resolve_published(ODD)
    assert resolved.tolist() == [[5, 0, 4, 0], [5, 1, 5, 0], [5, 2, 4, 0], [5, 1, 5, 1]]
    stats = inspect_published(ODD, resolved=resolved)
    assert stats["levels"] == 4
    assert stats["collision_rate"] == {"before": 0.5, "after": 0.0}
    assert "resolved by 1 further level(s)" in stats["findings"][-1]  # type: ignore[index]


def test_more_items_on_one_sid_than_codes() -> None:
    assert resolve_published(np.zeros((5, 1), dtype=np.int32)).tolist() == [
        *([0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]),
        *([0, 0, 1, 1], [0, 1, 0, 0]),
    ]


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.int32, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.integers(0, 3))
)
def test_resolution_is_unique_ordered_and_keeps_every_code(sids: np.ndarray) -> None:
    resolved = resolve_published(sids)
    assert len(np.unique(resolved, axis=0)) == len(sids)
    assert (resolved[:, : sids.shape[1]] == sids).all()
    assert resolved.dtype == np.int32
    for sid in np.unique(sids, axis=0):
        mine = resolved[(sids == sid).all(axis=1)][:, sids.shape[1] :]
        assert mine.tolist() == sorted(mine.tolist())  # in the order of items, from zeros on
        assert not mine[0].any()


@pytest.mark.parametrize("resolve", [False, True])
def test_quantize_reports_and_resolves(resolve: bool, tmp_path, caplog) -> None:  # type: ignore[no-untyped-def]
    import json

    from click.testing import CliRunner

    from genrec import Pipeline
    from genrec.cli import cli

    names = [str(n) for n in range(4)]
    files = {
        "inter": {u: [0, 1, 2, 3] for u in "uv"},
        "item": {n: {"title": f"title {n}", "description": ""} for n in names},
        "index": {
            n: [f"<{a}_{c}>" for a, c in zip("abc", sid, strict=True)]
            for n, sid in zip(names, ODD.tolist(), strict=True)
        },
    }
    for name, content in files.items():
        (tmp_path / f"S.{name}.json").write_text(json.dumps(content))
    recipe = tmp_path / "odd.yaml"
    recipe.write_text(
        f"""
prepare:
  source: {{kind: interchange, interactions: {tmp_path}/S.inter.json, items: {tmp_path}/S.item.json,
            index: {tmp_path}/S.index.json}}
  core: 0
quantize: {{kind: published, resolve: {str(resolve).lower()}}}
runtime: {{store: {tmp_path}/store}}
"""
    )
    pipeline = Pipeline.load(recipe)
    pipeline.run(to="quantize")
    assert pipeline["quantize"].load().shape == (4, 4 if resolve else 3)
    shown = CliRunner().invoke(cli, ["show", str(recipe), "quantize"], terminal_width=200).output
    assert "! level a is degenerate" in shown
    assert "quantize: level a is degenerate" in caplog.text
    assert ("quantize.resolve=true" in shown) is not resolve
