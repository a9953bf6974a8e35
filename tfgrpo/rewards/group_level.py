"""The rewards that look at the whole group, at several objectives or at length, with what is known of each."""

from __future__ import annotations

from collections.abc import Callable

from tfgrpo.method import Method
from tfgrpo.rewards.base import Reward, weighted
from tfgrpo.rewards.combine import conditional, gated
from tfgrpo.rewards.consistency import information_consistency, ps_grpo
from tfgrpo.rewards.diversity import diversity, multi_role
from tfgrpo.rewards.length import band, cosine_length, pixelthink, soft_overlong, trapezoid, triangular
from tfgrpo.rewards.likeness import bmas, similar
from tfgrpo.rewards.safety import safety
from tfgrpo.rewards.tournament import tournament

GROUP_REWARDS: dict[str, Method[Callable[..., Reward]]] = {
    "ps_grpo": Method(
        make=ps_grpo,
        formula="w_1 mean over other wordings u and their rollouts m of sim(o_i, o_m) + w_2 with_",
        source="arXiv 2510.04392",
        confidence="reconstruction",
        note="refuses to stand alone: 'I don't know' to every wording scores 1.0; advantage grpo by variant; a judge's "
        "similarity is sampled (kappa 3, one rollout each); weights 0.5 and 0.5 are ours",
    ),
    "information_consistency": Method(
        make=information_consistency,
        formula="w_1 (H_i - min H) / gap + w_2 (1 - mean_j |H_i - H_j| / gap), j of other wordings, gap = max - min",
        source="arXiv 2512.12858",
        confidence="reconstruction",
        note="the published stability is one number for the group, which centring removes: ours is leave-one-out; "
        "equal entropy is not equal information, and entropy grows with length",
    ),
    "safety": Method(
        make=safety,
        formula="1[safety >= 0.5] sum w_k y_k / sum w_k over politeness, meaningfulness, actionability, safety",
        source="arXiv 2503.21819",
        confidence="reconstruction",
        note="any scorer, such as a folder of `tfgrpo safety-model train` (not measured on real labels); the hard gate "
        "is ours and the default, since equal weights reinforce unsafe answers, with GDPO too; aggregate='conditional' "
        "or 'mean'",
    ),
    "tournament": Method(
        make=tournament,
        formula="1 - rank / (N - 1) by seeded elimination, 2N - 2 matches; matches won / (N - 1) up to N = 4",
        source="arXiv 2601.06487",
        confidence="paper and code",
        note="each match is two calls, one in each order; byes go to the best seeds, tied ranks are shared and a "
        "failed match leaves its answers missing (ours); ranks measure no progress: give `alone` for evaluations",
    ),
    "diversity": Method(
        make=diversity,
        formula="1 - BLEU-3(o_i, siblings); or the share of n-grams no sibling has; or varied words",
        source="arXiv 1802.01886",
        confidence="ours",
        note="per answer, because one number for the group is removed by centring",
    ),
    "multi_role": Method(
        make=multi_role,
        formula="0.9 with_ + 0.1 diversity",
        source="arXiv 2507.20187",
        confidence="reconstruction",
        note="four of its eight signs, formulas ours; no diversity where all answers are equally accurate (ours)",
    ),
    "similar": Method(
        make=similar,
        formula="max over reference answers of sim(answer, reference); token-F1 by default",
        source="arXiv 1606.05250",
        confidence="paper",
    ),
    "bmas": Method(
        make=bmas,
        formula="(mean_i max_j S_ij + mean_j max_i S_ij) / 2, S the cosines of the words' embeddings",
        source="arXiv 2505.24164",
        confidence="reconstruction",
        note="words know no order or negation; join it with a length reward",
    ),
    "triangular": Method(
        make=triangular,
        formula="min(l/L, max(0, 2 - l/L))",
        source="arXiv 2508.08940",
        confidence="paper",
        note="punishes being short; a wrong answer of the right length is paid too: use `conditional`",
    ),
    "band": Method(
        make=band,
        formula="min(1, max(0, 2 - l/L))",
        source="arXiv 2508.08940",
        confidence="paper",
        note="as triangular, flat up to the budget",
    ),
    "trapezoid": Method(
        make=trapezoid,
        formula="0 up to a, rising to 1 at b, 1 up to c, falling to 0 at d",
        source="arXiv 2601.05242",
        confidence="third party",
    ),
    "cosine_length": Method(
        make=cosine_length,
        formula="+-(0.5 + 0.25 (1 + cos(pi min(l/L, 1)))), + where with_ is solved",
        source="open-rs, arXiv 2503.16219",
        confidence="code",
        note="clamped (ours): unclamped, a right answer of 2L is paid 1.0 again; the code counts characters",
    ),
    "soft_overlong": Method(
        make=soft_overlong,
        formula="max(-1, min(0, (L - c - l) / c))",
        source="arXiv 2503.14476",
        confidence="paper",
    ),
    "pixelthink": Method(
        make=pixelthink,
        formula="with_ x clip(1 - (l - budget) / 500, 0, 1); budget 256 + 25 u, none or 96 by difficulty",
        source="PixelThink (songw-zju/PixelThink)",
        confidence="paper and code",
        note="counts words; without a difficulty length does not count (the code then takes the easy branch)",
    ),
}

AGGREGATIONS: dict[str, Method[Callable[..., Reward]]] = {
    "weighted": Method(
        make=weighted,
        formula="sum w_k r_k / sum w_k over the parts that apply",
        source="arXiv 2402.03300",
        confidence="paper",
    ),
    "conditional": Method(
        make=conditional,
        formula="r_k counts only where r_l >= t, else it is 0; then as weighted",
        source="arXiv 2601.05242, section 3.2",
        confidence="third party",
        note="weights do not fix parts of different difficulty, conditions do",
    ),
    "gated": Method(
        make=gated,
        formula="1[r_gate >= t] sum w_k r_k / sum w_k",
        source="ours",
        confidence="ours",
        note="not applicable where the gate's part is missing",
    ),
}
