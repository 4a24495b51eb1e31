"""Lightning and Hugging Face's Trainer own the loop; the tickets are those of a search in it."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import mask, weights
from tombola.errors import BadInput, GuardLost
from tombola.mask import Mask
from tombola.search import Search

INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(32) % 3


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What these libraries warn of is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check(
    search: Search, k: int, states: list[list[dict[str, Tensor]]], rates: list[list[float]], batches: Any
) -> None:
    """Rewound to the state after k steps of level 0; the same rates and batches at every level; zeros throughout."""
    start = states[0][k]
    assert rates[0] == rates[1] == rates[2] and len(set(rates[0])) > 1
    assert batches[0] == batches[1] == batches[2] and batches[0][0] != batches[0][1]
    for number in range(3):
        living = search.mask(number)
        assert weights.equal(states[number][k], mask.apply(start, living))
        for state in states[number][k:]:
            assert weights.equal(state, mask.apply(state, living))
        assert weights.equal(search.ticket(number).weights, mask.apply(start, living))
        assert not number or Mask(mask.apply(living, search.mask(number - 1))) == living
    assert search.mask(1).counts == {name: (size + 1) // 2 for name, size in search.mask(0).counts.items()}


def linear_module(lr: float = 0.1) -> Any:
    """A class of Lightning's that trains one linear layer by SGD."""
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(6, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=lr)

    return Module


@pytest.mark.parametrize("k", [0, 3])
def test_lightning_fits_level_by_level(k: int, tmp_path: Path) -> None:  # M1 R1 R5 R8 R9
    pytest.importorskip("lightning")
    import lightning.pytorch as lightning

    from tombola.callbacks.lightning import Tickets

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3))
            self.states: list[list[dict[str, Tensor]]] = []
            self.rates: list[list[float]] = []
            self.batches: list[list[Any]] = []

        def on_train_start(self) -> None:
            for notes in (self.states, self.rates, self.batches):
                notes.append([])

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.states[-1].append(weights.of(self))
            self.rates[-1].append(self.trainer.optimizers[0].param_groups[0]["lr"])
            self.batches[-1].append(batch[0].tolist())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.RMSprop(self.parameters(), lr=0.01, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    torch.manual_seed(3)
    module = Module()
    dataset = torch.utils.data.TensorDataset(INPUTS, LABELS)
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
    tickets = Tickets(levels=2, rate=0.5, rewind=f"{k}it")
    with pytest.raises(BadInput, match="search: expected a training before, found none"):
        _ = tickets.search
    while tickets.left:
        trainer = lightning.Trainer(
            max_epochs=2, callbacks=[tickets], accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, loader, torch.utils.data.DataLoader(dataset, batch_size=32))
    check(tickets.search, k, module.states, module.rates, module.batches)
    rows = [(row.level, row.step, list(row.metrics)) for row in tickets.search.history]
    assert rows == [(level, step, ["accuracy"]) for level in range(3) for step in (4, 8)]


@pytest.mark.parametrize("k", [0, 3])
def test_trainer_trains_level_by_level(k: int, tmp_path: Path) -> None:  # M1 R1 R5 R8 R9
    transformers: Any = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from tombola.callbacks.trainer import Tickets

    states: list[list[dict[str, Tensor]]] = []
    rates: list[list[float]] = []
    batches: list[list[Any]] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3))

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            if self.training:
                batches[-1].append(inputs.tolist())
            logits = self.net(inputs)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    class Notes(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
            for notes in (states, rates, batches):
                notes.append([])

        def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
            states[-1].append(weights.of(kwargs["model"]))
            rates[-1].append(kwargs["optimizer"].param_groups[0]["lr"])

    torch.manual_seed(3)
    model = Net()
    dataset = [{"inputs": inputs, "labels": label} for inputs, label in zip(INPUTS, LABELS, strict=True)]
    tickets = Tickets(levels=2, rate=0.5, rewind=f"{k}it")
    while tickets.left:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=8, learning_rate=0.02,
            use_cpu=True, report_to=[], save_strategy="no", eval_strategy="epoch", disable_tqdm=True,
            logging_strategy="no",
        )  # fmt: skip
        transformers.Trainer(
            model, arguments, train_dataset=dataset, eval_dataset=dataset, callbacks=[tickets, Notes()]
        ).train()
    check(tickets.search, k, states, rates, batches)
    assert [(row.level, row.step, "loss" in row.metrics) for row in tickets.search.history] == [
        (level, step, True) for level in range(3) for step in (4, 8)
    ]


@pytest.mark.parametrize(("page", "package", "words"), [
    ("lightning", "lightning", "level 2  density 0.25  accuracy"),
    ("trainer", "transformers", "level 2  density 0.81  loss"),
])  # fmt: skip
def test_the_python_of_the_pages_runs(
    page: str, package: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / f"{page}.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert words in capsys.readouterr().out and names["ticket"].mask.density < 1


def test_lightning_goes_on_after_a_crash_and_wants_a_trainer_for_every_level(tmp_path: Path) -> None:  # R9
    pytest.importorskip("lightning")
    import lightning.pytorch as lightning

    from tombola.callbacks.lightning import Tickets

    class Module(linear_module()):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    def trainer(tickets: Tickets) -> Any:
        return lightning.Trainer(
            max_epochs=2, callbacks=[tickets], accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip

    dataset = torch.utils.data.TensorDataset(INPUTS, LABELS)
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
    found = []
    for path, dies in (("whole", False), ("parts", True)):
        torch.manual_seed(3)
        module, tickets = Module(), Tickets(levels=2, path=tmp_path / path)
        assert tickets.left == 3
        trainer(tickets).fit(module, loader)
        if dies:  # and is started again, with other weights
            module, tickets = Module(), Tickets(levels=2, path=tmp_path / path)
            assert tickets.left == 2
        while tickets.left:
            trainer(tickets).fit(module, loader)
        found.append([tickets.search.trained(number) for number in range(3)])
    again = Tickets(levels=2, path=tmp_path / "parts")  # as where the script runs once more
    assert not again.left and weights.equal(again.search.trained(2), found[1][2])
    assert again.search.ticket(2).mask == tickets.search.mask(2)
    for options in ({"levels": 3}, {"levels": 2, "rate": 0.5}, {"levels": 2, "rewind": "1it"}):
        with pytest.raises(BadInput, match=r"parts: expected the options of the search in it: .*'levels': 2"):
            _ = Tickets(path=tmp_path / "parts", **options).left
    for left, right in zip(*found, strict=True):
        assert weights.equal(left, right)
    with pytest.raises(BadInput, match=r"expected the options of the search in it: .*'levels': 2"):
        trainer(Tickets(levels=3, path=tmp_path / "parts")).fit(Module(), loader)

    trial = lightning.Trainer(fast_dev_run=True, callbacks=[Tickets(levels=2, path=tmp_path / "new")], logger=False)
    with pytest.raises(BadInput, match=r"whose few steps the file would hold as a level. Leave `path` out of a trial"):
        trial.fit(Module(), loader)
    assert not (tmp_path / "new").exists()

    only = trainer(Tickets(levels=1))
    only.fit(module, loader)
    taken = "expected a Trainer of its own for every level, from step 0 on, found one that has taken 8 steps"
    with pytest.raises(BadInput, match=taken):
        only.fit(module, loader)

    only.save_checkpoint(tmp_path / "half-way")
    tickets = Tickets(levels=1)
    longer = trainer(tickets)
    longer.fit_loop.max_epochs = 4
    with pytest.raises(BadInput, match=taken):
        longer.fit(module, loader, ckpt_path=tmp_path / "half-way")
    assert tickets.left == 2

    with pytest.raises(TypeError, match="rates"):
        Tickets(levels=1, rates=0.2)
    never = trainer(tickets)
    never.fit_loop.max_epochs = 0
    with pytest.raises(BadInput, match=r"Trainer.fit: expected a training, found none. max_epochs=1"):
        never.fit(module, loader)
    assert tickets.left == 2


@pytest.mark.parametrize("first", [True, False])
def test_other_weights_in_the_tickets_place_are_not_measured(first: bool, tmp_path: Path) -> None:  # M5
    """A callback that puts an average of the weights into the module while it is measured, dense before step k."""
    pytest.importorskip("lightning")
    import lightning.pytorch as lightning

    from tombola.callbacks.lightning import Tickets

    class Module(linear_module(lr=0.01)):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    class Average(lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.average = weights.of(module)

        def on_validation_epoch_start(self, trainer: Any, module: Any) -> None:
            self.own = weights.of(module)
            if not trainer.sanity_checking:
                weights.put(module, {name: value + 1 for name, value in self.average.items()})

        def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
            weights.put(module, self.own)

    dataset = torch.utils.data.TensorDataset(INPUTS, LABELS)
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
    module, tickets = Module(), Tickets(levels=1, rate=0.5, rewind="2it")
    with pytest.raises(GuardLost, match=r"net.weight: expected every pruned weight to be 0"):
        while tickets.left:
            lightning.Trainer(
                max_epochs=2, callbacks=[tickets, Average()] if first else [Average(), tickets], accelerator="cpu",
                logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                default_root_dir=tmp_path,
            ).fit(module, loader, loader)  # fmt: skip
    assert tickets.left == 1 and {row.level for row in tickets.search.history} == {0}


def test_the_best_checkpoint_of_lightning_is_the_tickets(tmp_path: Path) -> None:
    """Validations end worse and worse: the best one of a whole training is in the replay, before step 5."""
    pytest.importorskip("lightning")
    import lightning.pytorch as lightning

    from tombola.callbacks.lightning import Tickets

    class Module(linear_module()):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("worse", float(self.global_step))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            tested.append(weights.of(self.net))

    tested: list[dict[str, Tensor]] = []
    dataset = torch.utils.data.TensorDataset(INPUTS, LABELS)
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
    whole = torch.utils.data.DataLoader(dataset, batch_size=32)
    module, tickets = Module(), Tickets(levels=1, rate=0.5, rewind="5it")
    dense = ""
    while tickets.left:
        best = lightning.callbacks.ModelCheckpoint(tmp_path / str(tickets.left), monitor="worse", mode="min")
        stopping = lightning.callbacks.EarlyStopping(monitor="worse", mode="min", patience=9)
        trainer = lightning.Trainer(
            max_epochs=3, callbacks=[tickets, best, stopping], accelerator="cpu", logger=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, loader, whole)
        trainer.test(module, whole, ckpt_path="best", verbose=False)
        assert best.best_model_score == stopping.best_score == (8 if dense else 4)
        dense = dense or best.best_model_path
    assert weights.equal(tested[1], mask.apply(tested[1], Mask({"weight": tickets.search.mask(1)["net.weight"]})))
    with pytest.raises(GuardLost, match="level 1: expected every pruned weight to be 0 in what is measured after it"):
        trainer.test(module, whole, ckpt_path=dense, verbose=False)


@pytest.mark.parametrize("strategy", ["epoch", "best"])
def test_the_best_model_of_the_trainer_is_the_tickets(strategy: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from tombola.callbacks.trainer import Tickets

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(6, 3)

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            loss = functional.cross_entropy(self.net(inputs), labels)
            return {"loss": loss, "logits": self.net(inputs)}

    dataset = [{"inputs": inputs, "labels": label} for inputs, label in zip(INPUTS, LABELS, strict=True)]
    model, tickets = Net(), Tickets(levels=1, rate=0.5, rewind="5it")
    found = []
    while tickets.left:
        evaluated = iter(range(9))
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / str(tickets.left)), num_train_epochs=3, per_device_train_batch_size=8,
            learning_rate=0.1, use_cpu=True, report_to=[], save_strategy=strategy, eval_strategy="epoch",
            load_best_model_at_end=True, metric_for_best_model="worse", greater_is_better=False, disable_tqdm=True,
            logging_strategy="no",
        )  # fmt: skip
        trainer = transformers.Trainer(
            model, arguments, train_dataset=dataset, eval_dataset=dataset, callbacks=[tickets],
            compute_metrics=lambda _, evaluated=evaluated: {"worse": float(next(evaluated))},
        )  # fmt: skip
        trainer.train()
        trainer.evaluate()
        found.append((trainer.state.best_global_step, trainer.state.best_metric))
    assert found == [(4, 0.0), (8, 1.0)]
    living = tickets.search.mask(1)
    assert weights.equal(weights.of(model), mask.apply(weights.of(model), living))
    with torch.no_grad():
        model.net.weight.fill_(1.0)
    for measure in (trainer.evaluate, lambda: trainer.predict(dataset)):
        with pytest.raises(GuardLost, match="level 1: expected every pruned weight to be 0 in what is measured"):
            measure()


def test_a_trainers_checkpoint_of_the_middle_of_a_level_is_refused(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from tombola.callbacks.trainer import Tickets

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(6, 3)

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": functional.cross_entropy(self.net(inputs), labels)}

    dataset = [{"inputs": inputs, "labels": label} for inputs, label in zip(INPUTS, LABELS, strict=True)]
    model, tickets = Net(), Tickets(levels=1)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True, report_to=[],
        save_strategy="epoch", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    transformers.Trainer(model, arguments, train_dataset=dataset, callbacks=[tickets]).train()
    again = transformers.Trainer(model, arguments, train_dataset=dataset, callbacks=[tickets])
    with pytest.raises(BadInput, match="from step 0 on, found one that has taken 4 steps, or goes on"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert tickets.left == 1


def test_a_gpt_2_is_pruned_in_all_its_matrices() -> None:  # P1
    """Its blocks are made of a layer of the library's own."""
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=2, n_head=2, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    tokens = torch.arange(12).view(2, 6)
    search = Search(model, optimizer, levels=1, rate=0.5, keep=["embedding"])
    for _ in search:
        for _ in range(2):
            optimizer.zero_grad()
            model(tokens, labels=tokens).loss.backward()
            optimizer.step()
    matrices = {name for name, value in model.named_parameters() if value.dim() > 1}
    assert set(search.mask(1)) == matrices - {"transformer.wpe.weight"}  # the tied one is the output
    state = search.trained(1)
    assert all(int(state[name].count_nonzero()) == count for name, count in search.mask(1).counts.items())


def accelerated(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any, Any]:
    accelerate: Any = pytest.importorskip("accelerate")
    library = accelerate.Accelerator(cpu=True)
    return *library.prepare(model, optimizer), library.backward


def of_fabric(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any, Any]:
    fabric: Any = pytest.importorskip("lightning.fabric")
    library = fabric.Fabric(accelerator="cpu", devices=1)
    return *library.setup(model, optimizer), library.backward


@pytest.mark.parametrize("wrapped", [accelerated, of_fabric])
@pytest.mark.parametrize("k", [0, 2])
def test_what_a_library_wraps_around_model_and_optimiser_is_looked_through(wrapped: Any, k: int) -> None:  # M7 R7
    found = []
    for make in (lambda *plain: (*plain, Tensor.backward), wrapped):
        torch.manual_seed(5)
        inner = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        model, optimizer, backward = make(inner, torch.optim.Adam(inner.parameters(), lr=0.01))
        search = Search(model, optimizer, levels=2, rate=0.5, rewind=f"{k}it")
        for _ in search:
            for places in torch.randperm(32).split(8):
                optimizer.zero_grad()
                backward(functional.cross_entropy(model(INPUTS[places]), LABELS[places]))
                optimizer.step()
        assert list(search.mask(2)) == ["0.weight", "2.weight"]
        found.append([search.trained(level) for level in range(3)])
    for left, right in zip(*found, strict=True):
        assert weights.equal(left, right)
