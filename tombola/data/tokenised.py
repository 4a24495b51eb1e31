"""Sentences in the tokens of a checkpoint of `transformers`: `sst2@PATH-OR-NAME`.

The tokenizer is `tokenizer.json` of the checkpoint, which says everything about it, run by the package `tokenizers`:
how a sentence is cut, and which tokens stand around it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tombola import hub
from tombola.data import sst2, subset
from tombola.data.arrays import TokenArrays
from tombola.data.facts import Facts
from tombola.errors import BadInput, not_installed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORM = "sst2@PATH-OR-NAME or sst2-N@PATH-OR-NAME, in the tokens of a checkpoint"
FILE = "tokenizer.json"
LENGTH = 128  # tokens, as the paper on BERT's tickets has it; longer sentences are cut, shorter ones padded


def parts(name: str) -> tuple[int | None, str]:
    """How many examples of SST-2 `name` asks for, None for all, and whose tokens.

    Raises:
        ValueError: it is not of `FORM`.

    >>> parts("sst2-500@prajjwal1/bert-tiny")
    (500, 'prajjwal1/bert-tiny')
    """
    whole, _, source = name.partition("@")
    base, size = subset.parts(whole)
    if base != sst2.FACTS.name or not source:
        raise ValueError(FORM)
    return size, source


def facts(name: str) -> Facts:
    """What is known of the data set before it is read; its checksum is over the tokenizer's file and SST-2's.

    Raises:
        ValueError: the name is not of `FORM`.
        BadInput: there is no such tokenizer, or the package that reads it is not installed.
    """
    size, source = parts(name)
    path = _file(source)
    tokenizer = _tokenizer(str(path), path.stat().st_mtime_ns)
    what = json.dumps([hashlib.sha256(path.read_bytes()).hexdigest(), sst2.FILES, LENGTH], sort_keys=True)
    whole = replace(
        sst2.FACTS,
        name=f"sst2@{LENGTH}",  # not its tokenizer's path: the same one elsewhere gives the same data
        shape=(LENGTH, tokenizer.get_vocab_size()),
        checksum=hashlib.sha256(what.encode()).hexdigest(),
    )
    return subset.facts(whole, size) if size else whole


def read(name: str, data_dir: Path | None) -> TokenArrays:
    """Tokens [N, LENGTH] and labels of the whole pool and of the test.

    Raises:
        DataError: a file of SST-2 is absent or another one.
        BadInput: as `facts`.
    """
    path = _file(parts(name)[1])
    tokenizer = _tokenizer(str(path), path.stat().st_mtime_ns)
    pool, test = sst2.sentences(data_dir)
    return *_tokens(pool, tokenizer), *_tokens(test, tokenizer)


def padding(name: str) -> int:
    """The token that stands for none.

    Raises:
        BadInput: as `facts`.
    """
    path = _file(parts(name)[1])
    said = _tokenizer(str(path), path.stat().st_mtime_ns).padding
    assert said is not None
    return int(said["pad_id"])


def words(name: str) -> list[str]:
    """What each token stands for, as the tokenizer writes it.

    Raises:
        BadInput: as `facts`.
    """
    path = _file(parts(name)[1])
    tokenizer = _tokenizer(str(path), path.stat().st_mtime_ns)
    return [tokenizer.id_to_token(token) or "" for token in range(tokenizer.get_vocab_size())]


def _tokens(labelled: Sequence[tuple[str, int]], tokenizer: "Tokenizer") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found = tokenizer.encode_batch([sentence for sentence, _ in labelled])
    tokens = np.array([each.ids for each in found], np.int64)
    return tokens, np.array([label for _, label in labelled], np.int64)


def _file(source: str) -> Path:
    path = hub.located(source, FILE)
    if path is None:
        raise BadInput(
            where=source,
            expected=FILE,
            found="none",
            todo="Write it with AutoTokenizer.from_pretrained(...).save_pretrained(...).",
        )
    return path


@lru_cache(maxsize=8)
def _tokenizer(path: str, changed_ns: int) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise not_installed(path, "tokenizers, which reads it", "transformers") from error
    tokenizer = Tokenizer.from_file(path)
    said = tokenizer.padding or {}
    known = (said.get("pad_token"), "[PAD]", "<pad>")
    padding = next((token for token in known if token and tokenizer.token_to_id(token) is not None), None)
    if padding is None:
        raise BadInput(
            where=path,
            expected="a token for padding",
            found="neither [PAD] nor <pad>",
            todo="Texts in batches are of one length; take a checkpoint that was trained with padding.",
        )
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH, pad_id=tokenizer.token_to_id(padding), pad_token=padding)
    return tokenizer
