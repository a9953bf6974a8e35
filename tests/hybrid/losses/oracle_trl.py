"""TRL's own loss of arrays: its trainer's method, with the log-probs of a model put in.

Run by test_oracles.py in the interpreter that has TRL: reads jobs as JSON, value and gradient back for each.
"""

import contextlib
import json
import os
import sys
from collections import defaultdict
from types import SimpleNamespace

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", PYTHONWARNINGS="ignore")

import torch
from trl import GRPOTrainer

LIMIT = 9
ALONE = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, is_main_process=True)


def trainer(options: dict, logp: torch.Tensor) -> SimpleNamespace:
    """What the method reads of a trainer."""
    made = {
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        **options,
    }
    return SimpleNamespace(
        **made,
        args=SimpleNamespace(delta=made.get("delta"), use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        accelerator=ALONE,
        current_gradient_accumulation_steps=1,
        max_completion_length=LIMIT,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
    )


def answer(job: dict) -> dict:
    columns = {name: torch.tensor(value, dtype=torch.float64) for name, value in job["columns"].items()}
    logp, mask = columns["logp"].requires_grad_(), columns["mask"]
    ids = torch.zeros(mask.shape, dtype=torch.long)
    loss = GRPOTrainer._compute_loss(
        trainer(job["options"], logp),
        None,
        {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1] + 1,
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": columns["advantage"],
            "old_per_token_logps": columns["old"],
            "ref_per_token_logps": columns["reference"],
            "importance_sampling_ratio": (columns["old"] - columns["sampler"]).exp().clamp(max=2.0),
            "num_items_in_batch": mask.sum(),
        },
    )
    loss.backward()
    return {"value": loss.item(), "gradient": logp.grad.tolist()}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answers = [answer(job) for job in json.load(sys.stdin)]
    print(json.dumps(answers))
