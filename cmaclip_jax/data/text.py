"""Texts to token ids `<start> ... <end>` with padding, as CLIP's text tower expects."""

import functools
import html
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import tokenizers

from cmaclip_jax.data.titles import clean_title
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text

LONGEST_CACHED = 500  # characters of a text whose cleaned form is kept in memory
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = "words.json"  # beside tokenizer.json: the cleaning of texts before they are tokenized
TITLES = "titles"  # a name of CLEANINGS


class Tokenizer:
    """A `tokenizers.Tokenizer` that puts CLIP's start and end tokens around every text.

    The end token has the highest id and is also the padding, as in CLIP. So a text ends at the
    first highest id, by either of CLIP's pooling rules.

    length: in tokens, of the texts in the data that it was made for; 0: not measured.
    cleaning: a name in CLEANINGS. The texts that it was made for were cleaned so, and every text
        that it tokenizes is.
    """

    def __init__(self, backend: tokenizers.Tokenizer, cleaning: str = ""):
        self.cleaning = cleaning
        self.length = (backend.truncation or {}).get("max_length", 0)
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.start, self.end = backend.token_to_id(START), backend.token_to_id(END)
        self.vocabulary = backend.get_vocab_size()
        if self.start is None or self.end != self.vocabulary - 1:
            raise UserError(
                f"this tokenizer is not CLIP's: it needs {START} and, as its last token, {END}"
            )

    def __call__(self, texts: Sequence[str | None], length: int) -> np.ndarray:
        """int32 [B,length]. A missing text is start and end alone. A long one is cut before end."""
        ids = np.full((len(texts), length), self.end, np.int32)
        ids[:, 0] = self.start
        for row, words in zip(ids, self._words(texts), strict=True):
            row[1 : 1 + len(words[: length - 2])] = words[: length - 2]
        return ids

    def clean(self, text: str | None) -> str:
        """A text after cleaning; '' if it is missing or nothing is left."""
        return CLEANINGS[self.cleaning](text or "")

    def places(self, text: str | None, length: int) -> list[tuple[str, list[int]]]:
        """The words of a cleaned text, each with the positions of its tokens.

        A word beyond `length` tokens has no positions.
        """
        text = self.clean(text)
        words = text.split()
        word_at = [number for number, word in enumerate(words) for _ in f"{word} "]
        places: list[list[int]] = [[] for _ in words]
        encoding = self.backend.encode(text, add_special_tokens=False)
        for position, (_, end) in enumerate(encoding.offsets[: length - 2], 1):
            places[word_at[end - 1]].append(position)
        return list(zip(words, places, strict=True))

    def share_cut(self, texts: Sequence[str], length: int) -> float:
        """The share of `texts` that do not fit into `length` tokens."""
        lengths = [len(words) + 2 for words in self._words(texts)]
        return float(np.mean(np.array(lengths) > length)) if lengths else 0.0

    def length_for(self, texts: Sequence[str]) -> int:
        """The length, a multiple of 8, that holds all but one text in a thousand."""
        lengths = [len(words) + 2 for words in self._words(texts)] or [3]
        return -(-int(np.quantile(lengths, 0.999, method="higher")) // 8) * 8

    def save(self, path: str | Path) -> None:
        """Writes a standard `tokenizer.json`, and beside it a file with the cleaning, if any."""
        if self.cleaning:
            beside = Path(path).with_name(WORDS)
            write_text(beside, json.dumps({"cleaning": self.cleaning}) + "\n")
        if self.length:
            self.backend.enable_truncation(self.length)
        write_text(path, self.backend.to_str(pretty=True))
        self.backend.no_truncation()

    def save_for_transformers(self, folder: Path, length: int) -> None:
        """The files that `transformers.AutoTokenizer` reads."""
        from transformers import PreTrainedTokenizerFast  # takes seconds to import

        PreTrainedTokenizerFast(
            tokenizer_object=self.backend,
            bos_token=START,
            eos_token=END,
            unk_token=END,
            pad_token=END,
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


CLEANINGS: dict[str, Callable[[str], str]] = {"": clean, TITLES: clean_as_title}


def saved_cleaning(folder: Path) -> str:
    """The cleaning of the tokenizer in a folder; '' is the usual one."""
    try:
        return json.loads((folder / WORDS).read_text(encoding="utf-8"))["cleaning"]
    except FileNotFoundError:
        return ""


def checkpoint_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in the folder of a checkpoint; None if there is none."""
    folder = folder.parent if folder.is_file() else folder
    whole, parts = folder / "tokenizer.json", (folder / "vocab.json", folder / "merges.txt")
    try:
        if whole.exists():
            backend = tokenizers.Tokenizer.from_file(str(whole))
            backend.no_truncation()
        elif all(part.exists() for part in parts):
            from transformers import CLIPTokenizerFast  # takes seconds to import

            backend = CLIPTokenizerFast.from_pretrained(folder).backend_tokenizer
        else:
            return None
    except Exception as error:  # the library tokenizers raises plain Exception
        raise UserError(f"the tokenizer in {folder} cannot be read ({error})") from error
    return Tokenizer(backend, saved_cleaning(folder))


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
