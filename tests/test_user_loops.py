"""Loops as people of many fields write them: with rate=0 every level equals level 0 to the bit, losses included."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from tombola import weights
from tombola.search import Level, Search

STEPS = 6
IMAGES, LABELS = (torch.tensor(array[:160]) for array in load_digits(return_X_y=True))
IMAGES = IMAGES.float() / 16


@dataclass
class Task:
    """A model, what trains it, and a loop that returns its losses."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | list[torch.optim.Optimizer]
    train: Callable[[Level], list[float]]
    options: dict[str, Any] = field(default_factory=dict)
    others: list[nn.Module] = field(default_factory=list)  # whose ends are compared too


def classifier() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(24, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


def batch(size: int = 16) -> tuple[Tensor, Tensor]:
    places = torch.randint(len(IMAGES), (size,))
    return IMAGES[places], LABELS[places]


def stepped(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def adam(*models: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for model in models for p in model.parameters() if p.requires_grad], lr=lr)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, by: float = 0.2) -> None:
    for left, right in zip(average.parameters(), model.parameters(), strict=True):
        left.lerp_(right, by)


def plain() -> Task:
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    def train(level: Level) -> list[float]:
        losses = []
        for _ in range(STEPS):
            inputs, labels = batch()
            losses.append(stepped(optimizer, functional.cross_entropy(model(inputs), labels)))
            scheduler.step()
        return losses

    return Task(model, optimizer, train, {"scheduler": scheduler})


def accumulating_clipped_bfloat16() -> Task:
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def train(level: Level) -> list[float]:
        losses = []
        for place in range(2 * STEPS + 1):
            inputs, labels = batch()
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(model(inputs), labels) / 2
            loss.backward()
            losses.append(loss.item())
            if place % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
        return losses

    return Task(model, optimizer, train)


def stochastic_weight_averaging() -> Task:
    model = classifier()
    average = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = SWALR(optimizer, swa_lr=0.02, anneal_epochs=2)

    def train(level: Level) -> list[float]:
        losses = []
        for place in range(STEPS):
            inputs, labels = batch()
            losses.append(stepped(optimizer, functional.cross_entropy(model(inputs), labels)))
            if place >= 2:
                average.update_parameters(model)
                scheduler.step()
        update_bn([IMAGES[:80], IMAGES[80:]], average)
        average.eval()
        losses.append(functional.cross_entropy(average(IMAGES), LABELS).item())
        average.train()
        return losses

    return Task(model, optimizer, train, {"also": [average], "scheduler": scheduler}, [average])


def adversarial() -> Task:
    generator = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 64), nn.Sigmoid())
    critic = nn.Sequential(nn.Linear(64, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    optimizer, another = adam(generator), adam(critic)

    def train(level: Level) -> list[float]:
        losses = []
        for _ in range(STEPS):
            real, made = critic(batch()[0]), critic(generator(torch.randn(16, 8)).detach())
            loss = functional.softplus(-real).mean() + functional.softplus(made).mean()
            losses.append(stepped(another, loss))
            losses.append(stepped(optimizer, functional.softplus(-critic(generator(torch.randn(16, 8)))).mean()))
        return losses

    return Task(generator, optimizer, train, {"also": [critic, another]}, [critic])


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.actor, self.critic = nn.Linear(8, 16), nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encoder(states).tanh()
        return self.actor(hidden), self.critic(hidden)[:, 0]


def actor_and_critic() -> Task:
    """Two optimisers that train one encoder."""
    model = ActorCritic()
    optimizer, another = adam(model.encoder, model.actor), adam(model.encoder, model.critic, lr=0.02)

    def train(level: Level) -> list[float]:
        losses = []
        for _ in range(STEPS):
            states = torch.randint(8, (16,))
            chances, values = model(functional.one_hot(states, 8).float())
            chosen = torch.distributions.Categorical(logits=chances)
            actions = chosen.sample()
            rewards = (actions == states % 2).float()
            losses.append(stepped(another, functional.mse_loss(values, rewards)))
            chances, values = model(functional.one_hot(states, 8).float())
            gained = torch.distributions.Categorical(logits=chances).log_prob(actions) * (rewards - values.detach())
            losses.append(stepped(optimizer, -gained.mean()))
        return losses

    return Task(model, [optimizer, another], train)


class Byol(nn.Module):
    """Bootstrap your own latent: a target encoder that follows the online one, within the model."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 8))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = nn.Linear(8, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        one, other = (inputs + 0.1 * torch.randn_like(inputs) for _ in range(2))
        distance: Tensor = -functional.cosine_similarity(self.predictor(self.online(one)), self.target(other)).mean()
        return distance


def bootstrapped() -> Task:
    model = Byol()
    optimizer = adam(model)

    def train(level: Level) -> list[float]:
        losses = []
        for _ in range(STEPS):
            losses.append(stepped(optimizer, model(batch()[0])))
            follow(model.target, model.online)
        return losses

    return Task(model, optimizer, train)


def q_learning() -> Task:
    """A chain of eight states, a replay buffer, and a target network that is set anew every second step."""
    model: nn.Module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    target = copy.deepcopy(model)
    optimizer = adam(model)
    memory: list[tuple[int, int, float, int]] = []
    states = torch.eye(8)

    def train(level: Level) -> list[float]:
        losses, state = [], 0
        for place in range(STEPS):
            for _ in range(4):
                greedy = int(model(states[state]).argmax())
                action = random.randrange(2) if random.random() < 0.3 else greedy
                after = max(0, min(7, state + 2 * action - 1))
                memory.append((state, action, float(after == 7), after))
                state = after
            now, actions, rewards, then = map(torch.tensor, zip(*random.choices(memory, k=8), strict=True))
            with torch.no_grad():
                wanted = rewards + 0.9 * target(states[then]).amax(1)
            found = model(states[now]).gather(1, actions[:, None])[:, 0]
            losses.append(stepped(optimizer, functional.smooth_l1_loss(found, wanted)))
            if place % 2:
                target.load_state_dict(model.state_dict())
        return [*losses, float(len(memory))]

    def put(state: list[Any]) -> None:
        memory[:] = state

    return Task(model, optimizer, train, {"also": [target, (lambda: memory, put)]}, [target])


def diffusion() -> Task:
    model: Any = nn.Sequential(nn.Linear(65, 32), nn.SiLU(), nn.Linear(32, 64))
    nn.init.zeros_(model[2].weight)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    optimizer = adam(model)

    def train(level: Level) -> list[float]:
        losses = []
        for _ in range(STEPS):
            clean, times = batch()[0], torch.rand(16, 1)
            noise = torch.randn_like(clean)
            mixed = (1 - times).sqrt() * clean + times.sqrt() * noise
            losses.append(stepped(optimizer, functional.mse_loss(model(torch.cat([mixed, times], 1)), noise)))
            average.update_parameters(model)
        return losses

    return Task(model, optimizer, train, {"also": [average]}, [average])


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 64))

    def forward(self, inputs: Tensor) -> Tensor:
        mean, log_variance = self.encoder(inputs).chunk(2, 1)
        made = self.decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        loss: Tensor = functional.binary_cross_entropy_with_logits(made, inputs) + 0.01 * divergence
        return loss


def variational() -> Task:
    model = Vae()
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.01)
    return Task(model, optimizer, lambda level: [stepped(optimizer, model(batch()[0])) for _ in range(STEPS)])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru, self.output = (
            nn.Embedding(17, 12),
            nn.GRU(12, 16, batch_first=True),
            nn.Linear(16, 17),
        )

    def forward(self, words: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        found, state = self.gru(self.embedding(words), state)
        return self.output(found), state


def language() -> Task:
    """Rows of pixels as words of 17 kinds; the state goes on from batch to batch, cut off from its past."""
    model = Words()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
    words = (IMAGES * 16).long()

    def train(level: Level) -> list[float]:
        losses, state = [], None
        order = torch.randperm(len(words))[:16]
        for place in range(STEPS):
            part = words[order, 8 * place : 8 * place + 9]
            answers, state = model(part[:, :-1], state)
            state = state.detach()
            losses.append(stepped(optimizer, functional.cross_entropy(answers.flatten(0, 1), part[:, 1:].flatten())))
        return losses

    return Task(model, optimizer, train, {"prune": ["gru.*"]})


class Graph(nn.Module):
    def __init__(self, adjacency: Tensor) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency, persistent=False)
        self.first, self.second = nn.Linear(64, 16, bias=False), nn.Linear(16, 10, bias=False)

    def forward(self, nodes: Tensor) -> Tensor:
        hidden = functional.dropout(torch.relu(self.adjacency @ self.first(nodes)), training=self.training)
        answers: Tensor = self.adjacency @ self.second(hidden)
        return answers


def graph() -> Task:
    near = torch.cdist(IMAGES, IMAGES).topk(5, largest=False).indices
    adjacency = torch.zeros(len(IMAGES), len(IMAGES)).scatter_(1, near, 0.2)
    model = Graph(adjacency)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=5e-4)

    def train(level: Level) -> list[float]:
        losses = []
        for _ in range(STEPS):
            model.train()
            losses.append(stepped(optimizer, functional.cross_entropy(model(IMAGES)[:80], LABELS[:80])))
            model.eval()
            with torch.no_grad():
                losses.append(functional.cross_entropy(model(IMAGES)[80:], LABELS[80:]).item())
        return losses

    return Task(model, optimizer, train)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(64, 4), nn.ModuleList(nn.Linear(64, 12) for _ in range(4))
        self.output = nn.Linear(12, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        shares = (self.gate(inputs) + torch.randn(len(inputs), 4)).softmax(1)
        best, chosen = shares.max(1)
        hidden = inputs.new_zeros(len(inputs), 12)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                hidden = hidden.index_add(0, rows, best[rows, None] * expert(inputs[rows]))
        answers: Tensor = self.output(hidden.relu())
        return answers


def mixture_of_experts() -> Task:
    model = Experts()
    optimizer = adam(model)

    def train(level: Level) -> list[float]:
        batches = (batch() for _ in range(STEPS))
        return [stepped(optimizer, functional.cross_entropy(model(inputs), labels)) for inputs, labels in batches]

    return Task(model, optimizer, train)


def ends_early_and_keeps_the_best() -> Task:
    model = classifier()
    optimizer = adam(model, lr=0.05)

    def train(level: Level) -> list[float]:
        losses: list[float] = []
        best, kept = float("inf"), {}
        for place in range(2 * STEPS):
            model.train()
            inputs, labels = batch()
            losses.append(stepped(optimizer, functional.cross_entropy(model(inputs), labels)))
            model.eval()
            with torch.no_grad():
                now = functional.cross_entropy(model(IMAGES[:64]), LABELS[:64]).item()
            if level.held and now < best:
                best, kept = now, copy.deepcopy(model.state_dict())
            if place >= STEPS and losses[-1] < losses[0]:
                break
        model.load_state_dict(kept)
        level.report(loss=best)
        return losses

    return Task(model, optimizer, train)


def teacher() -> Task:
    """Distillation from a copy of the model as it begins."""
    model = classifier()
    frozen = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = adam(model)

    def train(level: Level) -> list[float]:
        losses = []
        for _ in range(STEPS):
            inputs, labels = batch()
            found = model(inputs)
            far = functional.mse_loss(found, frozen(inputs))
            losses.append(stepped(optimizer, functional.cross_entropy(found, labels) + far))
        return losses

    return Task(model, optimizer, train, {"also": [frozen]}, [frozen])


TASKS = {
    make.__name__: make
    for make in (
        plain, accumulating_clipped_bfloat16, stochastic_weight_averaging, adversarial, actor_and_critic, bootstrapped,
        q_learning, diffusion, variational, language, graph, mixture_of_experts, ends_early_and_keeps_the_best, teacher,
    )
}  # fmt: skip


def made(name: str) -> Task:
    torch.manual_seed(11)
    random.seed(11)
    return TASKS[name]()


def all_of(task: Task) -> list[dict[str, Tensor]]:
    return [weights.of(module) for module in (task.model, *task.others)]


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("name", TASKS)
def test_with_rate_0_every_level_is_level_0_to_the_bit(name: str, k: int, tmp_path: Path) -> None:
    task = made(name)
    found: list[tuple[list[float], list[dict[str, Tensor]]]] = []
    path = tmp_path / "search"
    for level in Search(task.model, task.optimizer, levels=2, rate=0.0, rewind=f"{k}it", path=path, **task.options):
        if level.number == 2:
            break
        found.append((task.train(level), all_of(task)))
    task = made(name)
    rest = {what: task.options[what] for what in ("also", "scheduler") if what in task.options}
    for level in Search.resume(path, task.model, task.optimizer, **rest):
        found.append((task.train(level), all_of(task)))
    assert len(set(found[0][0])) > 3
    for losses, ends in found[1:]:
        assert losses == found[0][0]
        assert all(weights.equal(left, right) for left, right in zip(ends, found[0][1], strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_after_step_k_no_forward_pass_sees_a_pruned_weight(name: str) -> None:
    task = made(name)
    seen = 0
    search = Search(task.model, task.optimizer, levels=2, rate=0.5, rewind="3it", **task.options)
    for level in search:

        def look(*_: object, level: Level = level) -> None:
            nonlocal seen
            if level.number and level.held:
                seen += 1
                for path, alive in level.mask.items():
                    assert task.model.get_parameter(path)[~alive].count_nonzero() == 0

        hooks = [module.register_forward_pre_hook(look) for module in task.model.modules()]
        task.train(level)
        for hook in hooks:
            hook.remove()
        if level.number and name in ("stochastic_weight_averaging", "diffusion", "q_learning"):
            module: Any = task.others[0]
            for path, alive in level.mask.items():
                assert getattr(module, "module", module).get_parameter(path)[~alive].count_nonzero() == 0
        if level.number and name == "bootstrapped":
            for path, alive in level.mask.items():
                if path.startswith("online"):
                    assert task.model.get_parameter(path.replace("online", "target"))[~alive].count_nonzero() == 0
    assert seen > 2 * (STEPS - 3)
