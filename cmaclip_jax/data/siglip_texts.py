"""Texts as SigLIP and SigLIP 2 were trained on them.

Exports contain a copy of this file, so it imports the standard library only.
"""

import string

PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonical(text: str) -> str:
    """A text for SigLIP: in lower case, without ASCII punctuation, with single spaces."""
    return " ".join(text.lower().translate(PUNCTUATION).split())


def lowered(text: str) -> str:
    """A text for SigLIP 2: each character in lower case, and nothing else; '' if it is blank."""
    return "".join(char.lower() for char in text) if text.strip() else ""
