"""Pre-trained models of Hugging Face's `transformers` (the extra of that name), as classifiers of texts.

Their weights keep the names that they have there. A checkpoint is a folder that `save_pretrained` wrote, or a
repository of the hub; it is read as safetensors alone, and none of its code is executed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola import files, hub
from tombola.errors import BadInput, not_installed
from tombola.models.layer import Layer

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

SEQUENTIAL = False
FORM = "hf:PATH-OR-NAME, like hf:bert-base-uncased, a checkpoint of transformers"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def source(name: str) -> str:
    """The folder, or the name on the hub, that a model's name names.

    Raises:
        ValueError: it is not of `FORM`.
    """
    if not name.startswith("hf:") or name == "hf:":
        raise ValueError(FORM)
    return name.removeprefix("hf:")


def checkpoint(name: str) -> str:
    """SHA-256 over `config.json` and the files of weights.

    Raises:
        BadInput: a file is absent, or the weights are there as pickles only.
    """
    # The weights first: what is fetched from the hub is its newest, and then so is the other file.
    files = [*_weights(name), _located(name, "config.json")]
    return hashlib.sha256("".join(_digest(*_stamp(path)) for path in files).encode()).hexdigest()


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs and gives such answers."""
    source(name)
    if len(shape) != 2:
        raise ValueError(f"a model for images; {name} reads texts in its own tokens, like sst2@{source(name)}")
    length, vocabulary = shape
    config = _config(name, classes)
    most = getattr(config, "max_position_embeddings", None) or length
    if length > most:
        raise ValueError(f"a model of texts of {length} tokens; {name} reads {most}")
    if vocabulary > config.vocab_size:
        raise ValueError(f"a model that knows {vocabulary:,} tokens; {name} knows {config.vocab_size:,}")
    if config.pad_token_id is None:
        raise ValueError(f"a checkpoint whose config.json has a pad_token_id; that of {name} has none")
    layers(name, shape, classes)


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """Its layers, by the name of their weight: of the model made without memory for its weights.

    Raises:
        ValueError: it has matrices in other layers than linear ones and embeddings, which would never be pruned.
    """
    return _layers(name, _stamp(_located(name, "config.json")), shape[0], classes)


@lru_cache(maxsize=8)
def _layers(name: str, _: tuple[str, int, int], length: int, classes: int) -> dict[str, Layer]:
    import torch

    from tombola.prunable import prunable

    with torch.device("meta"):
        model = _classifier(name, classes)
    kinds, parameters = prunable(model), dict(model.named_parameters())
    aside = {f"{path}.weight" for path, module in model.named_modules() if type(module).__name__ == "Conv1D"}  # GPT-2's
    matrices = [key for key, value in parameters.items() if value.dim() > 1]
    others = [key for key in matrices if kinds.get(key, "conv") == "conv" or key in aside]
    if others:
        raise ValueError(f"a model whose matrices are in linear layers and embeddings; {name} has {others[0]}")
    inner = f"{model.base_model_prefix}."

    def layer(key: str) -> Layer:
        kind, (rows, columns) = kinds[key], parameters[key].shape
        each = length if key.startswith(inner) and ".pooler." not in key else 1  # what reads one token, and what all
        return Layer(kind, *((rows, columns) if kind == "embedding" else (columns, rows)), height=each)

    return {key: layer(key) for key in kinds}


def products(name: str, shape: tuple[int, ...]) -> int:
    """The multiply-adds of attention, as `transformer.products` has them."""
    config: Any = _config(name, classes=2)
    return 2 * shape[0] ** 2 * int(config.hidden_size) * int(config.num_hidden_layers)


def build(name: str, shape: tuple[int, ...], classes: int) -> "nn.Module":
    """The network, its weights not those of the checkpoint: it takes tokens [N, T] and gives scores [N, classes]."""
    model: nn.Module = _classifier(name, classes)
    # Hooks and no module around it: the names of its weights, and so tickets, are those of the library's own model.
    model.register_forward_pre_hook(_attend, with_kwargs=True)
    model.register_forward_hook(_scores)
    return model


def _attend(model: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return given, named | {"attention_mask": (given[0] != model.config.pad_token_id).long()}


def _scores(model: Any, given: tuple[Any, ...], output: Any) -> Any:
    return output.logits


def padding(name: str) -> int | None:
    """The token that stands for none, to which the model does not attend."""
    found: int | None = _config(name, classes=2).pad_token_id
    return found


def load(name: str, model: "nn.Module") -> None:
    """Write into `model`, as `build` made it, all that the checkpoint has; what it lacks, a head, stays as it is.

    Raises:
        BadInput: the checkpoint's weights are not this model's, or not to be had without executing code.
    """
    _weights(name)
    config: Any = model.config
    library = _library()
    try:
        with _quiet(library):
            loaded, report = library.AutoModelForSequenceClassification.from_pretrained(
                _located(name, "config.json").parent,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # the library raises whatever its parts do
        raise _bad(name, "the weights that its config.json tells of", f"{type(error).__name__}: {error}") from error
    inner = f"{loaded.base_model_prefix}."
    own = model.state_dict()
    # Before its version 5 the library leaves the beginning of a name out where all of a checkpoint's names lack it.
    missing = {key if key in own else inner + key for key in report["missing_keys"]}
    lacking = sorted(key for key in missing if key.startswith(inner) and ".pooler." not in key)
    if lacking:
        raise _bad(name, f"weights of a {type(loaded).__name__}", f"no {', '.join(lacking[:3])}")
    has = loaded.state_dict()
    for key, value in own.items():
        if key not in missing:
            value.copy_(has[key])


def _classifier(name: str, classes: int) -> Any:
    return _library().AutoModelForSequenceClassification.from_config(_config(name, classes)).float()


def _config(name: str, classes: int) -> Any:
    path, library = _located(name, "config.json"), _library()
    try:
        config = library.AutoConfig.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _bad(name, f"a model that transformers {library.__version__} has the code of", str(error)) from error
    config.num_labels = classes
    for key, value in vars(config).items():
        # As with all models here: a training is a function of its seeds and the step, and torch's dropout draws from
        # the process.
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    return config


def _weights(name: str) -> list[Path]:
    """The files of weights: one, or the shards that an index lists."""
    path = hub.located(source(name), WEIGHTS, INDEX)
    if path and path.name == WEIGHTS:
        return [path]
    if path:
        try:
            named = {*files.parsed(path.read_text(encoding="utf-8"))["weight_map"].values()}
            shards = sorted(each for each in named if isinstance(each, str))
            if len(shards) != len(named):
                raise TypeError("shards without names")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad(name, f"{INDEX}, a table of shards", f"a damaged one ({error})") from error
        return [path, *(_located(name, shard) for shard in shards)]
    raise BadInput(
        where=name,
        expected=f"weights as {WEIGHTS}",
        found="none; pickles, which can execute code, are not read",
        todo="Load it where you trust it, and write it anew with save_pretrained.",
    )


def _located(name: str, file: str) -> Path:
    path = hub.located(source(name), file)
    if path is None:
        raise _bad(name, file, "none")
    return path


def _bad(name: str, expected: str, found: str) -> BadInput:
    todo = "A checkpoint is a folder that save_pretrained wrote, or the name of a repository on the hub."
    return BadInput(where=name, expected=expected, found=found, todo=todo)


def _stamp(path: Path) -> tuple[str, int, int]:
    """What tells a file from what it was before, without reading it."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _digest(path: str, size: int, changed_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _library() -> "ModuleType":
    try:
        import transformers
    except ImportError as error:
        raise not_installed("hf:", "transformers, which knows pre-trained models", "transformers") from error
    library: ModuleType = transformers
    return library


@contextmanager
def _quiet(library: "ModuleType") -> Iterator[None]:
    """Without the library's bars, and its news that the head is new."""
    log = library.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
