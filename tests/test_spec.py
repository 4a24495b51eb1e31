"""Specs: checked once, every fault told at once with its path, what was expected, what came and what to do."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tombola.controls import CONTROLS
from tombola.errors import BadInput, Fault, SpecError
from tombola.lab import presets
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.methods import METHODS
from tombola.scores import SCORES
from tombola.steps import Step

GOOD = """
about = "a tiny one"
[recipe]
model = "lenet-20-10"
data = "digits"
length = "40it"
batch = 60
optimizer = {name = "adam", lr = 2e-3}
[evaluate]
every = "5it"
test_every = "10it"
"""
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a spec into a file and gives its path."""

    def written(text: str) -> str:
        (tmp_path / "mine.toml").write_text(text)
        return str(tmp_path / "mine.toml")

    return written


def faults_of(source: str, *changes: str) -> dict[str, Fault]:
    """The faults of a spec by path; that each is told in the message is checked by the way."""
    with pytest.raises(SpecError) as caught:
        read(source, changes)
    faults, message = caught.value.faults, str(caught.value)
    assert message.startswith(f"{source}: {len(faults)} fault")
    assert message.splitlines()[1:] == [f"  {fault}" for fault in faults]
    return {fault.path: fault for fault in faults}


# ---------------------------------------------------------------- good ones


def test_a_file_becomes_an_experiment_named_after_it(write: Write) -> None:
    experiment = read(write(GOOD))
    assert experiment.name == "mine" and experiment.spec.about == "a tiny one"
    assert experiment.spec.recipe.model == "lenet-20-10" and experiment.spec.facts.name == "digits"


def test_a_byte_order_mark_is_no_part_of_a_spec(tmp_path: Path) -> None:
    """Some editors begin a file of UTF-8 with one."""
    (tmp_path / "mine.toml").write_text(GOOD, encoding="utf-8-sig")
    assert read(str(tmp_path / "mine.toml")).spec.about == "a tiny one"


@pytest.mark.parametrize("name", ["...toml", "..toml", ".toml", "a.b.toml"])
@pytest.mark.parametrize("changes", [(), ("levels=1",)])
def test_a_report_goes_into_a_folder_of_its_own(tmp_path: Path, name: str, changes: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(GOOD)
    reports = Path("/store/reports")
    place = Path(os.path.normpath(reports / read(str(tmp_path / name), changes).folder))
    assert place.parent == reports and not place.name.startswith(".")


def test_what_is_left_out_has_its_default(write: Write) -> None:
    spec = read(write(GOOD)).spec
    left_out = set(Spec.model_fields) - {"about", "recipe", "evaluate"}
    assert left_out == {name for name in left_out if getattr(spec, name) == Spec.model_fields[name].default}


def test_steps_may_be_epochs(write: Write) -> None:
    spec = read(write(GOOD), ["rewind=1ep", "evaluate.every=2ep"]).spec
    assert (spec.iterations(spec.rewind[0]), spec.iterations(spec.evaluate.every)) == (17, 34), "1,000 examples by 60s"


def test_a_preset_is_read_by_name_even_where_a_file_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text("replicates = 77")
    assert read("digits").spec.replicates == 24


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("arms=ticket", "arms", ("ticket",)),
        ("arms=ticket, random", "arms", ("ticket", "random")),
        ('arms=["ticket","shuffle"]', "arms", ("ticket", "shuffle")),
        ("replicates=4", "replicates", 4),
        ("method=one-shot", "method", "one-shot"),
        ('method="one-shot"', "method", "one-shot"),
        ("rewind=8it", "rewind", (Step("8it"),)),
        ("rewind=0it,1ep", "rewind", (Step("0it"), Step("1ep"))),
        ("study.overlap.levels=3", "study.overlap.levels", (3,)),
        ("study.overlap.levels=3,4", "study.overlap.levels", (3, 4)),
        ("about=no quotes, two words", "about", "no quotes, two words"),
        ("prune.rate=0.3", "prune.rate", 0.3),
        (" prune.rate = 0.3 ", "prune.rate", 0.3),
        ("prune.rate=0", "prune.rate", 0.0),
        ("prune.rate=1", "prune.rate", 1.0),
        ("prune.keep=output", "prune.keep", ("output",)),
        ("prune.keep=output,fc1.weight", "prune.keep", ("output", "fc1.weight")),
        ("prune.keep=fc*.weight,conv", "prune.keep", ("fc*.weight", "conv")),
        ("recipe.optimizer.lr=1e-4", "recipe.optimizer.lr", 1e-4),
        ("recipe.optimizer={name='sgd', lr=0.1}", "recipe.optimizer.name", "sgd"),
        ("recipe.schedule.name=cosine", "recipe.schedule.final", 0.0),
        ("recipe.init=kaiming-normal", "recipe.init", "kaiming-normal"),
        ("seed=0", "seed", 0),
    ],
)
def test_set_changes_one_field_quotes_left_out(write: Write, change: str, path: str, value: object) -> None:
    plain, changed = read(write(GOOD)).spec, read(write(GOOD), [change]).spec
    found: object = changed
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)
    top = path.split(".")[0]
    assert all(getattr(changed, name) == getattr(plain, name) for name in Spec.model_fields if name != top)


def test_set_of_a_length(write: Write) -> None:
    assert str(read(write(GOOD), ["recipe.length=1000it"]).spec.recipe.length) == "1000it"


def test_set_may_repeat_for_other_fields(write: Write) -> None:
    spec = read(
        write(GOOD), ["levels=1", "recipe.batch=50", "recipe.optimizer={name='sgd'}", "recipe.optimizer.lr=1.0"]
    ).spec
    assert (spec.levels, spec.recipe.batch, spec.recipe.optimizer.lr) == (1, 50, 1.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("seed=1", "seed=2"),
        ("seed=1", " seed = 1"),
        ("recipe.optimizer.lr=1.0", "recipe.optimizer={name='sgd', lr=0.1}"),
    ],
)
def test_no_change_is_taken_back_in_silence(write: Write, first: str, second: str) -> None:
    faults = faults_of(write(GOOD), first, "levels=1", second)
    ((path, fault),) = faults.items()
    assert path == f"--set {second.partition('=')[0].strip()}"
    assert (fault.expected, fault.found) == ("one value", f"--set {first} before it")


def test_set_may_complete_a_file(write: Write) -> None:
    given = ["model=lenet-30", "data=digits", "length=900it", "batch=8", "optimizer={name='sgd',lr=1}"]
    assert read(write(""), [f"recipe.{change}" for change in given]).spec.recipe.batch == 8


def test_a_spec_is_frozen(write: Write) -> None:
    experiment = read(write(GOOD))
    with pytest.raises(ValueError, match="frozen"):
        experiment.spec.levels = 1  # type: ignore[misc]
    assert Experiment.model_validate(experiment.model_dump()) == experiment


# ---------------------------------------------------------------- every fault at once


def test_every_fault_is_told_at_once(write: Write) -> None:
    found = faults_of(
        write("""
            levles = 3
            replicates = 0
            arms = ["ticket", "tickt"]
            [recipe]
            model = "lenet-20-10"
            data = "digits"
            lenght = "40it"
            batch = "60"
            optimizer = {name = "adm", lr = 0.1}
            schedule = {name = "step", milestones = ["5"]}
            [prune]
            rate = 2
            scope = "lyer"
            [verdict]
            confidence = 95
        """)
    )
    assert found.keys() >= {
        "levles",
        "replicates",
        "arms.1",
        "recipe.length",
        "recipe.lenght",
        "recipe.batch",
        "recipe.optimizer.name",
        "recipe.schedule.milestones.0",
        "prune.rate",
        "prune.scope",
        "verdict.confidence",
    }


def test_every_contradiction_is_told_at_once(write: Write) -> None:
    found = faults_of(
        write(GOOD),
        "rewind=40it",
        "recipe.warmup=41it",
        "recipe.batch=1001",
        "evaluate.every=0it",
        "prune={scope='global', output_rate=0.1}",
        "arms=reinit,reinit",
    )
    assert found.keys() == {"rewind", "recipe.warmup", "recipe.batch", "evaluate.every", "prune.output_rate", "arms"}


def test_every_bad_set_is_told_at_once(write: Write) -> None:
    assert len(faults_of(write(GOOD), "levels", "=3", "recipe.length.it=3")) == 3


def test_draws_are_of_controls_among_the_arms_and_said_once(write: Write) -> None:
    faults = faults_of(
        write(GOOD), "draws={shuffle = 2, random = 2, reinit = 0}", "arms=ticket,random,reinit", "randoms=3"
    )
    assert faults["draws.reinit"].expected == "a number >= 1" and len(faults) == 1
    faults = faults_of(write(GOOD), "draws={shuffle = 2, random = 2}", "arms=ticket,random,reinit", "randoms=3")
    assert faults["draws.shuffle"].expected == "a control among the spec's arms (random, reinit)"
    assert faults["draws.random"].found == "randoms beside it"
    assert read(write(GOOD), ["draws.random=2"]).spec.draws == {"random": 2}
    assert "draws" not in read(write(GOOD)).spec.model_dump(), "a changed spec's folder is named by its values"


def test_everything_about_n_of_m_is_told_at_once(write: Write) -> None:
    only = faults_of(write(GOOD), "prune={scope='n_of_m', n=4, m=4, rate=0.1, conv_rate=0.1}", "levels=3")
    assert only.keys() == {"prune.n", "prune.rate", "prune.conv_rate", "levels"}
    assert only["levels"].todo == "a second round removes nothing more"
    assert faults_of(write(GOOD), "prune={scope='n_of_m', n=2}", "levels=1").keys() == {"prune.m"}
    assert faults_of(write(GOOD), "prune.n=2", "prune.m=4").keys() == {"prune.n", "prune.m"}


# ---------------------------------------------------------------- each of them


@pytest.mark.parametrize(
    ("change", "path", "expected", "found", "todo"),
    [
        # names
        ("levles=3", "levles", "a known field", "'levles'", "did you mean levels?"),
        ("recipe.lenght=4it", "recipe.lenght", "a known field", "'lenght'", "did you mean length?"),
        (
            "recipe.optimizer.bettas=[0,0]",
            "recipe.optimizer.bettas",
            "a known field",
            "'bettas'",
            "did you mean betas?",
        ),
        ("prune.ratio=0.2", "prune.ratio", "a known field", "'ratio'", "rate"),
        ("length=40it", "length", "a known field", "'length'", "did you mean recipe.length?"),
        ("recipe.lr=0.1", "recipe.lr", "a known field", "'lr'", "did you mean recipe.optimizer.lr?"),
        ("rate=0.1", "rate", "a known field", "'rate'", "did you mean prune.rate?"),
        ("recipe.levels=3", "recipe.levels", "a known field", "'levels'", "did you mean levels, at the top?"),
        ("batch_size=60", "batch_size", "a known field", "'batch_size'", "did you mean recipe.batch?"),
        ("rounds=3", "rounds", "a known field", "'rounds'", "did you mean levels?"),
        (
            "recipe.optimizer.momentum=0.9",
            "recipe.optimizer.momentum",
            "a known field",
            "'momentum'",
            "Adam's is the first of betas, 0.9 in betas = [0.9, 0.999]",
        ),
        ("zzz=1", "zzz", "a known field", "'zzz'", "known are about, arm, arms"),
        ("zzz.length=1", "zzz", "a known field", "'zzz'", "known are about, arm, arms"),
        ("recipe.data=mnst", "recipe.data", "digits, mnist", "'mnst'", "did you mean mnist?"),
        ("recipe.model=resnt", "recipe.model", "resnet-8, -14", "'resnt'", ""),
        ("recipe.model=cnn", "recipe.model", "one of: lenet-W1-W2-", "'cnn'", ""),
        ("recipe.model=resnet20", "recipe.model", "resnet-8, -14", "'resnet20'", "did you mean resnet-20?"),
        ("recipe.model=vgg16_w16", "recipe.model", "vgg-11", "'vgg16_w16'", "did you mean vgg-16-w16?"),
        ("recipe.model=resnet18", "recipe.model", "ResNet-18 for CIFAR-10 is resnet-20", "'resnet18'", ""),
        ("recipe.model=LeNet-300-100", "recipe.model", "lenet-W1", "'LeNet-300-100'", "did you mean lenet-300-100?"),
        ("recipe.data=cifar-10", "recipe.data", "cifar10", "'cifar-10'", "did you mean cifar10?"),
        ("recipe.data=CIFAR-100-500", "recipe.data", "cifar10", "'CIFAR-100-500'", "did you mean cifar100-500?"),
        ("recipe.data=MNIST", "recipe.data", "mnist", "'MNIST'", "did you mean mnist?"),
        (
            "recipe.data=imagenet",
            "recipe.data",
            "folder:PATH",
            "'imagenet'",
            "recipe.data=folder:PATH reads PATH/train",
        ),
        ("recipe.model=resnet-18", "recipe.model", "ResNet-18 for CIFAR-10 is resnet-20", "'resnet-18'", "1 x 8 x 8"),
        ("recipe.data=cifar1O-jpeg-5000", "recipe.data", "; NAME-N", "", "did you mean cifar10-jpeg-5000?"),
        ("recipe.data=digits-99", "recipe.data", "digits-N with N from 100 to 1,199", "'digits-99'", ""),
        ("recipe.model=lenet-0", "recipe.model", "lenet-W1-W2", "'lenet-0'", ""),
        ("recipe.optimizer.name=adm", "recipe.optimizer.name", "sgd, adam, adamw", "'adm'", ""),
        ("recipe.schedule.name=cos", "recipe.schedule.name", "cosine", "'cos'", ""),
        ("recipe.init=zeros", "recipe.init", "one of glorot-normal", "'zeros'", ""),
        ("method=iterativ", "method", f"one of {next(iter(METHODS))}", "'iterativ'", ""),
        ("arms=ticket,radnom", "arms.1", f"one of ticket, {', '.join(CONTROLS)}", "'radnom'", ""),
        ("prune.score=size", "prune.score", f"one of {next(iter(SCORES))}", "'size'", ""),
        # numbers
        ("recipe.optimizer.lr=0,1", "recipe.optimizer.lr", "number", "'0,1'", ""),
        ("recipe.optimizer.lr=0", "recipe.optimizer.lr", "> 0", "0", ""),
        ("recipe.optimizer.lr=-1", "recipe.optimizer.lr", "> 0", "-1", ""),
        ("recipe.optimizer.lr=nan", "recipe.optimizer.lr", "finite", "nan", ""),
        ("recipe.optimizer.lr=true", "recipe.optimizer.lr", "number", "True", ""),
        ("recipe.optimizer.lr='1e-3'", "recipe.optimizer.lr", "number", "'1e-3'", ""),
        ("prune.rate=true", "prune.rate", "number", "True", ""),
        ("recipe.optimizer.lr=inf", "recipe.optimizer.lr", "finite", "inf", ""),
        ("recipe.optimizer.betas=[1,0.9]", "recipe.optimizer.betas.0", "< 1", "1", ""),
        ("prune.rate=2", "prune.rate", "<= 1", "2", ""),
        ("prune.rate=-0.1", "prune.rate", ">= 0", "-0.1", ""),
        ("replicates=0", "replicates", ">= 1", "0", ""),
        ("replicates=1.5", "replicates", "integer", "1.5", ""),
        ("levels=-1", "levels", ">= 0", "-1", ""),
        ("levels=true", "levels", "integer", "True", ""),
        ("recipe.batch=60.0", "recipe.batch", "integer", "60.0", ""),
        ("recipe.batch=0", "recipe.batch", "> 0", "0", ""),
        ("seed=-1", "seed", ">= 0", "-1", ""),
        ("verdict.confidence=1", "verdict.confidence", "< 1", "1", ""),
        ("verdict.accuracy_margin=1", "verdict.accuracy_margin", "0.01 is one point", "1", ""),
        ("verdict.accuracy_margin=0.2", "verdict.accuracy_margin", "at most 0.1", "0.2", ""),
        ("verdict.accuracy_margin=20pt", "verdict.accuracy_margin", "points like 1pt", "'20pt'", ""),
        # steps
        ("recipe.length=40", "recipe.length", "like '500it' (iterations) or '2ep'", "40", ""),
        ("recipe.length=40 it", "recipe.length", "like '500it'", "'40 it'", ""),
        ("rewind=-1it", "rewind.0", "like '500it'", "'-1it'", ""),
        ("rewind=8it,8it", "rewind", "each step once", "8 iterations 2 times", ""),
        ("study.overlap.levels=40", "study.overlap.levels", "levels from 1 to", "40", ""),
        ("study.stability.levels=0", "study.stability.levels", "levels from 1 to", "0", ""),
        ("study.connectivity={levels=[1], points=1}", "study.connectivity.points", "a number >= 2", "1", ""),
        ("study.conectivity={levels=[1]}", "study.conectivity", "a known field", "", "did you mean connectivity?"),
        ("study.stability={levels=[1,1]}", "study.stability.levels", "each level once", "1 2 times", ""),
        (
            "study.connectivity={levels=[1], arms=['random', 'random']}",
            "study.connectivity.arms",
            "each arm once",
            "random 2 times",
            "",
        ),
        ("study.connectivity={levels=[1], arms=[]}", "study.connectivity.arms", "at least", "[]", ""),
        ("evaluate.every=1.5ep", "evaluate.every", "like '500it'", "'1.5ep'", ""),
        # together
        ("rewind=40it", "rewind", "before the end of the training, 40it", "'40it'", ""),
        ("rewind=3ep", "rewind", "before the end of the training", "'3ep'", ""),
        ("recipe.length=0it", "recipe.length", "at least one step", "'0it'", ""),
        ("recipe.warmup=41it", "recipe.warmup", "at most recipe.length, 40it", "'41it'", ""),
        ("recipe.batch=1001", "recipe.batch", "1,000 training examples of digits", "1001", ""),
        ("evaluate.test_every=0ep", "evaluate.test_every", "at least one step", "'0ep'", ""),
        ("carry_optimizer=true", "carry_optimizer", "false where rewind is 0it", "true", "no state"),
        (
            "prune.keep=output,fc3.weight",
            "prune.keep",
            "fc1.weight, ..., output.weight",
            "'fc3.weight'",
            "did you mean",
        ),
        ("prune.keep=fc1", "prune.keep", "weights of the model", "'fc1'", "did you mean fc1.weight?"),
        ("prune.include=fc1.bais", "prune.include", "names of parameters", "'fc1.bais', which", "fc1."),
        ("prune.include=*.bias", "prune.include", "names of parameters", "only vectors", "as fc1.bias."),
        ("prune.keep=c1.w", "prune.keep", "patterns of their names", "'c1.w'", "did you mean *c1.w*?"),
        ("prune.keep=outptu", "prune.keep", "linear, conv, embedding, output", "'outptu'", "did you mean output?"),
        ("prune.keep=output,*.shortcut.*", "prune.keep", "patterns", "'*.shortcut.*'", "* stands for anything"),
        ("prune.keep=", "prune.keep", "kinds", "''", "--set prune.keep=none prunes all layers"),
        ("prune.keep=weight", "prune.keep", "kinds", "'weight'", "did you mean fc2.weight?"),
        ("prune.keep=*", "prune.keep", "a layer that is left to prune", "all 3 layers", "--set prune.keep=none"),
        ("prune.keep=linear,*.weight", "prune.keep", "a layer that is left", "all 3 layers", ""),
        ("prune.keep=linear,output", "prune.keep", "a layer that is left", "all 3 layers", ""),
        ("arms=[]", "arms", "a list with at least one entry", "[]", ""),
        ("rewind=[]", "rewind", "a list with at least one entry", "[]", ""),
        ("arms=reinit", "arms", "ticket among them", "['reinit']", ""),
        ("arms=ticket,ticket", "arms", "each arm once", "ticket 2 times", ""),
        ("arms=ticket,iterative", "arms", "other methods", "'iterative'", ""),
        ("reinits=0", "reinits", ">= 1", "0", ""),
        # what no machine could do
        ("replicates=100000000", "replicates", "a number <= 1000000", "100000000", ""),
        (
            "replicates=99999",
            "replicates",
            "at most 1,000,000 trainings",
            "99,999, with which there are",
            "counted over",
        ),
        ("levels=1000000", "levels", "at most 1,000,000 trainings", "1,000,000, with which there are", ""),
        ("reinits=999999", "reinits", "at most 1,000,000 trainings", "999,999, with which there are", ""),
        ("randoms=99999999999999999999", "randoms", "a number <= 1000000", "99999999999999999999", ""),
        (
            "study.stability={levels=[1], orders=99999999999999999999}",
            "study.stability.orders",
            "a number <= 1000000",
            "99999999999999999999",
            "",
        ),
        (
            "study.connectivity={levels=[1], orders=9999}",
            "study.connectivity.orders",
            "measurements",
            "9,999, with",
            "",
        ),
        (
            "study.connectivity={levels=[1], points=99999999999999999999}",
            "study.connectivity.points",
            "a number <= 1000000",
            "99999999999999999999",
            "",
        ),
        (
            "study.connectivity={levels=[1], examples=99999999999999999999}",
            "study.connectivity.examples",
            "a number <= 100000000",
            "99999999999999999999",
            "",
        ),
        ("recipe.length=100000001it", "recipe.length", "at most 100,000,000 steps", "'100000001it'", ""),
        (f"recipe.length={'9' * 5000}it", "recipe.length", "at most 15 digits", "999", ""),
        (f"rewind={'9' * 5000}ep", "rewind.0", "at most 15 digits", "999", ""),
        # shapes
        ("recipe.optimizer=adam", "recipe.optimizer", "a table", "'adam'", "lr = 1.2e-3"),
        ("recipe.optimizer={lr=0.1}", "recipe.optimizer.name", "a name", "None", ""),
        ("recipe=3", "recipe", "a table", "3", ""),
        ("prune=3", "prune", "a table", "3", ""),
        ("recipe.optimizer.lr.x=3", "recipe.optimizer.lr.x", "a table at lr", "0.002", "only tables have fields"),
        ("levels", "--set levels", "path=value", "'levels'", "like --set recipe.length=1000it"),
        ("=3", "--set =3", "path=value", "'=3'", ""),
    ],
)
def test_a_fault_says_where_what_was_expected_what_came_and_what_to_do(
    write: Write, change: str, path: str, expected: str, found: str, todo: str
) -> None:
    faults = faults_of(write(GOOD), change)
    assert list(faults) == [path]
    assert expected in faults[path].expected and found in faults[path].found and todo in faults[path].todo


@pytest.mark.parametrize("method", ["lr-rewind", "fine-tune"])
def test_a_control_asks_nothing_of_a_method_that_keeps_trained_weights(write: Write, method: str) -> None:
    faults = faults_of(write(GOOD), f"method={method}", "arms=ticket,random,iterative")
    assert list(faults) == ["arms"] and "random" in faults["arms"].found


@pytest.mark.parametrize("method", ["edge-popup", "supermask", "signed-supermask"])
def test_what_trains_no_weights_has_no_rewind_step_and_no_penalty_of_weights(write: Write, method: str) -> None:
    changes = "levels=1", "recipe.objective={name='l1', strength=1e-3}", "rewind=5it"
    faults = faults_of(write(GOOD), f"arms=ticket,{method}", *changes)
    assert faults.keys() == {f"arm.{method}.retrain", f"arm.{method}.objective"}
    assert "5it" in faults[f"arm.{method}.retrain"].expected and "l1" in faults[f"arm.{method}.objective"].found
    alone = faults_of(write(GOOD), f"method={method}", "arms=ticket,random,reinit", *changes)
    assert alone.keys() == {"search.retrain", "search.objective", "arms"}
    read(write(GOOD), [f"method={method}", "arms=ticket,random", "search={retrain=true}", "rewind=5it", "levels=1"])


def test_scores_that_are_never_frozen_are_told_before_anything_is_trained(write: Write) -> None:
    faults = faults_of(write(GOOD), "arms=ticket,gem-miner", "arm.gem-miner={every='5ep'}")
    assert list(faults) == ["arm.gem-miner.every"] and "5ep" in faults["arm.gem-miner.every"].found
    read(write(GOOD), ["arms=ticket,gem-miner"])
    read(write(GOOD), ["arms=ticket,gem-miner", "arm.gem-miner={every='10it'}"])


@pytest.mark.parametrize(
    ("changes", "path"),
    [(["method=synflow"], "method"), (["arms=ticket,synflow"], "arms"), (["prune.score=synflow"], "prune.score")],
)
def test_a_score_that_reads_no_text_is_told_before_anything_is_trained(changes: list[str], path: str) -> None:
    faults = faults_of("gpt-shakespeare-quick", *changes)
    assert list(faults) == [path] and faults[path].expected == "a score for a network that reads text"
    read("gpt-shakespeare-quick", ["method=snip"])


def test_scores_have_no_mask_of_nothing(write: Write) -> None:
    faults = faults_of(write(GOOD), "method=edge-popup", "arms=ticket", "levels=1", "prune.output_rate=1.0")
    assert list(faults) == ["search.rate"] and "no weight would multiply" in faults["search.rate"].todo


def test_nesterov_needs_momentum(write: Write) -> None:
    faults = faults_of(write(GOOD), "recipe.optimizer={name='sgd', lr=0.1, nesterov=true}")
    assert list(faults) == ["recipe.optimizer.momentum"]


@pytest.mark.parametrize("field", ["model", "data", "length", "batch", "optimizer"])
def test_what_has_no_default_must_be_there(write: Write, field: str) -> None:
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith(field))
    fault = faults_of(write(text))[f"recipe.{field}"]
    assert fault.found == "nothing" and fault.todo.startswith(f"{field} = "), "an example of it"


def test_an_empty_file_lacks_a_recipe(write: Write) -> None:
    assert list(faults_of(write(""))) == ["recipe"]


def test_the_missing_are_told_all_together(write: Write) -> None:
    faults = faults_of(write('[recipe]\nmodel = "lenet-5"\n'))
    assert faults.keys() == {f"recipe.{field}" for field in ("data", "length", "batch", "optimizer")}


# ---------------------------------------------------------------- no spec at all


def test_a_syntax_error_is_told_with_its_line(write: Write) -> None:
    with pytest.raises(BadInput, match=r"mine\.toml: expected TOML, found a syntax error: .* line 2") as caught:
        read(write("levels = 3\nreplicates = = 4\n"))
    assert "docs/spec.md" in caught.value.todo


@pytest.mark.parametrize(("given", "meant"), [("digts", "digits"), ("lenet-mnist-quik", "lenet-mnist-quick")])
def test_a_misspelt_preset_is_guessed(given: str, meant: str) -> None:
    with pytest.raises(BadInput, match=f"Did you mean {meant}") as caught:
        read(given)
    assert "no such file" in str(caught.value) and str(caught.value).count("lenet") <= 2, "one guess and no list"
    with pytest.raises(
        BadInput, match=r"^something-else: expected a preset or a TOML file, found no such file"
    ) as caught:
        read("something-else")
    assert all(name in str(caught.value) for name in presets.names())


@pytest.mark.parametrize("given", ["mine.toml", "specs/mine"])
def test_a_file_that_is_not_there_is_said_without_a_list_of_presets(given: str) -> None:
    message = (
        "expected a preset or a TOML file, found no such file. `tombola presets` lists the experiments that come along."
    )
    with pytest.raises(BadInput, match=f"^{given}: {message}$"):
        read(given)


@pytest.mark.parametrize("text", ["levels = " + "9" * 5000, "x = " + "[" * 5000 + "]" * 5000])
def test_what_python_cannot_read_is_no_toml(write: Write, text: str) -> None:
    with pytest.raises(BadInput, match=r"mine.toml: expected TOML, found a syntax error"):
        read(write(text))


def test_a_folder_and_a_file_of_bytes_are_no_specs(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for bad in (tmp_path, tmp_path / "bytes.toml"):
        with pytest.raises(BadInput, match=r"expected a preset or a TOML file, found a (folder|file that is not text)"):
            read(str(bad))


@pytest.mark.parametrize(("asked", "margin"), [("1pt", 0.01), ("0.5 pt", 0.005), ("0.01", 0.01), ("0", 0.0)])
def test_a_margin_may_be_given_in_points(asked: str, margin: float) -> None:
    assert read("digits", [f"verdict.accuracy_margin={asked}"]).spec.verdict.accuracy_margin == margin


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        (["densities=[0.2,0.1]", "levels=3"], "levels", "none where there are densities"),
        (["densities=[0.1,0.2]"], "densities", "densities that fall"),
        (["densities=[0.1,0.1]"], "densities", "densities that fall"),
        (["densities=[0.1,0.001]", "prune.output_rate=0"], "densities", "which layers of rate 0 make up"),
        (["densities=[0.0]"], "densities.0", "> 0"),
        (["densities=[1.0]"], "densities.0", "< 1"),
        (["densities=[0.1]", "prune.rate=0.0"], "prune.rate", "more than 0"),
        (["densities=[0.00001]"], "densities", "leave one of 1,580 weights"),
        (["method=snip", "search.length=20it"], "search.length", "no such choice of snip"),
        (["method=snip", "search.examples=5000"], "search.examples", "at most the 1,000 training examples"),
        (["densities=[0.1]", "prune.scope=n_of_m", "prune.n=2", "prune.m=4"], "densities", "none in the scope n_of_m"),
        (["prune.scope=erk"], "prune.scope", "a scope for rounds"),
        (["search.scope=erk"], "search.scope", "a scope for rounds"),
        (["search.rate=0.3"], "search.rate", "densities in the spec"),
        (["method=snip", "search.rate=0.3", "densities=[0.1]"], "search.rate", "no such choice of snip"),
        (["search.score=smallest"], "search.score", "one of magnitude"),
        (
            ["method=snip", "search.score=movement"],
            "search.score",
            "a score of weights as they are where rewind is 0it",
        ),
        (["arms=ticket,x", "arm.x.method=snip", "arm.x.score=movement", "rewind=0it"], "arm.x.score", "as they are"),
        (["search.data=mnist"], "search.data", "inputs and classes like those of digits"),
        (["search.data=digits-7"], "search.data", "digits-N with N from"),
        (["search.batch=5000"], "search.batch", "at most the 1,000 training examples"),
        (["search.length=0it"], "search.length", "between 1 and"),
        (["search.length=20it", "rewind=30it"], "search.length", "more than the rewind step"),
        (["search.examples=3"], "search.examples", "a known field"),
        (["method=rigl", "search.score=movement", "arms=ticket"], "search.score", "a score of weights as they are"),
        (["arms=ticket,snip", "prune={scope='n_of_m', n=2, m=4}", "levels=1"], "arms", "round by round in the scope n"),
        (["method=set", "prune={scope='n_of_m', n=2, m=4}", "levels=1"], "method", "round by round in the scope n_o"),
        (["arm.snip.examples=3"], "arm.snip", "an arm among the spec's arms"),
        (["arms=ticket,random", "arm.random.method=snip"], "arm.random", "stands for nothing else"),
        (["arms=ticket,snip", "arm.snip.method=grasp"], "arm.snip", "stands for nothing else"),
        (["arms=ticket,x", "arm.x.method=[3]"], "arm.x.method", "a string"),
        (
            ["arms=ticket,x", "arm.x.method=snip", "arm.x.control=random-labels", "arm.x.examples=0"],
            "arm.x.examples",
            "> 0",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_it_begins(
    write: Write, changes: list[str], path: str, expected: str
) -> None:
    faults = faults_of(write(GOOD), *changes)
    assert path in faults and expected in faults[path].expected, faults


@pytest.mark.parametrize(
    ("changes", "path", "todo"),
    [
        (["arms=ticket,x", "arm.x.metod=snip"], "arm.x.metod", "did you mean method?"),
        (["arms=ticket,x", "arm.x.control=shuffle"], "arm.x.method", "its table names no method"),
        (["arms=ticket,snip", "arm.snip.itrations=3"], "arm.snip.itrations", "did you mean iterations?"),
        (["arms=ticket,snip", "arm.snip.epochs=3"], "arm.snip.epochs", "did you mean length?"),
        (["arm.ticket.rate=0.5"], "arm.ticket.method", "[search] is what is chosen"),
        (["arm.ticket.examples=5"], "arm.ticket.examples", "[search] is what is chosen"),
        (["search.examples=5"], "search.examples", "known are batch, data"),
        (["method=snap", "search.examples=5"], "search.examples", "known are batch, data"),
        (["arms=ticket,snap"], "arms.1", "a table [arm.NAME] with its method declares"),
    ],
)
def test_a_slip_in_what_is_chosen_of_a_search_is_told_with_what_may_be_meant(
    write: Write, changes: list[str], path: str, todo: str
) -> None:
    faults = faults_of(write(GOOD), *changes)
    assert todo in faults[path].todo, faults
    assert "arms.1" not in faults or path == "arms.1", "an arm whose table has a fault is not also an unknown one"


def test_a_changed_spec_keeps_its_folder_whatever_fields_come_later() -> None:
    """Reports of last year are found where they were written."""
    assert read("digits", ["levels=3"]).folder == "digits-7fb67a76"
    changes = ["recipe.length=100it", "draws.shuffle=2", "arms=ticket,shuffle"]
    assert read("lenet-mnist", changes).folder == "lenet-mnist-78bb3593"
