"""The tokenizer in plain Python gives the ids of the library tokenizers."""

import json

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cmaclip_jax.data.byte_pairs import BytePairs
from cmaclip_jax.data.text import END, START, clean, train_tokenizer

WORDS = ["a red mug's handle", "don't 12 cups", "ΣΑΣ café 你好 ½ 100%", "we'll they've I'm he'd"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run's own tokenizer: `(in plain Python, the library's)`."""
    file = tmp_path_factory.mktemp("own") / "tokenizer.json"
    train_tokenizer(WORDS * 3, 330).save(file)
    return BytePairs(file), tokenizers.Tokenizer.from_file(str(file))


@pytest.fixture(scope="module")
def of_clip(tmp_path_factory):
    """A small vocabulary of Hugging Face's CLIPTokenizer, as `save_pretrained` writes it."""
    from transformers import CLIPTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d</w>"), ("m", "u"), ("mu", "g</w>"), ("'", "s</w>"), ("1", "2")]
    tokens = [*alphabet, *(f"{x}</w>" for x in alphabet), *map("".join, merges), START, END]
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    CLIPTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    file = folder / "tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(file))
    backend.no_truncation()
    backend.no_padding()
    return BytePairs(file), backend


# Newer characters have no category in older tables of Unicode.
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            [*WORDS, "mug", "'s", "'S", "'", "12", START, END, "Ⅷ", "²", "İ", "e\u0301"]
        ),
        st.text(st.characters(max_codepoint=0x24F, exclude_categories=["Cc", "Cs", "Cn"])),
    )
).flatmap(lambda parts: st.sampled_from(["".join(parts), " ".join(parts)]))


@pytest.mark.parametrize("which", ["own", "of_clip"])
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="!'s red'll 'red ''s 12mug ½mug <|endoftext|>mug")
def test_the_ids_are_those_of_the_library(which, text, request):
    plain, library = request.getfixturevalue(which)
    text = clean(text)
    assert plain.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_another_kind_is_refused(tmp_path):
    file = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0})).save(str(file))
    content = json.loads(file.read_text())
    content |= {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no byte-level BPE"):
        BytePairs(file)
