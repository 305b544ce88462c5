"""SentencePiece's tokenizers of SigLIP, SigLIP 2 and MetaCLIP 2: the ids of transformers."""

import json
import os
import sys
import types

import numpy as np
import pytest
import tokenizers
from support.siglip import save_gemma, save_unigram, save_xlm, transformers

from cmaclip_jax.data.siglip_texts import canonical, lowered
from cmaclip_jax.data.text import (
    SIGLIP,
    SIGLIP2,
    TITLES,
    Tokenizer,
    checkpoint_tokenizer,
    train_tokenizer,
    with_cleaning,
)
from cmaclip_jax.errors import UserError

DATA = os.environ.get("CMACLIP_TEST_DATA")
WORDS = [
    "A Red MUG, with 2 handles!",
    "Men's  blue_shirt (100% cotton)",
    "na\u00efve \u03a3\u0391\u03a3 \u4f60\u597d \U0001f9e2 \u0130stanbul",
    "women " * 60,
    "...",
    "",
]
KINDS = {"siglip": save_unigram, "siglip2": save_gemma, "metaclip": save_xlm}


@pytest.fixture(scope="module")
def titles():
    """The fashion titles if they are here, and words of any kind."""
    if not DATA:
        return WORDS
    from pyarrow import parquet

    files = [f"{DATA}/fashion44k/{split}.parquet" for split in ("train", "val")]
    return [*WORDS, *(x for f in files for x in parquet.read_table(f)["title"].to_pylist())]


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory, titles):
    """The folder of a tokenizer that was trained on some of the titles."""
    path = tmp_path_factory.mktemp("tokenizer") / request.param
    path.mkdir()
    KINDS[request.param](path, titles[::20] + WORDS)
    return path


def pieces(folder):
    return json.loads((folder / "tokenizer.json").read_text())["model"]


def reference_ids(folder, texts, length):
    """The ids that transformers' own class gives, with the vocabulary of a folder."""
    model, options = pieces(folder), {"padding_side": "right"}
    if "siglip2" in folder.name:
        merges = [tuple(pair) for pair in model["merges"]]
        own = transformers.Siglip2Tokenizer(
            vocab=model["vocab"], merges=merges, add_bos_token=False, add_eos_token=True, **options
        )
    elif "metaclip" in folder.name:
        own = transformers.XLMRobertaTokenizer(vocab=list(map(tuple, model["vocab"])), **options)
    else:
        own = transformers.T5Tokenizer(
            vocab=list(map(tuple, model["vocab"])), pad_token="</s>", extra_ids=0, **options
        )
        texts = [canonical_by_transformers(text) for text in texts]
    how = {"padding": "max_length", "truncation": True, "max_length": length}
    return np.array(own(texts, **how)["input_ids"])


def canonical_by_transformers(text):
    """`SiglipTokenizer` needs the package sentencepiece, but its cleaning does not use it."""
    there = sys.modules.get("sentencepiece")
    sys.modules.setdefault("sentencepiece", types.ModuleType("sentencepiece"))
    try:
        from transformers.models.siglip.tokenization_siglip import SiglipTokenizer
    finally:
        if there is None:
            del sys.modules["sentencepiece"]
    own = types.SimpleNamespace(
        do_lower_case=True,
        remove_punctuation=lambda part: SiglipTokenizer.remove_punctuation(None, part),
    )
    return SiglipTokenizer.canonicalize_text(own, text)


@pytest.mark.parametrize("length", [64, 9])
def test_the_ids_are_those_of_transformers(folder, titles, length):
    tokenizer = checkpoint_tokenizer(folder, of_siglip="siglip" in folder.name)
    # MetaCLIP 2 repairs texts as CLIP does, which its class in transformers does not.
    texts = [x for x in titles if tokenizer.clean(x) == x] if "meta" in folder.name else titles
    assert len(texts) > len(titles) / 2
    np.testing.assert_array_equal(tokenizer(texts, length), reference_ids(folder, texts, length))


def test_frames_and_padding(folder):
    tokenizer = checkpoint_tokenizer(folder, of_siglip="siglip" in folder.name)
    before, after, padding = {
        "siglip": ([], [1], 1),
        "siglip2": ([], [1], 0),
        "metaclip": ([0], [2], 1),
    }[folder.name]
    assert (tokenizer.before, tokenizer.after, tokenizer.padding) == (before, after, padding)
    row = tokenizer([None], 5)[0]
    assert list(row) == [*before, *after, *[padding] * (5 - len(before + after))]
    cut = tokenizer(["women " * 60], 8)[0]
    assert list(cut).count(tokenizer.end) == 1
    assert cut[-1] == tokenizer.end
    assert tokenizer.share_cut(["women " * 60, "red"], 8) == 0.5
    assert tokenizer.length_for(["women " * 60]) >= 60


def test_what_was_saved_reads_the_same(folder, tmp_path):
    tokenizer = checkpoint_tokenizer(folder, of_siglip="siglip" in folder.name)
    tokenizer.cleaning = with_cleaning(TITLES, tokenizer.cleaning)
    tokenizer.length = 24
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (again.cleaning, again.length, again.padding) == (
        tokenizer.cleaning,
        24,
        tokenizer.padding,
    )
    np.testing.assert_array_equal(again(WORDS, 24), tokenizer(WORDS, 24))


def test_transformers_reads_what_is_written_for_it(folder, tmp_path):
    """Its tokenizer cleans no texts, so the cleaning becomes a part of the file."""
    tokenizer = checkpoint_tokenizer(folder, of_siglip="siglip" in folder.name)
    tokenizer.save_for_transformers(tmp_path, 64)
    own = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    texts = [text for text in WORDS if "\u03a3" not in text]  # a last sigma has two lower cases
    if "meta" in folder.name:
        texts = [tokenizer.clean(text) for text in texts]
    expected = own(texts, padding="max_length", truncation=True)["input_ids"]
    np.testing.assert_array_equal(tokenizer(texts, 64), expected)
    again = checkpoint_tokenizer(tmp_path, of_siglip="siglip" in folder.name)
    np.testing.assert_array_equal(again(WORDS, 64), tokenizer(WORDS, 64))


def test_every_token_has_its_word(folder):
    tokenizer = checkpoint_tokenizer(folder, of_siglip="siglip" in folder.name)
    text = "women  blue shirt \u4f60\u597d"
    places = tokenizer.places(text, 64)
    assert [word for word, _ in places] == ["women", "blue", "shirt", "\u4f60\u597d"]
    found = [position for _, at in places for position in at]
    count = len(tokenizer.backend.encode(tokenizer.clean(text), add_special_tokens=False).ids)
    assert found == list(range(len(tokenizer.before), len(tokenizer.before) + count))
    ids = tokenizer([text], 64)[0]
    for word, at in places[:3]:
        assert word in tokenizer.backend.decode([int(ids[i]) for i in at]).replace(" ", "")
    assert tokenizer.places("women " * 60, 8)[-1] == ("women", [])


@pytest.mark.parametrize(
    ("text", "for_siglip", "for_siglip2"),
    [
        ("A Red_MUG, no. 2\t!", "a redmug no 2", "a red_mug, no. 2\t!"),
        ("  \n", "", ""),
        ("?!", "", "?!"),
        ("\u03a3\u0391\u03a3", "\u03c3\u03b1\u03c2", "\u03c3\u03b1\u03c3"),
    ],
)
def test_texts_are_cleaned_as_siglip_was_trained(text, for_siglip, for_siglip2):
    assert canonical(text) == canonical_by_transformers(text) == for_siglip
    assert lowered(text) == for_siglip2
    if text.strip():
        assert tokenizers.normalizers.Lowercase().normalize_str(text) == for_siglip2


def test_a_sources_cleaning_comes_before_the_tokenizers():
    assert with_cleaning("", SIGLIP) == SIGLIP
    assert with_cleaning(TITLES, "") == with_cleaning(TITLES, TITLES) == TITLES
    assert with_cleaning(TITLES, SIGLIP2) == with_cleaning(TITLES, f"{TITLES}+{SIGLIP2}")


def test_clips_tokenizer_is_cleaned_as_before_in_any_tower(tmp_path):
    tokenizer = train_tokenizer(WORDS, 300)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert '"padding": null' in (tmp_path / "tokenizer.json").read_text()
    assert checkpoint_tokenizer(tmp_path, of_siglip=True).cleaning == ""


def test_pieces_without_a_tokenizer_file_say_what_to_do(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(UserError, match=r"save a tokenizer\.json with transformers"):
        checkpoint_tokenizer(tmp_path, of_siglip=True)
