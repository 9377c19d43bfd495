"""Values of any shape as readable text: lists joined, markup taken out, nothing evaluated."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping

# Only tags that shops write. "<5 kg" and "<3" stay: they are no markup.
_TAG = re.compile(
    r"</?(?:a|abbr|article|b|big|blockquote|br|center|cite|code|dd|del|div|dl|dt|em|figure|font"
    r"|footer|h[1-6]|header|hr|i|iframe|img|ins|li|link|main|mark|meta|nav|ol|p|pre|q|s|section"
    r"|small|span|strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|tt|u|ul|video|wbr)"
    r"(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_INLINE = re.compile(r"</?(?:b|i|em|strong|span|font|a|u|s|sub|sup|small|big|wbr)\b", re.IGNORECASE)


def as_text(value: object, joiner: str = ", ") -> str | None:
    """Returns a JSON value as readable text; null, "" and empty lists are None.

    Args:
        value: lists are joined, also within lists; an object becomes JSON.
        joiner: stands between the entries of a list.
    """
    if isinstance(value, list | tuple):
        parts = [text for part in value if (text := as_text(part, joiner))]
        return joiner.join(parts) or None
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str) if value else None
    return None if value is None else str(value).strip() or None


def without_markup(text: str | None) -> str | None:
    """Returns text as a browser would show it, on one line: entities decoded, tags taken out.

    Entities are decoded first, and twice, for shops escape what was escaped before; so `&lt;br&gt;`
    is a line break too. Scripts and style sheets go with their content.
    """
    if text is None or not text:
        return None
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _HIDDEN.sub(" ", text)
        text = _TAG.sub(lambda tag: "" if _INLINE.match(tag[0]) else " ", text)
    return " ".join(text.split()) or None
