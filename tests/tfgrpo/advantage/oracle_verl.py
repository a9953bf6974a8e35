"""verl's own estimators, as its package has them registered.

Run by test_oracles.py in the interpreter that has verl: reads jobs as JSON, one list of advantages back for each.
"""

import contextlib
import json
import sys

import numpy as np
import torch


def advantages(job: dict) -> list[float]:
    """`job["parts"]` is [K][N], `job["group"]` [N]; every answer is one token long."""
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    parts = np.array(job["parts"], dtype=np.float32)
    rows = parts.shape[1]
    names = [f"part{k}" for k in range(len(parts))]
    options = dict(job["options"])
    if job["estimator"] == "gdpo":
        options |= {
            "config": {"gdpo_reward_keys": names, "gdpo_reward_weights": job["weights"]},
            "non_tensor_batch": dict(zip(names, parts, strict=True)),
            "batch": {"prompts": torch.ones(rows, 1), "attention_mask": torch.ones(rows, 2, dtype=torch.long)},
        }
    values, _ = get_adv_estimator_fn(job["estimator"])(
        token_level_rewards=torch.tensor(parts.T @ np.array(job["weights"], dtype=np.float32))[:, None],
        response_mask=torch.ones(rows, 1),
        index=np.array(job["group"]),
        **options,
    )
    return values[:, 0].tolist()


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answers = [advantages(job) for job in json.load(sys.stdin)]
    print(json.dumps(answers))
