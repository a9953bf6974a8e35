"""TRL's own divergences of self-distillation: values, and gradients for the student's logits.

Run by test_oracles.py in the interpreter that has TRL: reads jobs as JSON, value and gradient back for each.
"""

import contextlib
import json
import os
import sys

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", PYTHONWARNINGS="ignore", TRL_EXPERIMENTAL_SILENCE="1")

import torch
from trl.experimental.sdpo import loss_utils


def answer(job: dict) -> dict:
    student, teacher = (torch.tensor(job[name], dtype=torch.float64) for name in ("student", "teacher"))
    student.requires_grad_()
    alpha, k = job["alpha"], job["k"]
    written = torch.tensor(job["written"])
    if k == 0:
        terms = loss_utils.compute_sampled_token_self_distillation_loss(
            student[None], teacher[None], written[None], distillation_alpha=alpha
        )[0]
    elif k is None:
        terms = loss_utils.compute_full_logit_self_distillation_loss(student, teacher, distillation_alpha=alpha)
    else:
        terms = loss_utils.compute_topk_self_distillation_loss(
            student, teacher, distillation_topk=k, distillation_alpha=alpha, distillation_add_tail=job["tail"]
        )
    logp = student.log_softmax(-1).gather(-1, written[:, None])[:, 0]
    terms = loss_utils.apply_importance_sampling_clipping(terms, logp, torch.tensor(job["old"]), job["cap"])
    terms.mean().backward()
    return {"value": terms.tolist(), "gradient": student.grad.tolist()}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answers = [answer(job) for job in json.load(sys.stdin)]
    print(json.dumps(answers))
