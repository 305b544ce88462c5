"""Words to token ids, always `<start> ... <end>` and padded, as CLIP's text tower expects."""

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

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = "words.json"  # beside a tokenizer: how texts are cleaned before it reads them
TITLES = "titles"  # a name of CLEANINGS


class Tokenizer:
    """A `tokenizers.Tokenizer` with CLIP's frame around every text.

    The end token has the highest id and is also the padding, as in CLIP: so the first
    highest id is where a text ends, by either of CLIP's pooling rules.

    length: of a text in tokens, as measured on the data it was made for; 0: not measured.
    cleaning: by its name in CLEANINGS, what was done to the texts that it was made for and is
        done to every text that it reads.
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
        """int32 [B,length]; an absent text is just start and end; a long one keeps its end."""
        ids = np.full((len(texts), length), self.end, np.int32)
        ids[:, 0] = self.start
        for row, words in zip(ids, self._words(texts), strict=True):
            row[1 : 1 + len(words[: length - 2])] = words[: length - 2]
        return ids

    def clean(self, text: str | None) -> str:
        """A text as it is read; '' where there are no words."""
        return CLEANINGS[self.cleaning](text or "")

    def places(self, text: str | None, length: int) -> list[tuple[str, list[int]]]:
        """The words of a text as it is read, each with the positions of its tokens.

        A word that does not fit into `length` tokens has none.
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
        """The length that all but one text in a thousand fit into, in steps of eight."""
        lengths = [len(words) + 2 for words in self._words(texts)] or [3]
        return -(-int(np.quantile(lengths, 0.999, method="higher")) // 8) * 8

    def save(self, path: str | Path) -> None:
        """Writes a file that every reader of `tokenizer.json` understands.

        A cleaning, which such a file has no room for, is written beside it.
        """
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
        """What `save` wrote."""
        return cls(tokenizers.Tokenizer.from_file(str(path)), saved_cleaning(Path(path).parent))

    def _words(self, texts: Sequence[str | None]) -> list[list[int]]:
        cleaned = [self.clean(text) for text in texts]
        encodings = self.backend.encode_batch(cleaned, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


@functools.lru_cache(maxsize=1 << 17)
def clean(text: str) -> str:
    """A text as CLIP saw it in training: repaired, HTML unescaped (twice), single spaces."""
    if not (text.isascii() and text.isprintable() and "&" not in text):  # else all is well
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


@functools.lru_cache(maxsize=1 << 17)
def clean_as_title(text: str) -> str:
    """A title without the dirt of web pages, then as any text."""
    return clean(clean_title(text))


CLEANINGS: dict[str, Callable[[str], str]] = {"": clean, TITLES: clean_as_title}


def saved_cleaning(folder: Path) -> str:
    """The cleaning that belongs to the tokenizer in a folder."""
    try:
        return json.loads((folder / WORDS).read_text(encoding="utf-8"))["cleaning"]
    except FileNotFoundError:
        return ""


def checkpoint_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer that travels with a checkpoint; None where its folder has none."""
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
    except Exception as error:  # tokenizers raises nothing more exact
        raise UserError(f"the tokenizer in {folder} cannot be read ({error})") from error
    return Tokenizer(backend, saved_cleaning(folder))


def train_tokenizer(texts: Iterable[str], vocabulary: int, cleaning: str = "") -> Tokenizer:
    """A byte-level BPE of the run's own texts, lower-cased; for runs without CLIP's weights."""
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
    )  # for whoever else reads the file; the frame of ours is made above
    return Tokenizer(backend, cleaning)
