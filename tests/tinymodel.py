"""A two-layer llama with random weights and a word tokenizer, as a transformers folder: what hybrid's tests train."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WORDS = ["the", "largest", "of", "is", "a", "number", "answer", "and", "then", "which", *NUMBERS]
SPECIAL = ["<unk>", "<s>", "</s>", "user", "assistant", "system"]
TEMPLATE = (
    "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant {% endif %}"
)


def tiny_model(**options: Any) -> Any:
    """A random llama in float32; `options` go into its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    given = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "initializer_range": 0.4,
        **options,
    }
    return LlamaForCausalLM(LlamaConfig(**given)).eval()


def save_tiny(folder: Path, *, template: str | None = TEMPLATE, **options: Any) -> Path:
    """The model and its tokenizer in a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=template
    )
    tiny_model(**options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trainer_state(report: Any) -> dict[str, Any]:
    """What a checkpoint keeps of the optimiser, on one process."""
    import torch
    import torch.distributed.checkpoint as dcp

    folder = Path(report.checkpoint, "trainer")
    known = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {name: torch.empty(kept.size, dtype=kept.properties.dtype) for name, kept in known.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(state, checkpoint_id=folder, no_dist=True)
    return state
