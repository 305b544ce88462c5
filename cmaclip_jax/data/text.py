"""Texts to token ids with their frame and padding, as the text tower of a CLIP expects them."""

import functools
import html
import json
import re
import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import tokenizers

from cmaclip_jax.data.siglip_texts import canonical, lowered
from cmaclip_jax.data.titles import clean_title
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text

LONGEST_CACHED = 500  # characters of a text whose cleaned form is kept in memory
START, END = "<|startoftext|>", "<|endoftext|>"
SENTENCE_PIECES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
WORDS = "words.json"  # beside tokenizer.json: the cleaning of texts before they are tokenized
TITLES, SIGLIP, SIGLIP2 = "titles", "siglip", "siglip2"  # names of CLEANINGS


class Tokenizer:
    """A `tokenizers.Tokenizer` whose texts have a frame of special tokens and padding.

    CLIP's frame is a start and an end token. The end has the highest id and is also the padding, so
    that a text ends at the first highest id, by either of CLIP's pooling rules. The frame of other
    tokenizers is what they add themselves: only an end for SigLIP and SigLIP 2.

    before, after, padding: the ids of the frame, and the id that fills the rest of a row.
    end: the id after a text.
    length: in tokens, of the texts in the data that it was made for; 0: not measured.
    cleaning: a name in CLEANINGS. The texts that it was made for were cleaned so, and every text
        that it tokenizes is.
    """

    def __init__(self, backend: tokenizers.Tokenizer, cleaning: str = ""):
        self.cleaning = cleaning
        self.length = (backend.truncation or {}).get("max_length", 0)
        padding = (backend.padding or {}).get("pad_id")
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.vocabulary = backend.get_vocab_size()
        self.before, self.after = frame_of(backend)
        if not self.after:
            raise UserError(
                f"this tokenizer is not CLIP's, which has {START} and, as its last token, {END}; "
                "and its tokenizer.json has no post-processor that puts an end after a text"
            )
        self.end = self.after[0]
        self.padding = self.end if self.of_clip or padding is None else padding

    @property
    def of_clip(self) -> bool:
        """Whether it has CLIP's frame."""
        return self.backend.token_to_id(START) is not None and self.end == self.vocabulary - 1

    @property
    def framed(self) -> int:
        """The number of tokens in the frame."""
        return len(self.before) + len(self.after)

    def __call__(self, texts: Sequence[str | None], length: int) -> np.ndarray:
        """int32 [B,length]. A missing text is the frame alone. A long one is cut before its end."""
        ids = np.full((len(texts), length), self.padding, np.int32)
        for row, words in zip(ids, self._words(texts), strict=True):
            framed = [*self.before, *words[: length - self.framed], *self.after]
            row[: len(framed)] = framed
        return ids

    def clean(self, text: str | None) -> str:
        """A text after cleaning; '' if it is missing or nothing is left."""
        return CLEANINGS[self.cleaning](text or "")

    def places(self, text: str | None, length: int) -> list[tuple[str, list[int]]]:
        """The words of a cleaned text, each with the positions of its tokens.

        A word beyond `length` tokens has no positions.
        """
        text = self.clean(text)
        parts = re.findall(r"\s*\S+", text)  # a word, and the space before it
        word_at = [number for number, part in enumerate(parts) for _ in part]
        places: list[list[int]] = [[] for _ in parts]
        offsets = self.backend.encode(text, add_special_tokens=False).offsets
        for position, (start, end) in enumerate(offsets[: length - self.framed], len(self.before)):
            solid = len(text[start:end].rstrip())  # a token of spaces belongs to the next word
            last = min(max(start + solid if solid else end, 1), len(word_at)) - 1
            places[word_at[last]].append(position)
        return list(zip(map(str.strip, parts), places, strict=True))

    def share_cut(self, texts: Sequence[str], length: int) -> float:
        """The share of `texts` that do not fit into `length` tokens."""
        lengths = [len(words) + self.framed for words in self._words(texts)]
        return float(np.mean(np.array(lengths) > length)) if lengths else 0.0

    def length_for(self, texts: Sequence[str]) -> int:
        """The length, a multiple of 8, that holds all but one text in a thousand."""
        lengths = [len(words) + self.framed for words in self._words(texts)] or [self.framed + 1]
        return -(-int(np.quantile(lengths, 0.999, method="higher")) // 8) * 8

    def save(self, path: str | Path) -> None:
        """Writes a standard `tokenizer.json`, and beside it a file with the cleaning, if any."""
        if self.cleaning:
            beside = Path(path).with_name(WORDS)
            write_text(beside, json.dumps({"cleaning": self.cleaning}) + "\n")
        if self.length:
            self.backend.enable_truncation(self.length)
        if not self.of_clip:
            token = self.backend.id_to_token(self.padding)
            self.backend.enable_padding(pad_id=self.padding, pad_token=token)
        write_text(path, self.backend.to_str(pretty=True))
        self.backend.no_truncation()
        self.backend.no_padding()

    def save_for_transformers(self, folder: Path, length: int) -> None:
        """The files that `transformers.AutoTokenizer` reads.

        It cleans no texts. So what SigLIP needs becomes a part of the tokenizer.
        """
        from transformers import PreTrainedTokenizerFast  # takes seconds to import

        token = self.backend.id_to_token
        PreTrainedTokenizerFast(
            tokenizer_object=with_normalizers(self.backend, self.cleaning),
            bos_token=token(self.before[0]) if self.before else None,
            eos_token=token(self.end),
            unk_token=getattr(self.backend.model, "unk_token", None) or token(self.end),
            pad_token=token(self.padding),
            model_max_length=length,
        ).save_pretrained(folder)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads what `save` wrote."""
        return cls(tokenizers.Tokenizer.from_file(str(path)), saved_cleaning(Path(path).parent))

    def _words(self, texts: Sequence[str | None]) -> list[list[int]]:
        cleaned = [self.clean(text) for text in texts]
        encodings = self.backend.encode_batch(cleaned, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def frame_of(backend: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """The ids before and after every text: CLIP's if it has them, else what the backend adds."""
    start, end = backend.token_to_id(START), backend.token_to_id(END)
    if start is not None and end == backend.get_vocab_size() - 1:
        return [start], [end]
    inner = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a").ids
    places = (i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    first = next(places, 0)
    return whole[:first], whole[first + len(inner) :]


def with_normalizers(backend: tokenizers.Tokenizer, cleaning: str) -> tokenizers.Tokenizer:
    """A copy of a tokenizer that cleans texts for SigLIP by itself."""
    kinds, copy = tokenizers.normalizers, tokenizers.Tokenizer.from_str(backend.to_str())
    steps: list[Any] = []
    if cleaning.endswith((SIGLIP, SIGLIP2)):
        steps.append(kinds.Lowercase())
    if cleaning.endswith(SIGLIP):
        marks = tokenizers.Regex("[" + re.escape(string.punctuation) + "]")
        steps += [kinds.Replace(marks, ""), kinds.Replace(tokenizers.Regex(r"\s+"), " ")]
        steps.append(kinds.Strip())
    if steps:
        copy.normalizer = kinds.Sequence([*steps, *filter(None, [copy.normalizer])])
    return copy


def cached(function: Callable[[str], str]) -> Callable[[str], str]:
    """The function with a cache of its results for short texts, which often come again."""
    keep = functools.lru_cache(maxsize=1 << 17)(function)

    @functools.wraps(function)
    def look_up(text: str) -> str:
        return keep(text) if len(text) <= LONGEST_CACHED else function(text)

    return look_up


@cached
def clean(text: str) -> str:
    """A text as in CLIP's training: encoding repaired, HTML unescaped twice, single spaces."""
    if not (text.isascii() and text.isprintable() and "&" not in text):  # else nothing to do
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


@cached
def clean_as_title(text: str) -> str:
    """The title of a web page: cleaned by titles.py, then as any text."""
    return clean(clean_title(text))


def with_cleaning(first: str, then: str) -> str:
    """The name of the cleaning that applies the source's cleaning `first`, then the tokenizer's."""
    own = then.removeprefix(f"{TITLES}+")
    return f"{first}+{own}" if first and own in (SIGLIP, SIGLIP2) else first or then


CLEANINGS: dict[str, Callable[[str], str]] = {
    "": clean,
    TITLES: clean_as_title,
    SIGLIP: canonical,
    SIGLIP2: lowered,
    f"{TITLES}+{SIGLIP}": lambda text: canonical(clean_as_title(text)),
    f"{TITLES}+{SIGLIP2}": lambda text: lowered(clean_as_title(text)),
}


def saved_cleaning(folder: Path) -> str:
    """The cleaning of the tokenizer in a folder; '' is the usual one."""
    try:
        return json.loads((folder / WORDS).read_text(encoding="utf-8"))["cleaning"]
    except FileNotFoundError:
        return ""


def checkpoint_tokenizer(folder: Path, of_siglip: bool = False) -> Tokenizer | None:
    """The tokenizer in the folder of a checkpoint; None if there is none.

    of_siglip: whether it belongs to a text tower of SigLIP, whose texts are cleaned in its way.
    """
    folder = folder.parent if folder.is_file() else folder
    whole, parts = folder / "tokenizer.json", (folder / "vocab.json", folder / "merges.txt")
    try:
        if whole.exists():
            backend = tokenizers.Tokenizer.from_file(str(whole))
            backend.no_truncation()
            give_padding(backend, folder)
        elif all(part.exists() for part in parts):
            from transformers import CLIPTokenizerFast  # takes seconds to import

            backend = CLIPTokenizerFast.from_pretrained(folder).backend_tokenizer
        elif pieces := [name for name in SENTENCE_PIECES if (folder / name).exists()]:
            raise UserError(
                f"{folder / pieces[0]} needs the package sentencepiece; save a tokenizer.json with "
                "transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            )
        else:
            return None
    except UserError:
        raise
    except Exception as error:  # the library tokenizers raises plain Exception
        raise UserError(f"the tokenizer in {folder} cannot be read ({error})") from error
    tokenizer = Tokenizer(backend, saved_cleaning(folder))
    if of_siglip and not (tokenizer.cleaning or tokenizer.of_clip):
        unigram = isinstance(backend.model, tokenizers.models.Unigram)
        tokenizer.cleaning = SIGLIP if unigram else SIGLIP2
    return tokenizer


def give_padding(backend: tokenizers.Tokenizer, folder: Path) -> None:
    """Gives a tokenizer the padding that tokenizer_config.json names, as transformers does."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    token = config.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    number = token and backend.token_to_id(token)
    if number is not None:
        backend.enable_padding(pad_id=number, pad_token=token)


def train_tokenizer(texts: Iterable[str], vocabulary: int, cleaning: str = "") -> Tokenizer:
    """A lower-cased byte-level BPE trained on a run's texts, for runs without CLIP's weights."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFC(), tokenizers.normalizers.Lowercase()]
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(map(CLEANINGS[cleaning], texts), trainer)
    backend.add_special_tokens([START, END])  # last, so that they have the highest ids
    frame = [(token, backend.token_to_id(token)) for token in (START, END)]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=frame
    )  # for other readers of the file; Tokenizer adds the two tokens itself
    return Tokenizer(backend, cleaning)
