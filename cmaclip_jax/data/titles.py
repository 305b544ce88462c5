"""The titles of web pages, as UPMC Food-101 has them, without their dirt.

An export carries this file along, so it imports nothing but Python's own library.
"""

import html
import re

DEEPEST = 8  # layers of dirt, such as entities escaped again and again
BYTE_ESCAPES = re.compile(r"(?:\\+x[0-9a-fA-F]{2})+")
SPACE_ESCAPES = re.compile(r"\\+[nrt](?![a-z])")
# What has no width: soft hyphen, zero-width and no-break marks, marks of direction.
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
# Known names alone: "size <10" and "I <heart> pie" are no tags.
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
    r"""A title without the dirt of such pages; '' where nothing is left.

    HTML entities are often escaped twice. What is not ASCII may stand as literal bytes
    (`caf\xc3\xa9`), and white space as `\t`. Tags, invisible characters, and the brackets and
    quotes of a list are left over. A clean title stays as it is.
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
    r"""The characters that a run of literal `\xNN` means; a space for those cut in half."""
    found = bytes.fromhex(re.sub(r"\\+x", "", run.group()))
    return found.decode("utf-8", errors="replace").replace("\N{REPLACEMENT CHARACTER}", " ")
