"""A value in an advantage that is not detached learns from the policy; what is cut is healthy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.optim import Adam, Optimizer

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict

Batch = dict[str, Tensor]
Loss = Callable[["Agent", Batch], Tensor]


class Agent(nn.Module):
    """A trunk, a policy, a value of states and one of actions, a gate, and two experts."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 32)
        self.pi, self.v, self.q = nn.Linear(32, 3), nn.Linear(32, 1), nn.Linear(35, 1)
        self.spread, self.weigh = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
        self.expert = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x).tanh()
        return self.pi(h), self.v(h).squeeze(-1)


def plain(agent: Agent, b: Batch) -> Tensor:
    logits, value = agent(b["x"])
    policy = -(Categorical(logits=logits).log_prob(b["act"]) * (b["ret"] - value)).mean()
    return policy + 0.5 * F.mse_loss(value, b["ret"])


def normalised(agent: Agent, b: Batch) -> Tensor:
    logits, value = agent(b["x"])
    left = b["ret"] - value
    advantage = left.clone()
    advantage -= advantage.mean()
    advantage = advantage / (advantage.std() + 1e-8)
    log = logits.log_softmax(-1).gather(1, b["act"][:, None]).squeeze(1)
    return (-log * advantage).mean() + left.pow(2).mean()


def clipped(agent: Agent, b: Batch) -> Tensor:
    logits, value = agent(b["x"])
    ratio = (Categorical(logits=logits).log_prob(b["act"]) + 1.1).exp()
    advantage = b["ret"] - value
    policy = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    return policy + F.smooth_l1_loss(agent(b["x"])[1], b["ret"])


def softmaxed(agent: Agent, b: Batch) -> Tensor:
    logits, value = agent(b["x"])
    weight = ((b["ret"] - value) / 0.5).softmax(0)
    entropy = F.cross_entropy(logits, b["act"], reduction="none")
    return (weight * entropy).sum() + F.huber_loss(value, b["ret"])


def continuous(agent: Agent, b: Batch) -> Tensor:
    mean, value = agent(b["x"])
    log = Normal(mean, agent.spread.exp()).log_prob(b["x"][:, :3]).sum(-1)
    return (
        -(((b["ret"] - value) / 0.5).exp().clamp(max=20) * log).mean()
        + ((value - b["ret"]) ** 2).mean()
    )


def in_turn(agent: Agent, b: Batch) -> Tensor:
    policy, critic = list[Tensor](), list[Tensor]()
    for x, act, ret in zip(b["x"], b["act"], b["ret"].tolist(), strict=True):
        logits, value = agent(x)
        log = torch.log(logits.softmax(-1)[act])
        policy.append(-log * (ret - value))
        critic.append(F.smooth_l1_loss(value, torch.tensor(ret)))
    return torch.stack(policy).sum() + torch.stack(critic).sum()


def over_time(agent: Agent, b: Batch) -> Tensor:
    logits, value = agent(b["x"])
    later, ahead = torch.zeros(()), list[Tensor]()
    for t in reversed(range(len(value))):
        after = value[t + 1] if t + 1 < len(value) else torch.zeros(())
        later = b["ret"][t] + 0.9 * after - value[t] + 0.8 * later
        ahead.insert(0, later)
    advantage = torch.stack(ahead)
    returns = (advantage + value).detach()
    log = Categorical(logits=logits).log_prob(b["act"])
    return -(log * advantage).mean() + F.mse_loss(value, returns)


def detached(agent: Agent, b: Batch) -> Tensor:
    logits, value = agent(b["x"])
    advantage = (b["ret"] - value).detach()
    log = Categorical(logits=logits).log_prob(b["act"])
    return -(log * advantage).mean() + F.mse_loss(value, b["ret"])


def under_no_grad(agent: Agent, b: Batch) -> Tensor:
    with torch.no_grad():
        advantage = b["ret"] - agent(b["x"])[1]
    logits, value = agent(b["x"])
    return (advantage.exp() * F.cross_entropy(logits, b["act"], reduction="none")).mean() + (
        value - b["ret"]
    ).square().mean()


def soft(agent: Agent, b: Batch) -> Tensor:
    """Entropy and the value of what is drawn, beside a regression of that value."""
    h = agent.trunk(b["x"]).tanh()
    policy = Normal(agent.pi(h), agent.spread.exp())
    action = policy.rsample()
    q = agent.q(torch.cat([h, action], -1)).squeeze(-1)
    told = agent.q(torch.cat([h.detach(), b["x"][:, :3]], -1)).squeeze(-1)
    return (0.2 * policy.log_prob(action).sum(-1) - q).mean() + F.mse_loss(told, b["ret"])


def uncertain(agent: Agent, b: Batch) -> Tensor:
    logits, value = agent(b["x"])
    wrong = torch.stack([F.cross_entropy(logits, b["act"]), F.mse_loss(value, b["ret"])])
    return ((-agent.weigh).exp() * wrong + agent.weigh).sum()


def gated(agent: Agent, b: Batch) -> Tensor:
    """A mixture, of which the gate is held to one half, and each share is (1 - gate) as well."""
    logits, value = agent(b["x"])
    gate = value.sigmoid()
    one = F.cross_entropy(logits, b["act"], reduction="none")
    two = F.cross_entropy(agent.expert(b["x"]), b["act"], reduction="none")
    return (gate * one + (1 - gate) * two).mean() + F.mse_loss(gate, torch.ones_like(gate))


def taught_gate(agent: Agent, b: Batch) -> Tensor:
    logits, value = agent(b["x"])
    gate, wanted = value.sigmoid(), b["ret"].sigmoid()
    one = F.cross_entropy(logits, b["act"], reduction="none")
    two = F.cross_entropy(agent.expert(b["x"]), b["act"], reduction="none")
    return (gate * one + (1 - gate) * two).mean() + F.mse_loss(gate, wanted)


def own_scores(agent: Agent, b: Batch) -> Tensor:
    """A focal loss of qualities: what is left weighs the entropy of the same scores."""
    score = agent(b["x"])[1]
    quality = b["ret"].sigmoid()
    left = quality - score.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(score, quality, reduction="none")
    return (left.abs().pow(2) * entropy).mean() + left.pow(2).mean()


def evidence(agent: Agent, b: Batch) -> Tensor:
    mean, value = agent(b["x"])
    q = Normal(mean, agent.spread.exp())
    z = q.rsample()
    fits = Normal(agent.expert.weight[0, :3] * z, 1.0).log_prob(b["x"][:, :3]).sum(-1)
    apart = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)
    return (apart - fits).mean() + F.mse_loss(value, b["ret"])


def distilled(agent: Agent, b: Batch) -> Tensor:
    logits, value = agent(b["x"])
    teacher = b["x"][:, :3].softmax(-1)
    return -(teacher * logits.log_softmax(-1)).sum(-1).mean() + F.mse_loss(value, b["ret"])


def in_two_steps(agent: Agent, b: Batch, optimizer: Optimizer) -> Tensor:
    """The policy's and the value's optimizer each take their own; the other's is cleared."""
    logits, value = agent(b["x"])
    policy = -(Categorical(logits=logits).log_prob(b["act"]) * (b["ret"] - value)).mean()
    optimizer.zero_grad()
    policy.backward()
    agent.v.zero_grad()
    optimizer.step()
    critic = F.mse_loss(agent(b["x"])[1], b["ret"])
    optimizer.zero_grad()
    critic.backward()
    optimizer.step()
    return policy.detach() + critic.detach()


def findings(loss: Loss, learns: str = "", train_step: object = None) -> tuple[Finding, ...]:
    torch.manual_seed(0)
    chance = torch.Generator().manual_seed(1)
    x = torch.randn(16, 6, generator=chance)
    act = torch.randint(0, 3, (16,), generator=chance)
    batch = {"x": x, "act": act, "ret": x[:, 4] + 0.3 * torch.randn(16, generator=chance)}

    def optimizer(model: nn.Module) -> Optimizer:
        return Adam(p for n, p in model.named_parameters() if n.startswith(learns))

    subject = Subject(Agent(), [batch], loss, optimizer, train_step=train_step)  # type: ignore[arg-type]
    judgement = check(subject, chosen(only=["WIR063"]))
    assert judgement.findings or judgement.passed or train_step is not None
    return judgement.findings


@pytest.mark.parametrize(
    "loss", [plain, normalised, clipped, softmaxed, continuous, in_turn, over_time]
)
def test_a_value_that_is_not_detached_is_told(loss: Loss) -> None:
    (found,) = findings(loss)
    assert found.verdict is Verdict.WARN
    assert found.site == "v"
    assert found.source is not None
    assert "`v.weight` and 1 more" in found.message
    assert "test_taught_by_policy.py" in found.message


def test_where_it_is_pushed_is_told() -> None:
    (found,) = findings(plain)
    assert "pushes the values up" in found.message


@pytest.mark.parametrize(
    "loss",
    [
        *(detached, under_no_grad, soft, uncertain, gated, taught_gate),
        *(own_scores, evidence, distilled),
    ],
)
def test_what_teaches_the_value_nothing_is_healthy(loss: Loss) -> None:
    assert not findings(loss)


def test_a_value_that_no_optimizer_holds_is_healthy() -> None:
    assert not findings(plain, learns="pi")


def test_steps_of_their_own_are_healthy() -> None:
    assert not findings(plain, train_step=in_two_steps)
