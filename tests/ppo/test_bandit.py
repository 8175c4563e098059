"""A bandit: answers of one token, whose best policy is known, reached through the same functions as any PPO run.

Of all policies the one with the highest E[r] - beta KL(policy || reference) is reference x exp(r / beta) / Z (Ziegler et al.
2019, arXiv 1909.08593; Rafailov et al. 2023, 2305.18290, equation 4); that value is beta log Z.

Samples are stratified: of n, every arm is drawn n times its probability, rounded, so runs are deterministic.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from cluster.storage import open_store
from configs.schema.ppo import AdaptiveKl, KlPenalty, PpoAlgorithm
from configs.schema.training import Optimizer
from jobs.ppo.advantages import gae, grpo, rloo
from jobs.ppo.batches import pack_rollouts
from jobs.ppo.kl import KlState, kl_in_unit, next_coefficient
from jobs.ppo.losses import Totals, policy_loss, policy_loss_of_step, value_loss
from jobs.ppo.rewards import token_rewards
from jobs.records import Rollout
from jobs.train.fsdp import set_threads
from jobs.train.learner import Learner, LearnerSpec
from tests.train.tiny_models import VOCABULARY, save_tiny_model

REFERENCE = torch.tensor([0.35, 0.25, 0.2, 0.12, 0.08], dtype=torch.float64).log()
REWARD = torch.tensor([0.0, 0.4, 1.0, 0.2, 0.8], dtype=torch.float64)
BETA = 0.5


def best(reference_V: Tensor, reward_V: Tensor, beta: float) -> Tensor:
    """Log-probabilities of the best policy."""
    return (reference_V + reward_V / beta).log_softmax(0)


def kl(policy_V: Tensor, reference_V: Tensor) -> float:
    return float((policy_V.exp() * (policy_V - reference_V)).sum())


def stratified(logprobs_V: Tensor, count: int) -> Tensor:
    places_S = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.bucketize(places_S, logprobs_V.double().exp().cumsum(0)).clamp(max=len(logprobs_V) - 1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For a thousand small operations a second thread only waits."""
    before = torch.get_num_threads()
    set_threads(1)
    yield
    set_threads(before)


class Bandit:
    """A softmax over arms and one value, trained by gradient descent."""

    def __init__(self, settings: PpoAlgorithm, count: int, sampler: Tensor | None = None) -> None:
        self.settings, self.count, self.sampler = settings, count, sampler
        self.logits_V = REFERENCE.clone().requires_grad_()
        self.value = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        # Packed once: which token an answer is does not matter to what is computed of its log-probability.
        self.batch = pack_rollouts([Rollout(0, number, [1], [3], [0.0], True, 0) for number in range(count)])

    @property
    def logprobs_V(self) -> Tensor:
        return self.logits_V.detach().log_softmax(0)

    def step(self, beta: float, rate: float = 2.0) -> float:
        """Samples, estimates and updates twice; the KL of the batch in nats a sequence."""
        settings, totals = self.settings, Totals(self.count, self.count)
        sampler_V = self.logprobs_V if self.sampler is None else self.sampler
        arms_S = stratified(sampler_V, self.count)
        batch = self.batch
        old_W, reference_W = self.logprobs_V[arms_S], REFERENCE[arms_S]
        in_reward = beta if settings.kl.where == "reward" else 0.0
        rewards_W = token_rewards(REWARD[arms_S], old_W - reference_W, batch.actions.segment_W, in_reward)
        old_values_W = self.value.detach().expand(self.count)
        group_S, returns_W = torch.zeros_like(arms_S), torch.zeros_like(rewards_W)
        if settings.estimator == "gae":
            advantages_W, returns_W = gae(rewards_W, old_values_W, batch.actions.segment_W, 1.0, 0.95)
        elif settings.estimator == "rloo":
            advantages_W = rloo(rewards_W, group_S)
        else:
            advantages_W = grpo(rewards_W, group_S, settings.grpo_scale)
        batch = replace(batch, actions=replace(
            batch.actions, old_logprobs_W=old_W, reference_logprobs_W=reference_W, sampler_logprobs_W=sampler_V[arms_S],
            advantages_W=advantages_W, returns_W=returns_W, old_values_W=old_values_W,
        ))  # fmt: skip
        for _ in range(2):
            logprobs_W = self.logits_V.log_softmax(0)[arms_S]
            loss = policy_loss(logprobs_W, None, batch, settings, beta, totals).loss
            if settings.estimator == "gae":
                loss = loss + value_loss(self.value.expand(self.count), batch, settings, totals).loss
            for parameter in (self.logits_V, self.value):
                parameter.grad = None
            loss.backward()
            with torch.no_grad():
                self.logits_V -= rate * self.logits_V.grad
                if self.value.grad is not None:
                    self.value -= 0.2 * self.value.grad
        return float((old_W - reference_W).mean())


@pytest.mark.parametrize("estimator", ["gae", "rloo", "grpo"])
def test_with_the_kl_in_the_reward_the_optimum_is_reached_exactly(estimator) -> None:
    """There every answer earns r - beta log(policy / reference) = beta log Z, so advantages, and with them the noise of the
    samples, are 0: what is left after 200 steps is the rate of convergence, beta x the rarest probability x rate."""
    scale = "none" if estimator == "grpo" else "deviation"
    settings = PpoAlgorithm(estimator=estimator, answers_per_prompt=2, whiten=False, grpo_scale=scale)
    bandit = Bandit(settings, count=200)
    for _ in range(200):
        measured = bandit.step(BETA)
    wanted_V = best(REFERENCE, REWARD, BETA)
    assert kl(wanted_V, REFERENCE) > 0.25
    torch.testing.assert_close(bandit.logprobs_V, wanted_V, rtol=0, atol=1e-5)
    assert kl(bandit.logprobs_V, REFERENCE) == pytest.approx(kl(wanted_V, REFERENCE), abs=1e-5)
    assert measured == pytest.approx(kl(wanted_V, REFERENCE), abs=0.01), "of 200 samples: 5 arms are rounded by 1 / 400"
    if estimator == "gae":
        log_z = float((REFERENCE + REWARD / BETA).logsumexp(0))
        assert float(bandit.value.detach()) == pytest.approx(BETA * log_z, abs=1e-5)


IN_LOSS = PpoAlgorithm(estimator="rloo", answers_per_prompt=2, kl=KlPenalty(where="loss", estimator="k2"))


@pytest.mark.parametrize("estimator", ["k2", "k3_straight"])
def test_with_the_kl_in_the_loss_the_optimum_is_reached_up_to_the_samples(estimator) -> None:
    """Single samples pull even there, and cancel up to the rounding of an arm's count: 1 / (2 x 4000 x 0.05) = 0.3 % of a
    pull of at most 0.3, over beta."""
    settings = IN_LOSS.model_copy(update={"kl": KlPenalty(where="loss", estimator=estimator)})
    bandit = Bandit(settings, count=4000)
    for _ in range(100):
        bandit.step(BETA)
    torch.testing.assert_close(bandit.logprobs_V, best(REFERENCE, REWARD, BETA), rtol=0, atol=2e-3)


def test_k3_in_the_loss_leads_somewhere_else() -> None:
    """To the highest E[r] - beta KL(reference || policy): policy = beta x reference / (level - r), with the level that sums to 1."""
    low, high = float(REWARD.max()), float(REWARD.max()) + BETA
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if float((BETA * REFERENCE.exp() / (level - REWARD)).sum()) > 1 else (low, level)
    bandit = Bandit(IN_LOSS.model_copy(update={"kl": KlPenalty(where="loss", estimator="k3")}), count=4000)
    for _ in range(100):
        bandit.step(BETA)
    other_V = (BETA * REFERENCE.exp() / (level - REWARD)).log()
    torch.testing.assert_close(bandit.logprobs_V, other_V, rtol=0, atol=4e-3)
    assert float((other_V - best(REFERENCE, REWARD, BETA)).abs().max()) > 0.1


def test_importance_weights_make_up_for_a_sampler_that_stays_behind() -> None:
    """All samples are of the reference, for ever; weighted they lead to the optimum, unweighted they do not."""
    errors = []
    for cap in (100.0, None):
        bandit = Bandit(IN_LOSS.model_copy(update={"importance_cap": cap}), count=4000, sampler=REFERENCE)
        for _ in range(100):
            bandit.step(BETA)
        errors.append(float((bandit.logprobs_V - best(REFERENCE, REWARD, BETA)).abs().max()))
    assert errors[0] < 5e-3 and errors[1] > 0.05


def test_the_adaptive_coefficient_finds_the_beta_of_its_target() -> None:
    """The KL of the best policy falls with beta, so there is one beta whose KL is the target."""
    target = 0.15
    low, high = 0.1, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(best(REFERENCE, REWARD, middle), REFERENCE) > target else (low, middle)
    adaptive = AdaptiveKl(unit="nats_per_sequence", target=target, horizon=2500)
    settings = PpoAlgorithm(
        estimator="rloo", answers_per_prompt=2, kl=KlPenalty(coef=0.3, adaptive=adaptive), importance_cap=None
    )
    bandit, state = Bandit(settings, count=500), KlState(0.3)
    for _ in range(300):
        measured = bandit.step(state.coefficient)
        state = next_coefficient(state, adaptive, kl_in_unit(measured * 500, 500, 500, adaptive), 500)
    # The KL is measured with arms rounded to 1 / 1000 of the samples, and d KL / d beta is about -0.4 here.
    assert kl(bandit.logprobs_V, REFERENCE) == pytest.approx(target, abs=5e-3)
    assert state.coefficient == pytest.approx(low, rel=0.03)


def test_a_real_learner_reaches_the_optimum_of_its_own_vocabulary(one_rank: DeviceMesh, tmp_path: Path) -> None:
    """One prompt, 131 answers of a token: rewards of 1 for a third of them. KL and reward within 2 % of the best policy's."""
    spec = LearnerSpec(open_store(str(save_tiny_model(tmp_path))), "fp32", Optimizer(learning_rate=3e-3, clip_norm=1.0))
    learner = Learner(spec, one_rank)
    learner.load()
    settings = PpoAlgorithm(estimator="rloo", answers_per_prompt=2, temperature=2.0)
    everything = pack_rollouts([Rollout(0, token, [5, 9, 7], [token], [0.0], True, 0) for token in range(VOCABULARY)])
    reward_V = (torch.arange(VOCABULARY) % 3 == 0).float()
    reference_V = learner.forward(everything, settings.temperature).clone()
    for step in range(120):
        old_V = learner.forward(everything, settings.temperature)
        tokens = stratified(old_V, 256).tolist()
        rollouts = [
            Rollout(0, number, [5, 9, 7], [token], [float(old_V[token])], True, step)
            for number, token in enumerate(tokens)
        ]
        old_W, reference_W = old_V[tokens], reference_V[tokens]
        rewards_W = token_rewards(reward_V[tokens], old_W - reference_W, torch.arange(256), BETA)
        batch = pack_rollouts(
            rollouts, old_logprobs=list(old_W.split(1)), reference_logprobs=list(reference_W.split(1)),
            advantages=list(rloo(rewards_W, torch.zeros(256, dtype=torch.int64)).split(1)),
        )  # fmt: skip
        loss = policy_loss_of_step(settings, BETA, Totals(256, 256))
        done = learner.step(3e-3 * (1 - step / 120), learner.forward_backward([batch], loss, settings.temperature))
        assert step or done.metrics["ratio/max_log"] < 1e-5
    policy_V, best_V = learner.forward(everything, settings.temperature), best(reference_V, reward_V, BETA)
    assert float((reference_V.exp() * reward_V).sum()) < 0.6 < 0.75 < float((best_V.exp() * reward_V).sum())
    assert float((policy_V.exp() * reward_V).sum()) == pytest.approx(float((best_V.exp() * reward_V).sum()), rel=0.02)
    assert kl(policy_V, reference_V) == pytest.approx(kl(best_V, reference_V), rel=0.02)
