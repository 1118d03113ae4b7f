"""What the Hub's client raises, as builtin errors whose sentence says what was asked, what there is and what to do.

Tokens are never part of a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Literal, TypeAlias

from huggingface_hub import HfApi, get_token

# HTTPError is the base of httpx or httpx2, whichever the client was built on.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

RepoType = Literal["model", "dataset"]
Token: TypeAlias = str | bool | None

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class Request:
    """What was asked of the Hub.

    Args:
        repo_id: `owner/name`.
        repo_type: "model" or "dataset".
        revision: Branch, tag or commit; None for the main branch.
        subfolder: Folder in the repo.
        wanted: File that was asked for, if one was.
        token: Used to look up what exists instead; never shown.
    """

    repo_id: str
    repo_type: RepoType
    revision: str | None = None
    subfolder: str = ""
    wanted: str = ""
    token: Token = None


@contextmanager
def sentences(request: Request) -> Iterator[None]:
    """Turns the client's errors inside into builtin ones; others pass.

    Raises:
        FileNotFoundError: For a repo, revision or file that is not there, or not visible with this login.
        PermissionError: For a refused token, a gated repo, or a repo one may not write to.
        ConnectionError: For a Hub that cannot be reached, answers with an error, or breaks off.
        ValueError: For a name that is no repo id, a token that cannot be one, or files the Hub refuses.
    """
    _check_token(request.token)
    try:
        yield
    except (HTTPError, HFValidationError, EntryNotFoundError, OfflineModeIsEnabled, JSONDecodeError) as error:
        raise _translated(error, request) from error
    except RuntimeError as error:  # of uploads of large files, and of the client's own transfer library
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and not isinstance(cause, HTTPError | ConnectionError):
            raise cause from error  # a file here, not the Hub
        raise _translated(cause, request) from error
    except ValueError as error:  # the client wraps a failed forced download
        if not isinstance(error.__cause__, HTTPError | OfflineModeIsEnabled):
            raise
        raise _translated(error.__cause__, request) from error


def _check_token(given: Token) -> None:
    """Refuses what cannot be sent, for libraries would show it when they fail at it."""
    token = given if isinstance(given, str) else get_token() if given is not False else None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ValueError(
            "the Hub token contains characters that no token has (a line break?); copy it again from "
            "https://huggingface.co/settings/tokens"
        )


def _translated(error: BaseException, request: Request) -> Exception:
    """The builtin error that stands for one of the client's."""
    name = request.repo_id
    if isinstance(error, HFValidationError):
        return ValueError(f"{name!r} is no name of a Hub repo; give it as owner/name")
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return _unreachable(error, request)
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{name} is gated; ask for access at {_address(request)}, then {_LOG_IN} as the user who got it"
        )
    if isinstance(error, RepositoryNotFoundError):
        return _no_repo(request)
    if isinstance(error, RevisionNotFoundError):
        return _no_revision(request)
    if isinstance(error, EntryNotFoundError):
        return _no_file(request)
    return _refused(error, request)


def _refused(error: BaseException, request: Request) -> Exception:
    """Errors that only their status tells apart, answers that are none of a Hub, and connections that broke."""
    if isinstance(error, JSONDecodeError):
        return ConnectionError(
            f"{HfApi().endpoint} does not answer as the Hub does; check HF_ENDPOINT and proxies"
        )
    if not isinstance(error, HfHubHTTPError):
        return ConnectionError(
            f"the connection to the Hub failed while working on {request.repo_id} ({type(error).__name__}); try "
            "again, what has arrived is kept"
        )
    status, said = error.response.status_code, error.server_message
    because = f" ({said})" if said else ""
    if status == 401:
        return PermissionError(f"the Hub refused the login for {request.repo_id}{because}; {_LOG_IN}")
    if status == 403:
        return PermissionError(
            f"this login may not do that with {request.repo_id}{because}; use a token with write access to it, or "
            "propose the change with create_pr"
        )
    if status in (400, 413, 422):
        return ValueError(f"the Hub refused what was sent to {request.repo_id}{because}; correct it")
    return ConnectionError(
        f"the Hub answered with status {status} for {request.repo_id}{because}; no half-written files are left, try "
        "again later"
    )


def _unreachable(error: BaseException, request: Request) -> Exception:
    """The Hub was not asked, or did not answer, and the cache does not hold the file."""
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError):
        return _refused(cause, request)
    if isinstance(cause, HTTPError):
        return ConnectionError(
            f"the Hub at {HfApi().endpoint} could not be reached ({type(cause).__name__}), and {request.repo_id} is "
            "not in the cache; check the connection"
        )
    if cause is not None and not isinstance(cause, OfflineModeIsEnabled):
        return ConnectionError(
            f"{HfApi().endpoint} does not answer as the Hub does; check HF_ENDPOINT and proxies"
        )
    if request.wanted:
        return FileNotFoundError(
            f"{_wanted(request)} is not in the cache, and the Hub may not be asked (local_files_only, or "
            "HF_HUB_OFFLINE is set); load it once online"
        )
    return ConnectionError(f"HF_HUB_OFFLINE is set, so nothing can be sent to {request.repo_id}; unset it")


def _no_repo(request: Request) -> FileNotFoundError:
    other: RepoType = "dataset" if request.repo_type == "model" else "model"
    hint = ""
    with suppress(HTTPError, OSError):
        if HfApi(token=request.token).repo_exists(request.repo_id, repo_type=other):
            hint = f"; there is a {other} of that name"
    return FileNotFoundError(
        f"there is no {request.repo_type} repo {request.repo_id} on the Hub that this login can see{hint}; check the "
        f"name, and if it is private {_LOG_IN}"
    )


def _no_revision(request: Request) -> FileNotFoundError:
    known: list[str] = []
    with suppress(HTTPError, OSError):
        refs = HfApi(token=request.token).list_repo_refs(request.repo_id, repo_type=request.repo_type)
        known = [ref.name for ref in (*refs.branches, *refs.tags)]
    there = f"it has {', '.join(known)}" if known else "its branches and tags could not be listed"
    return FileNotFoundError(
        f"{request.repo_id} has no revision {request.revision!r}; {there}; give a branch, a tag or a whole commit hash"
    )


def _no_file(request: Request) -> FileNotFoundError:
    """Names the folders that do hold such a file."""
    folders: list[str] = []
    with suppress(HTTPError, OSError):
        files = HfApi(token=request.token).list_repo_files(
            request.repo_id, repo_type=request.repo_type, revision=request.revision
        )
        folders = [path.rpartition("/")[0] for path in files if path.rpartition("/")[2] == request.wanted]
    places = ", ".join(repr(folder) if folder else "the top" for folder in folders)
    return FileNotFoundError(
        f"{_wanted(request)} does not exist; "
        + (f"the repo has one in {places}, choose it with subfolder" if folders else "the repo has none")
    )


def _wanted(request: Request) -> str:
    path = "/".join(part for part in (request.subfolder, request.wanted) if part)
    return f"{path} of {request.repo_id} at revision {request.revision or 'main'}"


def _address(request: Request) -> str:
    kind = "datasets/" if request.repo_type == "dataset" else ""
    return f"{HfApi().endpoint}/{kind}{request.repo_id}"
