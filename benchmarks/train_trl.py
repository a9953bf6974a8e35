"""TRL's side of train_vs_trl.py: its GRPOTrainer, stopped before every step until the parent says go.

Runs in the interpreter that has TRL (make oracles). What is set: the same optimiser, no reference model, no stop token
(as on our side), one micro-batch per prompt. All else is TRL's default, gradient checkpointing too unless told.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore")

import torch
from datasets import Dataset
from train_meter import BETAS, CLIP, LR, Line, Meter, fingerprint, optimizer_tensors, question, side_options, worth
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

STEPS = 1000  # far more than are asked for


def config(options: argparse.Namespace, folder: str) -> GRPOConfig:
    given = {"narrow": False, **json.loads(options.settings)}
    given.pop("narrow")
    return GRPOConfig(
        output_dir=folder,
        use_cpu=options.device == "cpu",
        bf16=options.dtype == "bfloat16",
        learning_rate=LR,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        lr_scheduler_type="constant",
        per_device_train_batch_size=options.group,
        gradient_accumulation_steps=options.prompts,
        num_generations=options.group,
        max_completion_length=options.tokens,
        generation_kwargs={"eos_token_id": None},
        temperature=1.0,
        beta=0.0,
        loss_type="dapo",
        max_steps=STEPS,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **given,
    )


class Measured(GRPOTrainer):
    """Tells sampling and update apart, and keeps the answers of the first step."""

    meter: Meter
    answers: list[dict[str, Any]] | None = None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.meter.switch("rollout")
        made = super()._generate_and_score_completions(inputs)
        self.meter.switch("update")
        if self.answers is None:
            rows = zip(made["prompt_ids"], made["prompt_mask"], made["completion_ids"], made["advantages"], strict=True)
            self.answers = [
                {"prompt": p[m.bool()].tolist(), "tokens": c.tolist(), "advantage": a.item()} for p, m, c, a in rows
            ]
        return made


class Steps(TrainerCallback):
    """Waits for the parent before a step and reports after it."""

    def __init__(self, line: Line, meter: Meter) -> None:
        self.line, self.meter = line, meter
        self.trainer: Measured | None = None
        self.gradient: list[float] = []
        self.told = False

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.told = False
        if self.line.heard() is None:
            sys.stdout.flush()
            os._exit(0)  # the parent has seen enough; a trainer has no other way out of the middle of its loop
        self.meter.switch("update")

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        self.gradient = fingerprint(model.config.num_hidden_layers, lambda name: model.get_parameter(name).grad)

    def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
        if self.told:
            return
        self.meter.switch(None)
        assert self.trainer is not None
        answers, self.trainer.answers = self.trainer.answers, []
        self.line.say(metrics=logs, gradient=self.gradient if answers else [], answers=answers, **self.meter.taken())
        self.told = True


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [worth(ids) for ids in completion_ids]


def serve(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    line, meter = Line(), Meter(options.device)
    steps = Steps(line, meter)
    narrow = json.loads(options.settings).get("narrow", False)  # weights and moments in bfloat16 too
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16 if narrow else torch.float32)
    model = model.to(options.device)
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=0.0, fused=True)
    optimizer.register_step_post_hook(lambda o, *_: meter.count(optimizer_tensors(o)))
    rows = [{"prompt": question(n, options.words)} for n in range(64 * options.prompts)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Measured(
            model=model,
            reward_funcs=reward,
            args=config(options, folder),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[steps],
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
        )
        trainer.eos_token_ids, trainer.meter, steps.trainer = [], meter, trainer
        prompt = tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True)["input_ids"]
        line.say(
            prompt_tokens=len(prompt), parameters=sum(p.numel() for p in model.parameters()), torch=torch.__version__
        )
        trainer.train()


if __name__ == "__main__":
    serve(side_options(__doc__))
