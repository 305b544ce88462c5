"""Hugging Face's SigLIP and MetaCLIP 2 in PyTorch, and small tokenizers of their kinds."""

import json

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")
transformers = pytest.importorskip("transformers", reason="the oracle; pip install -e '.[test]'")


def hugging_face_siglip(vision: dict, text: dict):
    """`SiglipModel` with random weights; every bias and probe is drawn too."""
    config = transformers.SiglipConfig(vision_config=vision, text_config=text)
    model = transformers.SiglipModel(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        model.logit_scale.fill_(4.7)
        model.logit_bias.fill_(-12.9)
    return model


def small_siglip(vocabulary: int, length: int = 16):
    """A SigLIP small enough to compile in a second."""
    layer = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    layer |= {"intermediate_size": 64}
    return hugging_face_siglip(
        {"image_size": 48, "patch_size": 16, **layer},
        {"vocab_size": vocabulary, "max_position_embeddings": length, **layer},
    )


def small_metaclip(vocabulary: int, length: int = 16):
    """A MetaCLIP 2 small enough to compile in a second; its texts end with token 2."""
    layer = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    layer |= {"intermediate_size": 64}
    config = transformers.MetaClip2Config(
        vision_config={"image_size": 48, "patch_size": 16, **layer},
        text_config={
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            **layer,
        },
        projection_dim=24,
    )
    return transformers.MetaClip2Model(config).eval()


def unigram(texts, special, tokens):
    """A Unigram with these special tokens first, trained on the texts."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=tokens, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def save_unigram(folder, texts, tokens=400):
    """SigLIP's kind, as T5 has it: a Unigram whose token 1 is end and padding."""
    backend = unigram(texts, ["<pad>", "</s>", "<unk>"], tokens)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_gemma(folder, texts, tokens=700):
    """SigLIP 2's kind, as its files on the hub have it: Gemma's BPE, which lowers no case."""
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=tokens, special_tokens=special, max_token_length=12, show_progress=False
    )
    backend.train_from_iterator([text.lower() for text in texts], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_xlm(folder, texts, tokens=400):
    """MetaCLIP 2's kind, as XLM-V has it: a Unigram with a start, an end and other padding."""
    backend = unigram(texts, ["<s>", "<pad>", "</s>", "<unk>"], tokens)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "XLMRobertaTokenizer", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
