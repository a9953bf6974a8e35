"""Folders with random-initialised models and a word tokenizer, for measuring where no weights are to be had.

python benchmarks/train_models.py FOLDER qwen3-0.6b
python benchmarks/train_models.py FOLDER llama:256x8x4096      # hidden size x layers x vocabulary
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from train_meter import WORDS

QWEN3: dict[str, dict[str, int]] = {
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072},
    "qwen3-1.7b": {"hidden_size": 2048, "intermediate_size": 6144},
}
TEMPLATE = (
    "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant {% endif %}"
)
SPECIAL = ["<unk>", "<s>", "</s>", "user", "assistant", "system"]


def config_of(shape: str) -> Any:
    """The transformers config of a shape by name."""
    from transformers import LlamaConfig, Qwen3Config

    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": True}
    if shape in QWEN3:
        sizes = {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
        return Qwen3Config(vocab_size=151_936, max_position_embeddings=8192, **sizes, **QWEN3[shape], **tokens)
    family, _, sizes_told = shape.partition(":")
    if family != "llama" or sizes_told.count("x") != 2:
        raise SystemExit(f"unknown shape {shape!r}; give one of {sorted(QWEN3)} or llama:HIDDENxLAYERSxVOCABULARY")
    hidden, layers, vocabulary = map(int, sizes_told.split("x"))
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=8 * hidden // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 192),
        max_position_embeddings=4096,
        **tokens,
    )


def save(folder: Path, shape: str) -> None:
    """Config, random weights in bfloat16 and a tokenizer, as transformers loads them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16)
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("shape")
    given = parser.parse_args()
    save(given.folder, given.shape)
