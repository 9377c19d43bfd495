"""The report is parsed back: well-formed, self-contained, escaped, accessible, and right."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from genrec import schema
from genrec.evaluate import Card, UserExample, evaluate, write_report

VOID = {"meta", "img", "br", "link", "input"}
EVIL = "<script>alert('x')</script> & \"co\""
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
SIDS = {
    "items": 40,
    "levels": 3,
    "codes": 8,
    "collision_rate": {"after": 0.0, "before": 0.25},  # the order that sorted JSON keys have
    "moved": 6,
    "largest_group": 3,
    "utilisation": [1.0, 0.875, 0.5],
    "perplexity": [7.5, 6.0, 2.0],
    "reconstruction_cosine": {"before": 0.93, "after": 0.91},
    "relative_residual_norm": [0.7, 0.5, 0.3],
}


class Page(HTMLParser):
    """Every element with its attributes, and the text; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", list[str]()
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert [tag] == self._open[-1:], f"</{tag}> closes something else"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data + " "

    def all(self, tag: str, **attrs: str) -> list[dict[str, str | None]]:
        return [
            a
            for name, a in self.elements
            if name == tag and all(a.get(key.strip("_")) == value for key, value in attrs.items())
        ]


@pytest.fixture(scope="module")
def metrics() -> dict:
    targets = pl.DataFrame([(u, [], u) for u in range(40)], schema=dict(schema.SPLIT), orient="row")

    def hits(users: range) -> pl.DataFrame:
        return pl.DataFrame(
            [(u, u, 1.0, 1) for u in users], schema=dict(schema.RECOMMENDATIONS), orient="row"
        )

    systems = {"generative": hits(range(30)), "popular": hits(range(8))}
    return evaluate(
        systems, targets, split="test", num_items=40, baselines=("popular",), samples=200
    )


@pytest.fixture
def example() -> UserExample:
    target = Card("Blue lamp", PIXEL)
    return UserExample(
        user=17,
        history=(Card(EVIL, None), Card("", None)),
        older=4,
        target=target,
        lists={
            "generative": (Card("Cup", PIXEL, 1), Card("Blue lamp", PIXEL, 2, hit=True)),
            "popular": (),
        },
    )


def page(tmp_path: Path, metrics: dict, **parts: object) -> Page:
    write_report(tmp_path / "report.html", title="a run", metrics=metrics, **parts)
    return Page((tmp_path / "report.html").read_text("utf-8"))


def test_whole_report(tmp_path: Path, metrics: dict, example: UserExample) -> None:
    found = page(
        tmp_path,
        metrics,
        sid_stats=SIDS,
        data_stats={"users": 12345, "density": 0.0123, "dropped": {"short users": 3}},
        examples=[example],
        facts={"model": "tiny"},
    )
    for part in (
        "generative reaches NDCG@10 0.7500 on 40 test users, 0.5500 above popular",
        "0.2000",  # popular's recall
        "+0.5500",
        "3 levels of 8 codes",
        "25.00 %",
        "87.5 %",
        "users 12,345",
        "density 1.23 %",
        "dropped: short users 3",
        "model tiny",
        "User 17 4 older items not shown",
        "held out: hit",
        "nothing recommended",
        "left out of every list",
    ):
        assert part in found.text, part
    assert found.text.count("held out: hit") == 1
    assert len(found.all("li", class_="card hit")) == 1
    # One tile for the item without an image (its initial), one for the item without a title.
    assert "< <script>" in found.text
    assert len(found.all("span", class_="pic tile")) == 2


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(
    tmp_path: Path, metrics: dict, example: UserExample
) -> None:
    found = page(tmp_path, metrics, sid_stats=SIDS, examples=[example])
    assert all((a["src"] or "").startswith("data:image/") for a in found.all("img"))
    assert not {tag for tag, _ in found.elements} & {"script", "link", "iframe", "object"}
    assert not [a for _, a in found.elements if any(key.startswith("on") for key in a)]
    raw = (tmp_path / "report.html").read_text("utf-8")
    assert "http" not in raw
    assert "url(" not in raw
    assert "@import" not in raw


def test_the_headline_is_the_rate_after_resolution(tmp_path: Path, metrics: dict) -> None:
    text = page(tmp_path, metrics, sid_stats=SIDS).text
    assert "SID collisions 0.0 %" in text
    assert "25.0 % before resolution" in text


def test_each_set_of_sids_is_shown(tmp_path: Path, metrics: dict) -> None:
    second = SIDS | {"codes": 4, "findings": ["level b is degenerate"]}
    found = page(tmp_path, metrics, sid_stats=SIDS | {"sets": [SIDS, second]})
    for part in ("Set 1 of 2", "Set 2 of 2", "SID collisions, set 1 0.0 %", "3 levels of 4 codes"):
        assert part in found.text
    assert found.text.count("Warning: level b is degenerate") == 1
    alone = page(tmp_path, metrics, sid_stats=SIDS | {"sets": [SIDS]})
    raw = (tmp_path / "report.html").read_text("utf-8")
    assert "Set 1" not in alone.text
    page(tmp_path, metrics, sid_stats=SIDS)
    assert (tmp_path / "report.html").read_text("utf-8") == raw


def test_titles_stay_text(tmp_path: Path, metrics: dict, example: UserExample) -> None:
    write_report(
        tmp_path / "r.html",
        title=EVIL,
        metrics=metrics,
        examples=[example],
        facts={EVIL: EVIL},
        data_stats={EVIL: EVIL},
    )
    raw = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in raw
    assert "&lt;script&gt;" in raw
    assert EVIL in [a.get("title") for a in Page(raw).all("li")]


def test_accessible(tmp_path: Path, metrics: dict, example: UserExample) -> None:
    found = page(tmp_path, metrics, sid_stats=SIDS, examples=[example])
    assert found.all("html", lang="en")
    assert len(found.all("h1")) == 1
    assert {a["alt"] for a in found.all("img")} == {"Cup", "Blue lamp"}
    assert all(a.get("scope") in ("col", "row") for a in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table")) == 5
    assert all(a.get("aria-label") for a in found.all("span", role="img"))


def test_the_report_begins_with_what_the_run_is_for(tmp_path: Path, metrics: dict) -> None:
    path = tmp_path / "report.html"
    write_report(path, title="small", metrics=metrics, purpose="Shows <b>all</b> parts.")
    text = path.read_text("utf-8")
    assert text.index("Shows &lt;b&gt;all&lt;/b&gt; parts.") < text.index(" reaches NDCG@")
    write_report(path, title="small", metrics=metrics)
    assert path.read_text("utf-8").count('class="lead"') == 1


def test_smallest_report_leaves_sections_out(tmp_path: Path, metrics: dict) -> None:
    found = page(tmp_path, metrics)
    ids = {a.get("id") for a in found.all("h2")}
    assert ids == {"metrics", "how"}


def test_published_sids_and_a_system_alone(tmp_path: Path, metrics: dict) -> None:
    published = {"items": 40, "levels": 1, "codes": 8, "collision_rate": 0.125}
    published |= {"largest_group": 2, "utilisation": [1.0], "perplexity": [7.0]}
    alone = metrics | {
        "rows": [row for row in metrics["rows"] if row["system"] == "popular"],
        "differences": [],
        "seen_items": "kept",
        "targets_in_history": 3,
    }
    published["findings"] = ["level a is degenerate"]
    text = page(tmp_path, alone, sid_stats=published).text
    assert "Warning: level a is degenerate" in text
    assert "collision rate 12.50 %" in text
    assert "before resolution" not in text.split("Use of")[0]
    assert "popular reaches NDCG@10 0.2000 on 40 test users." in text
    assert "kept in the lists; 3 users' held-out item" in text


def test_probes_are_shown_with_their_chance_and_what_is_absent(
    tmp_path: Path, metrics: dict
) -> None:
    probes = {
        "content": {"whole": {"cosine": 0.81, "overlap": 0.43, "chance": 0.02, "k": 10}},
        "rows": [{"metric": "x", "k": 1, "value": 0.25, "low": 0.1, "high": 0.4}],
        "sid_to_title": {"absent": EVIL},
    }
    found = page(tmp_path, metrics | {"probes": probes})
    for part in (
        "What the SIDs keep, and what the model knows of them",
        "whole embedding cosine with its reconstruction 0.8100 –",
        "10 nearest items kept 0.4300 0.0200",
        "no item's, greedy 0.2500 0.1000 to 0.4000 –",
        "SID to title: not measured; <script>",
    ):
        assert part in found.text, part
    assert len(found.all("th", rowspan="2")) == 1
    assert "script" not in {tag for tag, _ in found.elements}
    assert all(a.get("scope") in ("col", "row") for a in found.all("th"))
    only = page(tmp_path, metrics | {"probes": {"judge": {"absent": "no judge"}}})
    assert "judge: not measured; no judge." in only.text
    assert len(only.all("table")) == len(found.all("table")) - 1


def test_a_difference_that_holds_zero_is_called_level(tmp_path: Path, metrics: dict) -> None:
    level = [d | {"value": 0.01, "low": -0.01, "high": 0.03} for d in metrics["differences"]]
    text = page(tmp_path, metrics | {"differences": level}).text
    assert "level with popular, the best baseline" in text
    assert "no clear difference" in text
    below = [d | {"value": -0.02, "low": -0.03, "high": -0.01} for d in metrics["differences"]]
    text = page(tmp_path, metrics | {"differences": below}).text
    assert "0.0200 below popular" in text
    assert "worse" in text


def test_same_input_same_bytes(tmp_path: Path, metrics: dict, example: UserExample) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name, title="t", metrics=metrics, examples=[example])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
