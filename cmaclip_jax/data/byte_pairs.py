"""CLIP's tokenizer in plain Python, with the ids of the library `tokenizers`.

It reads tokenizer.json. It is slow, but needs no package. Exports contain a copy of this file, so
it imports the standard library only.
"""

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# The pieces of a text, by the kinds of its characters: Letter, Number, Space, Other.
OF_CLIP = re.compile("L+|N|O+")
BYTE_LEVEL = re.compile(" ?L+| ?N+| ?O+|[S ]+(?![LNO])|[S ]+")


class BytePairs:
    """A byte-level BPE. file: tokenizer.json of a run, or of CLIP as Hugging Face saves it.

    Raises:
      ValueError: the tokenizer is of another kind.
    """

    def __init__(self, file: Path):
        about = json.loads(file.read_text(encoding="utf-8"))
        model, splitter = about["model"], about["pre_tokenizer"]
        steps = splitter.get("pretokenizers", [splitter])
        if model["type"] != "BPE" or steps[-1]["type"] != "ByteLevel" or len(steps) > 2:
            raise ValueError(f"{file} is no byte-level BPE")
        self.pieces = BYTE_LEVEL if len(steps) == 1 else OF_CLIP
        self.leading_space = steps[-1]["add_prefix_space"]
        self.ids: dict[str, int] = model["vocab"]
        self.suffix = model.get("end_of_word_suffix") or ""
        merges = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self.added = {token["content"]: token["id"] for token in about["added_tokens"]}

    def encode(self, text: str) -> list[int]:
        """The ids of a cleaned text, without start and end."""
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, self.added)) + ")", text):
            if part in self.added:
                ids.append(self.added[part])
            else:
                for piece in self._pieces(part):
                    ids.extend(self.ids[token] for token in self._merged(piece))
        return ids

    def _pieces(self, text: str) -> Iterator[str]:
        """The words, numbers and marks of a text. Bytes merge only within a piece."""
        text = "".join(char.lower() for char in unicodedata.normalize("NFC", text))
        if self.leading_space and text and not text.startswith(" "):
            text = f" {text}"
        kinds, start = "".join(map(kind, text)), 0
        while start < len(text):
            piece = next((x for x in CONTRACTIONS if text.startswith(x, start)), "")
            if not piece:
                found = self.pieces.search(kinds, start)
                if not found:
                    return
                if self.pieces is OF_CLIP and found.start() > start:
                    start = found.start()  # spaces separate pieces, and a contraction may follow
                    continue
                piece = text[start : found.end()]
            yield piece
            start += len(piece)

    def _merged(self, piece: str) -> list[str]:
        """The tokens of a piece: its bytes. The pair of the lowest rank merges first."""
        tokens = [byte_characters()[byte] for byte in piece.encode()]
        tokens[-1] += self.suffix
        while len(tokens) > 1:
            pairs = list(itertools.pairwise(tokens))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            place = pairs.index(best)
            tokens[place : place + 2] = ["".join(best)]
        return tokens


def kind(char: str) -> str:
    """The kind of a character: L letter, N number, S space, O other.

    A plain space stays " ", because a piece may begin with one.
    """
    if char == " ":
        return char
    if char.isspace():
        return "S"
    category = unicodedata.category(char)[0]
    return category if category in "LN" else "O"


@functools.cache
def byte_characters() -> list[str]:
    """The visible character that stands for each byte in the vocabulary."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)}
    visible |= set(range(ord("®"), ord("ÿ") + 1))
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]
