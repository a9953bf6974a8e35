"""verl's own policy losses, as its package has them registered.

Run by test_oracles.py in the interpreter that has verl: reads jobs as JSON, value and gradient back for each.
"""

import contextlib
import json
import sys

import torch


def answer(job: dict) -> dict:
    from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn, kl_penalty
    from verl.workers.config import ActorConfig

    columns = {name: torch.tensor(value, dtype=torch.float64) for name, value in job["columns"].items()}
    logp, mask = columns["logp"].requires_grad_(), columns["mask"]
    config = ActorConfig(strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, **job["options"])
    loss, metrics = get_policy_loss_fn(job["loss"])(
        old_log_prob=columns["old"],
        log_prob=logp,
        advantages=columns["advantage"][:, None].expand(mask.shape),
        response_mask=mask,
        loss_agg_mode=job["aggregate"],
        config=config,
        rollout_is_weights=(columns["old"] - columns["sampler"]).exp().clamp(max=2.0) if job["corrected"] else None,
    )
    if job["kl"]:
        terms = kl_penalty(logp, columns["reference"], job["kl"])
        loss = loss + 0.1 * agg_loss(terms, mask, job["aggregate"])
    loss.backward()
    clipped = metrics["actor/pg_clipfrac"]
    return {"value": loss.item(), "gradient": logp.grad.tolist(), "clipped": float(clipped)}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answers = [answer(job) for job in json.load(sys.stdin)]
    print(json.dumps(answers))
