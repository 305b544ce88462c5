"""Cleans the titles of web pages, as in UPMC Food-101.

Exports contain a copy of this file, so it imports the standard library only.
"""

import html
import re

DEEPEST = 8  # rounds of cleaning at most; entities may be escaped several times
BYTE_ESCAPES = re.compile(r"(?:\\+x[0-9a-fA-F]{2})+")
SPACE_ESCAPES = re.compile(r"\\+[nrt](?![a-z])")
# Characters without width: soft hyphen, zero-width and no-break marks, marks of direction.
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
# Only known names: "size <10" and "I <heart> pie" are not tags.
TAG = re.compile(
    r"</?(?:a|b|big|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|small|span|strike|strong|sub|sup"
    r"|table|td|th|title|tr|tt|u|ul|wbr)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
NO_ENTITY = re.compile(r"&(\w+);")  # "Q&A", once mended as if it were one
EMPTY_BRACKETS = re.compile(r"\[\s*\]")
OPENING = re.compile(r"""^(?:\[\[['"]?|\[['"])""")
CLOSING = re.compile(r"""['"]\]+$""")


def clean_title(title: str) -> str:
    r"""The cleaned title; '' if nothing is left. A clean title stays as it is.

    HTML entities are often escaped twice. Characters beyond ASCII may be written as literal bytes
    (`caf\xc3\xa9`), and white space as `\t`. Tags, invisible characters, and the brackets and
    quotes of a list are removed.
    """
    for _ in range(DEEPEST):
        before, title = title, _cleaned_once(title)
        if title == before:
            break
    return title


def _cleaned_once(title: str) -> str:
    title = BYTE_ESCAPES.sub(decode_escapes, html.unescape(title))
    title = NO_ENTITY.sub(r"&\1", TAG.sub(" ", INVISIBLE.sub("", title)))
    title = EMPTY_BRACKETS.sub(" ", SPACE_ESCAPES.sub(" ", title)).strip()
    return " ".join(CLOSING.sub("", OPENING.sub("", title)).split())


def decode_escapes(run: re.Match) -> str:
    r"""Decodes a run of literal `\xNN`. An incomplete character becomes a space."""
    content = bytes.fromhex(re.sub(r"\\+x", "", run.group()))
    return content.decode("utf-8", errors="replace").replace("\N{REPLACEMENT CHARACTER}", " ")
