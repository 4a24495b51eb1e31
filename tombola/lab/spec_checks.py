"""What a spec asks for that each field alone allows and all together do not: small functions, each a kind of fault."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from tombola import bases, data, models
from tombola.bases import BASES
from tombola.data import subset, tokenised, variants
from tombola.data.facts import Facts
from tombola.errors import BadInput, DataError, Fault
from tombola.lab.fields import MOST, MOST_STEPS
from tombola.lab.kinds.loaded import shapes
from tombola.lab.members import Arm, Members
from tombola.lab.spec import PruneSpec, Spec
from tombola.lab.studies import Setting, asked
from tombola.lab.studies.checks import repeated
from tombola.layer_patterns import named
from tombola.method import SearchOptions
from tombola.models import hf
from tombola.objective import CrossEntropy
from tombola.pruning import SCOPES, Round
from tombola.value import listed


def unknown_names(table: Mapping[str, Any]) -> Iterable[Fault]:
    """Names in the recipe, as it was written, that no data set and no model has; a model that the data do not fit."""
    recipe = table.get("recipe")
    name, model = (recipe.get("data"), recipe.get("model")) if isinstance(recipe, dict) else (None, None)
    facts, what = None, ""
    if isinstance(name, str):
        try:
            facts = data.facts(name)
        except ValueError as error:
            yield Fault("recipe.data", str(error), repr(name), _meant(name))
        except DataError as error:
            yield Fault("recipe.data", f"{error.expected} in {error.where}", error.found, error.todo)
    if facts and isinstance(name, str):
        facts, faults = _changed(name, facts, recipe or {})
        yield from faults
        what = f"an input of {facts.name} is {_by(facts.shape)}{' numbers' if len(facts.shape) == 1 else ''}"
    if isinstance(model, str):
        try:
            models.check(model, *((facts.shape, facts.classes) if facts else models.taken(model)))
        except ValueError as error:
            meant = models.meant(model)
            of_data = "" if _is_model(models.variants.parts(model)[0], facts) else what
            yield Fault("recipe.model", str(error), repr(model), f"did you mean {meant}?" if meant else of_data)


def _is_model(name: str, facts: Facts | None) -> bool:
    """Whether there is one of this name for these data, so that it is not what they are that is wrong."""
    try:
        models.check(name, *((facts.shape, facts.classes) if facts else models.taken(name)))
    except ValueError:
        return False
    return True


def _changed(name: str, facts: Facts, recipe: Mapping[str, Any]) -> tuple[Facts, list[Fault]]:
    """What is known of a data set with its inputs and labels changed as a recipe, as it was written, asks for."""
    inputs, noise = listed(recipe.get("inputs")) or [], recipe.get("label_noise")
    faults = list[Fault]()
    ways = [("recipe.inputs", f"{each}~0") for each in inputs] if isinstance(inputs, list) else []
    ways += [("recipe.label_noise", f"label-noise-{noise!r}~0")] if isinstance(noise, float) else []
    for where, way in ways:
        if variants.way(way) is None:
            continue  # which the field's own check has said
        if data.is_folder(name) or data.is_tokenised(name):
            faults.append(Fault(where, "data that are held in memory, and no checkpoint's tokens", repr(name)))
            continue
        name = f"{name}{variants.MARK}{way}"
        try:
            facts = data.facts(name)
        except ValueError as error:
            return facts, [*faults, Fault(where, str(error).replace("~0", ""), repr(way.partition("~")[0]))]
    return facts, faults


def _meant(name: str) -> str:
    """Which data set, part or variant somebody who wrote `name` may have meant."""
    if name.lower() in ("imagenet", "imagenet-1k", "ilsvrc2012"):
        return (
            "ImageNet is not downloaded: recipe.data=folder:PATH reads PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg"
        )
    varied, changes = variants.parts(name)
    whole, size = subset.parts(varied)
    same = {_bare(source): source for source in data.SOURCES}
    if _bare(name) in same:  # cifar-10 is no part of ten examples
        return f"did you mean {same[_bare(name)]}?"
    close = (
        [same[_bare(whole)]] if _bare(whole) in same else difflib.get_close_matches(whole.lower(), data.SOURCES, n=1)
    )
    ways = [(difflib.get_close_matches(each.lower(), variants.VARIANTS, n=1) or [each])[0] for each in changes]
    meant = variants.MARK.join([close[0] + (f"-{size}" if size else ""), *ways]) if close else ""
    return f"did you mean {meant}?" if meant not in ("", name) else ""


def _bare(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def contradictions(spec: Spec, members: Members) -> Iterable[Fault]:
    """What each field alone allows and all together do not.

    Args:
        members: those that the spec was read with.
    """
    for check in _CHECKS:
        yield from check(spec)
    for check_members in _CHECKS_OF_MEMBERS:
        yield from check_members(spec, members)


def _basis(spec: Spec) -> Iterable[Fault]:
    """A basis that there is not for the weights of such a model."""
    if basis := spec.prune.basis:
        yield from (replace(fault, path=f"prune.{fault.path}") for fault in bases.faults(basis, spec))
    if spec.prune.scope == "units":
        yield from bases.classes_among_units(spec.prune)


def _length(spec: Spec) -> Iterable[Fault]:
    length = spec.iterations(spec.recipe.length)
    if not 0 < length <= MOST_STEPS:
        bound = "at least one step" if length == 0 else f"at most {MOST_STEPS:,} steps"
        yield Fault("recipe.length", bound, repr(str(spec.recipe.length)))


def _answers(spec: Spec) -> Iterable[Fault]:
    """Objectives that choose among classes, of data that have none."""
    objective, facts = spec.recipe.objective, spec.facts
    if objective and objective.of_classes and facts.answers != "class":
        todo = "leave the objective out, or take data with classes"
        yield Fault("recipe.objective", f"one for answers of {_answered(facts)}", repr(objective.name), todo)


def _teacher(spec: Spec) -> Iterable[Fault]:
    """A teacher's file that is none, or has the weights of another network."""
    recipe, facts = spec.recipe, spec.facts
    if recipe.objective is None or not (path := recipe.objective.teacher_file):
        return
    if models.mixes(recipe.model):
        expected = f"none beside {recipe.model}, whose parameters are no weights as a file has them"
        yield Fault("recipe.objective.teacher", expected, path, "teacher = 'dense' trains one")
        return
    try:
        found = shapes(path)
    except BadInput as error:
        yield Fault("recipe.objective.teacher", error.expected, f"{path}: {error.found}", error.todo)
        return
    for name, layer in models.layers(recipe.model, facts.shape, facts.classes).items():
        if prod(found.get(name, ())) != layer.weights or name not in found:
            others = ", ".join(list(found)[:3]) or "nothing"
            of = f"{name} of shape {list(found[name])}" if name in found else f"{path} with {others}, without {name}"
            expected = f"the weights of {recipe.model} for {facts.name}, {layer.weights:,} of them in {name}"
            yield Fault("recipe.objective.teacher", expected, of, "a teacher has the student's layers and classes")
            return


def _answered(facts: Facts) -> str:
    return f"{facts.name}, {'one number' if facts.answers == 'number' else 'several times yes or no'}"


def _controls_of_classes(spec: Spec, members: Members) -> Iterable[Fault]:
    """Controls that ask something of classes, of data that have none."""
    for name in spec.arms if spec.facts.answers != "class" else []:
        if (control := members.arm(name, spec).control) and control.of_classes:
            todo = f"leave {name} out, or take data with classes"
            yield Fault("arms", f"arms for answers of {_answered(spec.facts)}", repr(name), todo)


def _controls_that_descend(spec: Spec, members: Members) -> Iterable[Fault]:
    """Controls with an objective of their own, where the ticket's is no cross-entropy: two things would differ."""
    objective = spec.recipe.objective
    for name in spec.arms if objective else []:
        if objective and (control := members.arm(name, spec).control) and control.descends:
            todo = f"two things would differ: leave {name} out, or the objective"
            yield Fault("arms", f"arms that leave the objective {objective.name} alone", repr(name), todo)


def _pixels(spec: Spec) -> Iterable[Fault]:
    """Objectives that change pixels, where there are none, or where each image has a scale of its own."""
    recipe, facts = spec.recipe, spec.facts
    if not recipe.objective or not recipe.objective.sees_pixels:
        return
    if facts.text or facts.real:
        what = "texts" if facts.text else "real numbers"
        yield Fault("recipe.objective", f"one for {what}, which have no pixels", repr(recipe.objective.name))
    if recipe.normalise == "unit":
        expected = f"standard or range where the objective {recipe.objective.name} changes pixels"
        yield Fault("recipe.normalise", expected, "'unit'", "in which each image has a scale of its own")


def _gaussian(spec: Spec) -> Iterable[Fault]:
    """Gaussian weights without the bound that trains them, the bound without Gaussian weights; and dynamics beside."""
    recipe, gaussian = spec.recipe, models.is_gaussian(spec.recipe.model)
    objective = recipe.objective or CrossEntropy()
    found = repr(objective.name)
    if objective.of_gaussian and not gaussian:
        todo = f"model = '{recipe.model}+gaussian' has them"
        yield Fault("recipe.objective", "one for weights that are numbers", found, todo)
    if gaussian and not objective.of_gaussian:
        todo = "recipe.objective = {name = 'elbo'}: nothing else makes their deviations anything"
        yield Fault("recipe.objective", "one for Gaussian weights, elbo", found, todo)
    if gaussian and recipe.dynamics:
        todo = "leave one of the two out: weights that are moved or held by others have no noise of their own"
        yield Fault("recipe.dynamics", "none beside Gaussian weights", repr(recipe.dynamics.name), todo)


def _data(spec: Spec) -> Iterable[Fault]:
    recipe, facts = spec.recipe, spec.facts
    unchanged = f"none, as {'texts' if facts.text else 'real numbers'} are not changed"
    if recipe.augment and recipe.augment not in (known := data.augmentations(recipe.data)):
        yield Fault(
            "recipe.augment",
            " or ".join(known) or unchanged,
            repr(recipe.augment),
            "resized-crop is for folders of pictures",
        )
    if recipe.augment and recipe.inputs:
        todo = "leave recipe.augment out: changed inputs are no images that one could shift"
        yield Fault("recipe.augment", "none beside recipe.inputs", repr(recipe.augment), todo)
    if recipe.normalise and (facts.text or facts.real):
        yield Fault("recipe.normalise", unchanged, repr(recipe.normalise))
    if recipe.batch > facts.train:
        yield Fault("recipe.batch", f"at most the {facts.train:,} training examples of {facts.name}", str(recipe.batch))


def _steps(spec: Spec) -> Iterable[Fault]:
    """Steps that lie beyond the training, or are none."""
    recipe, length = spec.recipe, spec.iterations(spec.recipe.length)
    for milestone in getattr(recipe.schedule, "milestones", ()):
        if spec.iterations(milestone) >= max(length, 1):
            yield Fault(
                "recipe.schedule.milestones", f"steps before recipe.length, {recipe.length}", repr(str(milestone))
            )
    if spec.iterations(recipe.warmup) > length:
        yield Fault("recipe.warmup", f"at most recipe.length, {recipe.length}", repr(str(recipe.warmup)))
    for name in ("every", "test_every"):
        if spec.iterations(getattr(spec.evaluate, name)) == 0:
            yield Fault(f"evaluate.{name}", "at least one step", repr(str(getattr(spec.evaluate, name))))


def _rewinding(spec: Spec) -> Iterable[Fault]:
    points = [spec.iterations(step) for step in spec.rewind]
    length = spec.iterations(spec.recipe.length)
    for text, step in zip(spec.rewind, points, strict=True):
        if step >= max(length, 1):
            yield Fault("rewind", f"steps before the end of the training, {spec.recipe.length}", repr(str(text)))
    yield from repeated("rewind", "step", points, "iterations ")
    if spec.carry_optimizer and 0 in points:
        yield Fault("carry_optimizer", "false where rewind is 0it", "true", "before the first step there is no state")


def _optimizer(spec: Spec) -> Iterable[Fault]:
    optimizer = spec.recipe.optimizer
    if optimizer.name == "sgd" and optimizer.nesterov and optimizer.momentum == 0:
        yield Fault("recipe.optimizer.momentum", "more than 0, as Nesterov's step needs it", "0.0")


def _dynamics(spec: Spec) -> Iterable[Fault]:
    model, dynamics = spec.recipe.model, spec.recipe.dynamics
    if dynamics and (why := dynamics.refuses(model)):
        yield Fault("recipe.dynamics", f"dynamics that {model} can be trained with", repr(dynamics.name), why)
    if dynamics and dynamics.of_method:
        todo = f"method = {dynamics.name!r} gives its trainings a mask with as many weights as shall stay"
        yield Fault("recipe.dynamics", "dynamics that ask for no more than a recipe says", repr(dynamics.name), todo)


def _scope(spec: Spec) -> Iterable[Fault]:
    scope, alone = SCOPES[spec.prune.scope], f"in the scope {spec.prune.scope}"
    if scope.whole:
        yield Fault(
            "prune.scope", "a scope for rounds of pruning", repr(spec.prune.scope), "method = 'random-erk', say"
        )
    for name in ("conv_rate", "output_rate"):
        if not scope.by_kind and (rate := getattr(spec.prune, name)) is not None:
            todo = f"--set prune.{name}=none leaves it out; prune.keep leaves layers dense"
            yield Fault(f"prune.{name}", f"absent {alone}", str(rate), todo)
    yield from _counts(spec.prune)
    if scope.once and spec.levels > 1:
        yield Fault("levels", f"0 or 1 {alone}", str(spec.levels), "a second round removes nothing more")


def _scopes(spec: Spec, members: Members) -> Iterable[tuple[str, str, Arm]]:
    """Where it is said in which scope each arm prunes, that scope, and the arm."""
    for name in spec.arms:
        arm = members.arm(name, spec)
        where = "prune.scope" if arm.options.scope is None else f"{_table(name, spec)}.scope"
        yield where, _scope_of(arm, spec), arm


def _scope_of(arm: Arm, spec: Spec) -> str:
    return spec.prune.scope if arm.options.scope is None else arm.options.scope


def _table(arm: str, spec: Spec) -> str:
    """The table that has what is chosen of an arm's method."""
    return f"arm.{arm}" if arm in spec.arm else "search"


def _of_channels(scope: str) -> bool:
    return scope in SCOPES and SCOPES[scope].coupled


def _channels(spec: Spec, members: Members) -> Iterable[Fault]:
    """What goes with whole channels alone, and what does not go with them."""
    prune, recipe = spec.prune, spec.recipe
    scopes = [(where, scope) for where, scope, _ in _scopes(spec, members)]
    channels = [each for each in scopes if _of_channels(each[1])]
    if not channels:
        if prune.multiple is not None and scopes:
            alone = f"absent in the scope {scopes[0][1]}"
            yield Fault("prune.multiple", alone, str(prune.multiple), "it is of the scope channel")
        return
    where, scope = channels[0]
    alone, weights = f"in the scope {scope}", "what makes and reads a channel are weights: take the scope layer"
    if prune.include:
        yield Fault("prune.include", f"none {alone}", str(list(prune.include)), "biases go with their channels")
    if prune.basis or models.variants.parts(recipe.model)[1]:
        path, found = ("prune.basis", prune.basis) if prune.basis else ("recipe.model", recipe.model)
        yield Fault(path, f"weights themselves {alone}", repr(found), weights)
    if recipe.dynamics and recipe.dynamics.by_weight:
        todo = "it takes and gives single weights, of which no channel is left whole: leave it out"
        yield Fault("recipe.dynamics", f"dynamics that keep channels whole {alone}", repr(recipe.dynamics.name), todo)
    if spec.densities and not _of_channels(prune.scope):  # else `_densities` says so
        todo = "levels and rates say how many channels stay: a density may lie between two of them"
        yield Fault(where, "a scope of single weights where there are densities", repr(scope), todo)


def _channels_of_coordinates(spec: Spec, members: Members) -> Iterable[Fault]:
    """Methods that prune coordinates of the weights, where channels are to go."""
    for _, scope, arm in _scopes(spec, members):
        if _of_channels(scope) and arm.control is None and arm.options.mixes(spec) and not spec.mixes:
            path, found = ("method", arm.method.name) if arm.name == "ticket" else ("arms", arm.name)
            todo = "what makes and reads a channel are weights: take the scope layer, or basis = 'identity'"
            yield Fault(path, f"methods of the weights themselves in the scope {scope}", repr(found), todo)


def _channel_controls(spec: Spec, members: Members) -> Iterable[Fault]:
    """Controls that move weights one by one, beside tickets of whole channels."""
    for _, scope, arm in _scopes(spec, members):
        if arm.control and arm.control.by_weight and _of_channels(scope):
            todo = f"leave {arm.name} out; random and shuffle take whole channels"
            yield Fault("arms", f"controls of whole channels in the scope {scope}", repr(arm.name), todo)


def _counts(prune: PruneSpec) -> Iterable[Fault]:
    """n of m where no rate says how many go, and nowhere else."""
    counted, alone = SCOPES[prune.scope].counted, f"in the scope {prune.scope}"
    for name in ("n", "m"):
        given = getattr(prune, name)
        if (given is None) == counted:
            expected = f"a number {alone}" if counted else f"absent {alone}"
            yield Fault(f"prune.{name}", expected, "nothing" if given is None else str(given), "n = 2, m = 4: 2 of 4")
    if prune.n is not None and prune.m is not None and prune.n >= prune.m:
        yield Fault("prune.n", f"fewer than prune.m, {prune.m}, to stay", str(prune.n))
    if counted and "rate" in prune.model_fields_set:
        yield Fault("prune.rate", f"absent {alone}", str(prune.rate), "n and m say how many go")


def _arms(spec: Spec, members: Members) -> Iterable[Fault]:
    arms = {name: members.arm(name, spec) for name in spec.arms}
    for name, arm in arms.items():
        if arm.control and not arm.rewinds and not arm.control.of_trained:
            todo = "retrain = true trains its masks from there"
            why = f"{arm.method.name} does not train early weights under a mask that stays, as it asks; {todo}"
            able = ", ".join(name for name, other in members.controls.items() if other.of_trained)
            yield Fault("arms", f"only ticket, other methods and {able}", repr(name), why)
    if "ticket" not in spec.arms:
        yield Fault("arms", "ticket among them", repr(list(spec.arms)), "the other arms are compared with it")
    yield from repeated("arms", "arm", spec.arms)
    if spec.method in spec.arms and spec.method not in spec.arm:
        yield Fault(
            "arms",
            "other methods than the one of the ticket arm",
            repr(spec.method),
            f"method = {spec.method!r} is what `ticket` is",
        )


def _declared_arms(spec: Spec, members: Members) -> Iterable[Fault]:
    """Arms that nobody names, or of a name that stands for something else."""
    for name, own in spec.arm.items():
        where = f"arm.{name}"
        if name not in spec.arms:
            yield Fault(where, "an arm among the spec's arms", repr(name), f"arms = [..., {name!r}] compares it")
        if name in ("ticket", "dense", *members.controls) or (name in members.methods and own.method != name):
            todo = "[search] is what is chosen of the ticket's method" if name == "ticket" else ""
            yield Fault(where, "a name that stands for nothing else", repr(name), todo)


def _searches(spec: Spec, members: Members) -> Iterable[Fault]:
    """What is chosen of methods that they cannot do."""
    names = dict.fromkeys([*spec.arm, *(name for name in spec.arms if name in members.methods)])
    arms = {"search": members.arm("ticket", spec), **{f"arm.{name}": members.arm(name, spec) for name in names}}
    for where, arm in arms.items():
        yield from _unused(where, arm)
        yield from _uncounted(spec, where, arm.options)
        yield from _at_once(spec, where, arm)
        yield from _search(spec, members, where, arm.options)


def _at_once(spec: Spec, where: str, arm: Arm) -> Iterable[Fault]:
    """A method that prunes a whole network to a count of weights, where n of m or a share of groups say what stays."""
    for scope in dict.fromkeys((spec.prune.scope, _scope_of(arm, spec))):
        if not arm.options.by_rounds and scope in SCOPES and (SCOPES[scope].counted or SCOPES[scope].grouped):
            name = f"{where}.scope" if scope == arm.options.scope else "method" if where == "search" else "arms"
            todo = "iterative and one-shot are such ones; the scope layer has a count of weights at each level"
            yield Fault(name, f"methods that prune round by round in the scope {scope}", repr(arm.method.name), todo)


def _unused(where: str, arm: Arm) -> Iterable[Fault]:
    """Choices that would change nothing."""
    options = arm.options
    for name in sorted(options.ignored):
        if (given := getattr(options, name)) is not None:
            found = repr(given) if isinstance(given, str) else str(given)
            yield Fault(f"{where}.{name}", f"no such choice of {arm.method.name}", found, options.why_ignored)
    if options.by_rounds and options.scope in SCOPES and SCOPES[options.scope].whole:
        todo = "er and erk are for methods that prune at once, like random-erk or snip"
        yield Fault(f"{where}.scope", "a scope for rounds of pruning", repr(options.scope), todo)


def _uncounted(spec: Spec, where: str, options: SearchOptions) -> Iterable[Fault]:
    """A scope of its own that asks for n and m, which are there where all prune in it alone."""
    if options.scope in SCOPES and SCOPES[options.scope].counted and not SCOPES[spec.prune.scope].counted:
        todo = f"prune.scope = {options.scope!r}, with prune.n and prune.m, is for all methods"
        expected = f"a scope with a rate beside prune.scope = {spec.prune.scope!r}"
        yield Fault(f"{where}.scope", expected, repr(options.scope), todo)


def _search(spec: Spec, members: Members, where: str, options: SearchOptions) -> Iterable[Fault]:
    for name, known in (("score", members.scores), ("scope", SCOPES)):
        if (given := getattr(options, name)) is not None and given not in known:
            yield Fault(f"{where}.{name}", f"one of {', '.join(known)}", repr(given))
    if options.rate is not None and not spec.densities:
        yield Fault(
            f"{where}.rate", "densities in the spec", str(options.rate), "else it would decide about the densities"
        )
    examples = getattr(options, "examples", None) if "examples" in options.model_fields_set else None
    if options.data is None and examples is not None and examples > spec.facts.train:
        most = f"at most the {spec.facts.train:,} training examples of {spec.facts.name}"
        yield Fault(f"{where}.examples", most, str(examples))
    yield from (
        fault if fault.path.startswith("recipe.") else replace(fault, path=f"{where}.{fault.path}")
        for fault in options.faults(spec)
    )
    if not options.of_recipe:
        return
    facts = spec.facts
    if options.data is not None:
        try:
            facts = spec.facts_of(options.data)
        except (ValueError, DataError) as error:
            yield Fault(f"{where}.data", str(error), repr(options.data), _meant(options.data))
            return
        if (facts.shape, facts.classes) != (spec.facts.shape, spec.facts.classes):
            asked = f"inputs and classes like those of {spec.recipe.data}"
            yield Fault(f"{where}.data", asked, repr(options.data), "the mask is of one and the same network")
    batch = options.batch or spec.recipe.batch
    if batch > facts.train:
        yield Fault(f"{where}.batch", f"at most the {facts.train:,} training examples of {facts.name}", str(batch))
        return
    yield from _search_length(spec, where, options, facts.epoch_iterations(batch))


def _searched_controls(spec: Spec, members: Members) -> Iterable[Fault]:
    """Controls that search on a variant of data of which there is none."""
    for name in spec.arms:
        arm = members.arm(name, spec)
        for variant in arm.control.data if arm.control else ():
            try:
                facts = spec.facts_of(arm.options.data or spec.recipe.data, variant)
            except (ValueError, DataError) as error:
                yield Fault("arms", "controls that can be had of these data", repr(name), str(error))
                continue
            if (batch := arm.options.batch or spec.recipe.batch) > facts.train:
                todo = f"leave {name} out, or let batches have {facts.train:,} examples at most"
                yield Fault("arms", f"controls whose data make one batch of {batch:,}", repr(name), todo)


def _search_length(spec: Spec, where: str, options: SearchOptions, epoch: int) -> Iterable[Fault]:
    length = (options.length or spec.recipe.length).iterations(epoch)
    if not 0 < length <= MOST_STEPS:
        yield Fault(f"{where}.length", f"between 1 and {MOST_STEPS:,} steps", repr(str(options.length)))
    for step in spec.rewind:
        if step.iterations(epoch) >= max(length, 1) and options.apart:
            yield Fault(f"{where}.length", f"more than the rewind step {step}", repr(str(options.length)))


def _densities(spec: Spec) -> Iterable[Fault]:
    densities = spec.densities
    if not densities:
        return
    if list(densities) != sorted(set(densities), reverse=True):
        yield Fault("densities", "densities that fall from one to the next", str(list(densities)))
    if spec.levels != len(densities):
        yield Fault(
            "levels", "none where there are densities", str(spec.levels), "--set levels=none: each density is a level"
        )
    if SCOPES[spec.prune.scope].counted:
        yield Fault(
            "densities", f"none in the scope {spec.prune.scope}", str(list(densities)), "n and m say how many stay"
        )
    elif SCOPES[spec.prune.scope].grouped:
        todo = "levels and rates say how many groups stay: a density may lie between two of them"
        yield Fault("densities", f"none in the scope {spec.prune.scope}", str(list(densities)), todo)
    elif not 0 < spec.prune.rate < 1:
        yield Fault(
            "prune.rate", "more than 0 and less than 1", str(spec.prune.rate), "no rounds of it reach a density"
        )


def _reached(spec: Spec) -> Iterable[Fault]:
    """Densities that leave no weight, or are below what layers make up that lose nothing in any round."""
    recipe, facts, prune = spec.recipe, spec.facts, spec.prune
    if not spec.densities:
        return
    layers = models.layers(recipe.model, facts.shape, facts.classes)
    sizes = {name: layer.weights for name, layer in layers.items()}
    if spec.densities[-1] * sum(sizes.values()) < 1 and not prune.include:
        yield Fault(
            "densities", f"densities that leave one of {sum(sizes.values()):,} weights", str(spec.densities[-1])
        )
    if not SCOPES[prune.scope].by_kind:
        return
    rates = prune.round.rates_of({name: layer.kind for name, layer in layers.items()})
    stay, whole = sum(sizes[name] for name in rates if not rates[name]), sum(sizes[name] for name in rates)
    if stay > spec.densities[-1] * whole and not prune.include:  # whose sizes are known when the network is built
        expected = f"densities of {stay / whole:.3g} at least, which layers of rate 0 make up by themselves"
        todo = "prune.keep leaves layers dense that are not counted; or give them a rate"
        yield Fault("densities", expected, str(spec.densities[-1]), todo)


def _refused_controls(spec: Spec, members: Members) -> Iterable[Fault]:
    """Controls that ask of their tickets what the method, as it is chosen, does not give them."""
    for name in spec.arms:
        arm = members.arm(name, spec)
        if not arm.control or not arm.control.refuses or any(arm.options.faults(spec)):
            continue
        if why := arm.control.refuses(spec, arm.options):
            yield Fault("arms", f"controls of tickets that {arm.method.name} makes so", repr(name), why)


def _units(spec: Spec, members: Members) -> Iterable[Fault]:
    asked = {"method": [spec.method], "arms": spec.arms}
    for path, names in asked.items():
        for name in (name for name in names if name in members.methods and members.methods[name].follows_units):
            if spec.facts.text:
                why = f"{name} matches units of two networks, and follows none through attention"
                yield Fault(path, "another method for a network that reads text", repr(name), why)


def _controls_of_numbers(spec: Spec, members: Members) -> Iterable[Fault]:
    """Controls that hold weights at values, beside weights that are drawn anew each time."""
    for name in spec.arms if models.is_gaussian(spec.recipe.model) else []:
        if (control := members.arm(name, spec).control) and control.of_numbers:
            todo = f"leave {name} out: what it holds has no noise"
            yield Fault("arms", f"controls of Gaussian weights beside {spec.recipe.model}", repr(name), todo)


def _of_weights(spec: Spec, members: Members) -> Iterable[Fault]:
    """Methods that ask for parameters that are weights, where weights are made of them."""
    recipe, basis = spec.recipe, spec.prune.basis
    if not models.variants.parts(bases.model_in(basis, recipe.model, 0, recipe.init, 0))[1]:
        return
    for name in spec.arms:
        method = members.arm(name, spec).method
        if method.of_weights and members.arm(name, spec).control is None:
            path, found = ("method", method.name) if name == "ticket" else ("arms", name)
            beside = f"prune.basis = {basis!r}" if basis else recipe.model
            todo = f"{method.name} takes the parameters of a network for its weights"
            yield Fault(path, f"another method beside {beside}", repr(found), todo)


def _scores(spec: Spec, members: Members) -> Iterable[Fault]:
    """Scores that rank nothing in these networks, or before anything is trained."""
    at_start = 0 in [spec.iterations(step) for step in spec.rewind]
    for path, name, early, scope in dict.fromkeys(_ranking(spec, members)):
        score = members.scores.get(name)
        if score and not score.reads_text and spec.facts.text:
            yield Fault(path, "a score for a network that reads text", repr(name), "snip is one")
        if score and score.of_channels and not _of_channels(scope):
            todo = "prune.scope = 'channel' has them; magnitude is of single weights"
            yield Fault(path, f"a score of single weights in the scope {scope}", repr(name), todo)
        if score and score.of_gaussian and not models.is_gaussian(spec.recipe.model):
            todo = f"model = '{spec.recipe.model}+gaussian' has them; magnitude is the size of a weight"
            yield Fault(path, "a score of weights that are numbers", repr(name), todo)
        if score and score.of_gaussian and spec.prune.include:
            todo = "it is of weights with noise, which are prunable by themselves; magnitude is of any"
            yield Fault("prune.include", f"none beside {path} = {name!r}", str(list(spec.prune.include)), todo)
        if score and score.sees_initial and early and at_start:
            todo = "before the first step no weight has changed; magnitude is its size"
            yield Fault(path, "a score of weights as they are where rewind is 0it", repr(name), todo)


def _ranking(spec: Spec, members: Members) -> Iterable[tuple[str, str, bool, str]]:
    """Of each arm where it says by which score it prunes, which, whether it is of an untrained network; its scope."""
    for name in spec.arms:
        arm = members.arm(name, spec)
        if "score" in arm.options.ignored:
            continue
        own, early = arm.method.score, not arm.options.by_rounds or arm.method.score is not None
        scope = _scope_of(arm, spec)
        if arm.options.score is not None:
            yield f"{_table(name, spec)}.score", arm.options.score, early, scope
        elif own is not None:
            yield "method" if arm.method.name == spec.method else "arms", own, early, scope
        elif not early:  # others have a way of their own to begin
            yield "prune.score", spec.prune.score, early, scope


def _endless(spec: Spec, members: Members) -> Iterable[Fault]:
    """A plan that nobody could carry out, nor even list."""
    tables = spec.all_replicates * len(spec.rewind)
    rows = tables * (1 + spec.levels * sum(members.draws(arm, spec) for arm in spec.arms))
    if rows > MOST:
        fields = {control.draws for control in members.controls.values() if control.draws}
        counts = {"verdict.most_replicates" if spec.looks else "replicates": spec.all_replicates}
        counts |= {name: getattr(spec, name) for name in ("levels", *sorted(fields, reverse=True))}
        counts |= {f"draws.{arm}": count for arm, count in spec.draws.items()}
        largest = max(counts, key=counts.__getitem__)
        yield Fault(
            largest,
            f"a plan of at most {MOST:,} trainings",
            f"{counts[largest]:,}, with which there are {rows:,}",
            "they are counted over replicates, rewind steps, levels, arms and their draws",
        )


def _until(spec: Spec) -> Iterable[Fault]:
    """How many replicates there are at most, where they are added until it is decided."""
    verdict = spec.verdict
    if verdict.most_replicates is not None and verdict.until is None:
        todo = "--until decided adds them"
        yield Fault("verdict.most_replicates", "absent where none are added", str(verdict.most_replicates), todo)


def _drawn_controls(spec: Spec, members: Members) -> Iterable[Fault]:
    """Draws of what is not drawn, or twice said."""
    controls = {name: control for name in spec.arms if (control := members.arm(name, spec).control)}
    for arm in spec.draws:
        if arm not in controls:
            yield Fault(f"draws.{arm}", f"a control among the spec's arms ({', '.join(controls) or 'none'})", repr(arm))
        elif (field := controls[arm].draws) and field in spec.model_fields_set:
            yield Fault(f"draws.{arm}", f"one number of draws of {arm}", f"{field} beside it", "leave one of them out")


def _foreign(spec: Spec) -> Iterable[Fault]:
    """Checkpoints of other libraries, their tokens and their weights, which belong together."""
    recipe = spec.recipe
    source = models.source(recipe.model)
    tokens = recipe.data.partition("@")[2] if data.is_tokenised(recipe.data) else None
    if source != tokens:
        yield Fault(
            "recipe.data",
            f"sentences in the tokens of its model, like sst2@{source}" if source else "a data set without a tokenizer",
            repr(recipe.data),
            "" if source else f"or model = 'hf:{tokens}', whose tokens these are",
        )
    elif source and (padding := tokenised.padding(recipe.data)) != (masked := hf.padding(recipe.model)):
        yield Fault("recipe.model", f"pad_token_id {padding} in its config.json, as its tokenizer pads", str(masked))
    if recipe.init == "pretrained" and source is None:
        yield Fault("recipe.init", "a way to draw weights", "'pretrained'", f"{recipe.model} has no checkpoint")


def _misnamed_layers(spec: Spec) -> Iterable[Fault]:
    """What `prune.include` and `prune.keep` name that the model does not have; or all that it has."""
    try:
        kinds = models.kinds(spec.recipe.model, spec.facts.shape, spec.facts.classes, spec.prune.include)
    except BadInput as error:
        yield Fault("prune.include", error.expected, error.found, error.todo)
        return
    layers = list(kinds)
    known = [kind for kind, _ in spec.prune.rates]
    first, *_, last = layers
    if Round(keep=spec.prune.keep).kept(kinds) == kinds.keys():
        found = f"{', '.join(spec.prune.keep)}, which keeps all {len(layers)} layers"
        yield Fault("prune.keep", "a layer that is left to prune", found, "--set prune.keep=none prunes all layers")
    for entry in spec.prune.keep:
        if entry in known or named([entry], kinds):
            continue
        longer = (f"{entry}.weight", f"{entry}*", f"*{entry}*")
        fitting = [wider for wider in longer if named([wider], kinds) not in (set(), kinds.keys())]
        close = fitting[:1] or difflib.get_close_matches(entry, [*known, *layers], n=1)
        meant = f"did you mean {close[0]}?" if close else "* stands for anything, as in *.conv1.weight"
        yield Fault(
            "prune.keep",
            f"kinds ({', '.join(known)}), or weights of the model ({first}, ..., {last}) or patterns of their names",
            repr(entry),
            meant if entry else "--set prune.keep=none prunes all layers",
        )


def _studies(spec: Spec, members: Members) -> Iterable[Fault]:
    """Studies of what the experiment does not have."""
    setting = Setting(spec, members.methods[spec.method], tuple(members.controls))
    for study, table in asked(spec.study, members.studies):
        yield from study.faults(table, setting)
        if study.of_weights:
            yield from _in_coordinates(spec, members, study.name, getattr(table, "arms", ()))
        if study.of_numbers and models.is_gaussian(spec.recipe.model):
            todo = "it asks single layers, which answer otherwise in each draw: leave the study out"
            yield Fault("recipe.model", f"weights that are numbers beside study.{study.name}", spec.recipe.model, todo)


def _in_coordinates(spec: Spec, members: Members, study: str, arms: Iterable[str]) -> Iterable[Fault]:
    """A study that reads masks as connections, of the ticket or of arms whose masks are on coordinates."""
    todo = "in another basis a mask says nothing of which units are connected"
    if (basis := spec.prune.basis) and BASES[basis].variant:
        yield Fault("prune.basis", f"identity beside study.{study}", repr(basis), todo)
    elif spec.mixes:
        yield Fault("recipe.model", f"one in its own weights beside study.{study}", repr(spec.recipe.model), todo)
    else:
        named = [name for name in arms if name in spec.arms]
        for name in dict.fromkeys(["ticket", *named]):
            if members.arm(name, spec).options.mixes(spec):
                yield Fault(f"study.{study}", "networks in their own weights", repr(name), todo)


_CHECKS = (
    _basis,
    _gaussian,
    _answers,
    _teacher,
    _pixels,
    _length,
    _foreign,
    _data,
    _steps,
    _rewinding,
    _misnamed_layers,
    _optimizer,
    _dynamics,
    _scope,
    _densities,
    _reached,
    _until,
)
_CHECKS_OF_MEMBERS = (
    _endless,
    _drawn_controls,
    _studies,
    _arms,
    _declared_arms,
    _searches,
    _searched_controls,
    _refused_controls,
    _channels,
    _channels_of_coordinates,
    _channel_controls,
    _controls_of_classes,
    _controls_that_descend,
    _units,
    _controls_of_numbers,
    _of_weights,
    _scores,
)
