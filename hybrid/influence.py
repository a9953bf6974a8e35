"""How far learning each token raises the right answers of its group: the column `influence` of THR and NTHR.

One more forward pass over the groups in which right and wrong answers stand beside each other, without gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid.head import Head, chunk_rows
from hybrid.losses.credit import token_influence
from hybrid.model import Scorer
from hybrid.packing import Pack, Sample, pack


@torch.no_grad()
def influences(
    scorer: Scorer,
    samples: Sequence[Sample],
    group: NDArray[np.int64],
    success: NDArray[np.bool_],
    *,
    chosen: Collection[int],
    budget: int,
) -> dict[int, Tensor]:
    """`token_influence` of the trained tokens of answers, by their numbers; 0 where a group is all right or all wrong.

    Args:
        scorer: the policy that wrote the answers.
        samples: N answers.
        group: [N] the problem that each answers.
        success: [N] whether it is right.
        chosen: the numbers that are asked for; all answers of their groups are read.
        budget: tokens of one packed row.
    """
    found: dict[int, Tensor] = {}
    for one in np.unique(group[sorted(chosen)]):
        members = np.flatnonzero(group == one).tolist()
        if success[members].all() or not success[members].any():
            found |= {n: torch.zeros(samples[n].trained) for n in members}
        else:
            found |= _of_group(scorer, samples, success, members, budget)
    return {n: found[n] for n in chosen}


def _of_group(
    scorer: Scorer, samples: Sequence[Sample], success: NDArray[np.bool_], members: Sequence[int], budget: int
) -> dict[int, Tensor]:
    device = scorer.model.device
    rows = [row.to(device) for row in pack(samples, budget=budget, chosen=members)]
    hidden = [scorer.hidden(row) for row in rows]
    targets = torch.cat([row.target for row in rows])
    words, column = torch.unique(targets, return_inverse=True)
    probabilities = torch.cat([_restricted(scorer, h, words) for h in hidden])
    owner = [number for row in rows for number in _owners(row)]
    right = torch.as_tensor(success[owner], device=device)
    influence = token_influence(probabilities, column, torch.cat(hidden), right).cpu()
    whose = torch.tensor(owner)
    return {n: influence[whose == n] for n in members}


def _owners(row: Pack) -> list[int]:
    """The number of the answer that each trained token [N] of a row belongs to."""
    return [row.samples[place] for place in row.row.tolist()]


def _restricted(scorer: Scorer, hidden: Tensor, words: Tensor) -> Tensor:
    """Probabilities [N, V*] of some words after hidden states [N, D], of the whole vocabulary's softmax."""
    head = Head.of(scorer.model)
    parts = [
        torch.softmax(head.logits(part) / scorer.temperature, -1)[:, words]
        for part in torch.split(hidden, chunk_rows(head, scorer.temperature))
    ]
    return torch.cat(parts)
