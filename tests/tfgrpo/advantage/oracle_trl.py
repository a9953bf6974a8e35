"""TRL's own advantages, from its trainers' own generation step on a model of one tiny layer.

Run by test_oracles.py in the interpreter that has TRL: reads jobs as JSON, one list of advantages back for each.
"""

import contextlib
import json
import os
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", PYTHONWARNINGS="ignore")

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

WORDS = {word: n for n, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "b"])}
TRAINERS = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def model() -> LlamaForCausalLM:
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), pad_token_id=0, eos_token_id=1, **size, **heads))


def scripted(column: list[float | None]):
    def reward(prompts, completions, **_):
        return column

    return reward


def advantages(job: dict) -> list[float]:
    """`job["parts"]` is [K][N], the rows group by group, `job["size"]` to a group."""
    config, trainer = TRAINERS[job["trainer"]]
    rows, size = len(job["parts"][0]), job["size"]
    prompts = [{"prompt": f"a b {n // size}"} for n in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(
            model=model(),
            reward_funcs=[scripted(column) for column in job["parts"]],
            args=config(
                output_dir=folder,
                per_device_train_batch_size=rows,
                num_generations=size,
                max_completion_length=2,
                report_to=[],
                use_cpu=True,
                bf16=False,
                beta=0.0,
                reward_weights=job["weights"],
                **job["options"],
            ),
            train_dataset=Dataset.from_list(prompts),
            processing_class=tokenizer(),
        )
        return made._generate_and_score_completions(prompts)["advantages"].tolist()


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answers = [advantages(job) for job in json.load(sys.stdin)]
    print(json.dumps(answers))
