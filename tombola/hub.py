"""Files to and from a repository of the Hugging Face hub, through its own client library (the extra `hub`).

The library knows where the hub is (`HF_ENDPOINT` names another) and who you are (`hf auth login`, or `HF_TOKEN`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.errors import BadInput, TombolaError, not_installed

if TYPE_CHECKING:
    from types import ModuleType

ANSWERS_WITHIN_S = 5


def push(
    repo: str,
    content: Mapping[str, bytes],
    message: str,
    *,
    revision: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
) -> str:
    """Put files into `repo` in one commit, making the repository where it is not there yet; the commit's address.

    Raises:
        BadInput, TombolaError: as `Ticket.push`.
    """
    client = _client()
    with _explained(client, repo, revision):
        api = client.HfApi(endpoint=endpoint)
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [client.CommitOperationAdd(name, data) for name, data in content.items()]
        return str(api.create_commit(repo, operations, commit_message=message, revision=revision).commit_url)


def pull(repo: str, file: str, *, revision: str | None = None, endpoint: str | None = None) -> Path:
    """The file of `repo`, in the library's cache; without a network what it got there before.

    Raises:
        BadInput, TombolaError: as `Ticket.pull`.
    """
    client = _client()
    with _explained(client, repo, revision):
        away = _away(client, client.hf_hub_url(repo, file, revision=revision, endpoint=endpoint))
        try:
            kept = away is not None
            return Path(client.hf_hub_download(repo, file, revision=revision, endpoint=endpoint, local_files_only=kept))
        except client.errors.LocalEntryNotFoundError as error:
            raise TombolaError(
                f"the hub cannot be reached for {_named(repo, revision)}, and nothing of it is kept here: "
                f"{away or error}"
            ) from error


def located(source: str, *files: str) -> Path | None:
    """The first of `files` in the folder `source`, or in the hub's repository of that name; None where none is there.

    What the library has kept of the repository is taken as it is; only what is not there is fetched.

    Raises:
        BadInput: there is no such folder and no such repository, or neither a copy nor a way to the hub.
        TombolaError: the hub answers with an error.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return next((folder / file for file in files if (folder / file).is_file()), None)
    client = _client()
    away: Exception | None = None
    with _explained(client, source, None):
        for kept, file in product((True, False), files):
            try:
                if not kept and (away := _away(client, client.hf_hub_url(source, file))):
                    break
                return Path(client.hf_hub_download(source, file, local_files_only=kept))
            except client.errors.HFValidationError as error:
                raise _neither(source) from error
            except client.errors.LocalEntryNotFoundError as error:
                if not kept:
                    away = error
                    break
            except client.errors.EntryNotFoundError:
                continue
        if away:
            raise _no_copy(source, files, away) from away
    return None


def _neither(source: str) -> BadInput:
    return BadInput(
        where=source,
        expected="a folder, or the name of a repository on the Hugging Face hub",
        found="neither",
        todo="Check the path.",
    )


def _no_copy(source: str, files: Sequence[str], away: Exception) -> BadInput:
    return BadInput(
        where=f"the hub's {source}",
        expected=" or ".join(files),
        found=f"no copy of it here, and no way to the hub ({away})",
        todo=f"`hf download {source}` where there is one, or name a folder that save_pretrained wrote.",
    )


def _away(client: "ModuleType", address: str) -> Exception | None:
    """Why the hub cannot be reached; None where it answers, whatever it says.

    One short try, as the library makes six over half a minute, with a line for each, before it looks into its cache.
    """
    try:
        client.utils.get_session().head(address, timeout=ANSWERS_WITHIN_S)
    except _unreachable(client) as error:
        return error
    return None


def _unreachable(client: "ModuleType") -> tuple[type[Exception], ...]:
    # What cannot be reached is said by the HTTP library under the client, which has changed twice: by its root error.
    return OSError, client.errors.OfflineModeIsEnabled, client.errors.HfHubHTTPError.__bases__[0]


def _named(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision}" if revision else repo


def _client() -> "ModuleType":
    try:
        import huggingface_hub.errors
    except ImportError as error:
        raise not_installed("the Hugging Face hub", "huggingface_hub, its client library", "hub") from error
    return huggingface_hub


@contextmanager
def _explained(client: "ModuleType", repo: str, revision: str | None) -> Iterator[None]:
    known, where = client.errors, _named(repo, revision)

    def bad(expected: str, found: str, todo: str) -> BadInput:
        return BadInput(where=f"the hub's {where}", expected=expected, found=found, todo=todo)

    login = "`hf auth login` or HF_TOKEN says who you are."
    try:
        yield
    except known.HFValidationError as error:
        raise bad("user/name", repo, "Letters, digits, -, _ and . on both sides of one /.") from error
    except known.GatedRepoError as error:
        raise bad("a repository that you may read", "a gated one", f"Ask for access on its page. {login}") from error
    except known.RepositoryNotFoundError as error:
        raise bad("a repository", "none that you may see", f"Check the name; where it is private: {login}") from error
    except known.RevisionNotFoundError as error:
        raise bad("a branch, tag or commit", "none", "Check its name; a branch to push to must exist.") from error
    except known.EntryNotFoundError as error:
        raise bad("a ticket's file", "a repository without one", "`Ticket.push` puts one there.") from error
    except known.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise bad("the right to do that", f"a refusal ({status})", f"The token must allow it: {login}") from error
        raise TombolaError(f"the hub answers for {where}: {error}") from error
    except known.LocalTokenNotFoundError as error:
        raise bad("a token", "none", login) from error
    except _unreachable(client) as error:
        raise TombolaError(f"the hub cannot be reached for {where}: {error}") from error
