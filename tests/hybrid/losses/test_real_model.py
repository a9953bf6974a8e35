"""Every loss updates a real model: sampled answers, real log-probs, entropies, temperatures and hidden states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from hybrid.batch import Tokens
from hybrid.losses import (
    LOSSES,
    REGULARISERS,
    check_loss,
    dcpo_temperature,
    nthr_advantage,
    resolve_loss,
    resolve_regulariser,
    token_influence,
)
from hybrid.losses.compose import Composed

pytestmark = pytest.mark.slow
GROUP, NEW, TARGET = 6, 6, 0.5
BAND = {"entropy_band": {"low": 0.5, "high": 1.0}}


class Answers:
    """One group of sampled answers, rewarded by how many of their tokens hold the letter e."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        torch.manual_seed(0)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Name an animal."}], add_generation_prompt=True, tokenize=False
        )
        prompt = tokenizer(text, return_tensors="pt").input_ids.repeat(GROUP, 1)
        self.ids = model.generate(prompt, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=NEW)
        self.answer = self.ids[:, prompt.shape[1] :]
        ended = (self.answer == tokenizer.eos_token_id).cumsum(1)
        self.mask = (ended - (self.answer == tokenizer.eos_token_id).int() == 0).float()
        words = [tokenizer.convert_ids_to_tokens(row) for row in self.answer.tolist()]
        reward = torch.tensor([sum("e" in w for w in row) / NEW for row in words])
        self.reward = reward - reward.mean()
        self.success = reward >= reward.median()

    def read(self, model: Any) -> tuple[Tensor, Tensor]:
        """Logits and hidden states at each token of the answers."""
        out = model(self.ids, output_hidden_states=True)
        begin = self.ids.shape[1] - self.answer.shape[1]
        return out.logits[:, begin - 1 : -1].float(), out.hidden_states[-1][:, begin - 1 : -1].float()

    def columns(self, model: Any) -> dict[str, Tensor]:
        """What is fixed while the model is updated."""
        with torch.no_grad():
            logits, hidden = self.read(model)
        old = self.logp(logits)
        entropy = -(old * self.mask).sum().item() / self.mask.sum().item()
        on = self.mask > 0
        vocabulary, chosen = torch.unique(self.answer[on], return_inverse=True)
        right = self.success[:, None].expand(on.shape)[on]
        s = token_influence(logits.softmax(-1)[on][:, vocabulary], chosen, hidden[on], right)
        influence = torch.zeros_like(old).masked_scatter(on, s)
        answer = torch.arange(GROUP)[:, None].expand(on.shape)[on]
        advantage = self.reward[:, None].expand(on.shape)[on]
        assert torch.isfinite(nthr_advantage(advantage, s, answer, right)).all()
        return {
            "old": old,
            "sampler": old + 0.02 * torch.randn_like(old),
            "reference": old - 0.1 * torch.rand_like(old),
            "tempered": self.logp(logits / dcpo_temperature(entropy, target=TARGET)),
            "influence": influence,
        }

    def logp(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(-1, self.answer[..., None])[..., 0]

    def tokens(self, model: Any, fixed: dict[str, Tensor]) -> Tokens:
        logits, _ = self.read(model)
        log_p = logits.log_softmax(-1)
        return Tokens(
            logp=self.logp(logits),
            mask=self.mask,
            advantage=self.reward,
            success=self.success,
            entropy=-(log_p.exp() * log_p).sum(-1),
            **fixed,
        )


class World:
    """The packaged model, of which the last layer is trained, with one group of its answers."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from tfgrpo.policy.packaged_models import packaged_model

        folder = packaged_model()
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        self.layer = self.model.model.layers[-1].requires_grad_(True)
        self.before = copy.deepcopy(self.layer.state_dict())
        self.answers = Answers(self.model, AutoTokenizer.from_pretrained(folder))
        self.fixed = self.answers.columns(self.model)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


LISTED = [(name, resolve_loss(name)) for name in LOSSES] + [
    (f"grpo + {n}", resolve_loss("grpo", regularisers=[resolve_regulariser(n, **BAND.get(n, {}))]))
    for n in REGULARISERS
]


@pytest.mark.parametrize(("name", "loss"), LISTED, ids=[name for name, _ in LISTED])
def test_two_updates_with_a_real_model(name: str, loss: Any, world: World) -> None:
    assert isinstance(loss, Composed)
    check_loss(loss, offered={*loss.needs}, updates=2)
    world.layer.load_state_dict(world.before)
    optimiser = torch.optim.SGD(world.layer.parameters(), lr=1e-3)
    for step in range(2):
        tokens = world.answers.tokens(world.model, world.fixed)
        if step:  # answers that were better than their siblings became likelier than they
            moved = ((tokens.logp.detach() - tokens.old) * tokens.mask).sum(1)
            assert (moved * tokens.advantage).sum() > 0
        value, metrics = loss(tokens, tokens.totals(max_tokens=NEW, entropy=0.6))
        assert metrics["sampler_gap"] > 0 and metrics["entropy"] > 0
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert all(torch.isfinite(p).all() for p in world.layer.parameters())
    assert any(not torch.equal(p, world.before[n]) for n, p in world.layer.state_dict().items())
