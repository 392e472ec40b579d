"""Read the headers of a model on the Hub by range requests: that of its file, or those of all its shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm_hf_models.context import Context
from llm_hf_models.errors import HfModelsError, InvalidGgufError, TimedOutError
from llm_hf_models.gguf.header import GgufHeader, name_file_in_errors, read_header
from llm_hf_models.gguf.validate import ValidationReport, check_header, check_shard_headers, merge_headers
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.remote_file import RemoteFile
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.models import metadata_cache
from llm_hf_models.system.parallel import compute_at_once
from llm_hf_models.system.units import format_size

MAX_SHARDS = 256  # whose headers are read; the figures of a model with more of them are unknown


def read_remote_header(
    context: Context, hub: Hub, repo: RepoId, details: RepoDetails, path: str
) -> tuple[GgufHeader, int]:
    """Read the header of a GGUF file on the Hub by range requests.

    Returns:
        The header, and the number of bytes downloaded for it.
    """
    file, name = details.get_file(RepoFile(path)), RepoFile(path)
    now = context.settings()

    def show_progress(received: int) -> None:
        if context.show_activity is not None:
            context.show_activity(f"Reading the header… {format_size(received)}")

    def read() -> tuple[GgufHeader, int]:
        seconds = min(now.header_seconds, round(context.count_seconds_left(), 1))
        with RemoteFile(
            lambda: hub.locate(repo, name, details.commit),
            name=path,
            size=file.size,
            timeout=now.metadata_seconds,
            connect_timeout=now.connect_seconds,
            total_seconds=seconds,
            progress=show_progress,
        ) as remote:
            header = read_header(remote, file_bytes=file.size, seconds=seconds)
            return header, remote.fetched_bytes

    with name_file_in_errors(f"{path} of {repo}"):
        return metadata_cache.request_with_retry(context, read)


@dataclass(frozen=True)
class RemoteHeaders:
    """The headers of a model on the Hub, each with the path and the size of its file.

    If `problem` is set, it is the reason why there is only the header of the first shard.
    """

    shards: tuple[tuple[str, GgufHeader, int], ...]
    fetched_bytes: int
    problem: HfModelsError | None = None

    def merge(self) -> GgufHeader:
        """Return a header of the whole model, or of its first shard if there is a problem."""
        return merge_headers([header for _, header, _ in self.shards])

    def check(self) -> ValidationReport:
        """Validate the headers, as far as they were read."""
        if self.problem is None:
            return check_shard_headers(self.shards)
        _, header, size = self.shards[0]
        return check_header(header, file_bytes=size)


def read_remote_headers(
    context: Context, hub: Hub, repo: RepoId, details: RepoDetails, paths: Sequence[str]
) -> RemoteHeaders:
    """Read the headers of all shards of a model. Those after the first are read at once, within `header_seconds`.

    Raises:
        HfModelsError: The first header can't be read.
    """
    first = read_remote_header(context, hub, repo, details, paths[0])
    others = _read_others(context, hub, repo, details, paths[1:])
    problem = others if isinstance(others, HfModelsError) else None
    found = [first] if isinstance(others, HfModelsError) else [first, *others]
    shards = tuple(
        (path, header, details.get_file(RepoFile(path)).size) for path, (header, _) in zip(paths, found, strict=False)
    )
    return RemoteHeaders(shards, sum(fetched for _, fetched in found), problem)


def _read_others(
    context: Context, hub: Hub, repo: RepoId, details: RepoDetails, paths: Sequence[str]
) -> list[tuple[GgufHeader, int]] | HfModelsError:
    """Return the headers of the shards after the first, or the reason why one of them is missing."""
    if len(paths) >= MAX_SHARDS:
        return HfModelsError(f"{repo} has {len(paths) + 1} shards, but at most {MAX_SHARDS} headers are read")
    seconds = min(context.settings().header_seconds, context.count_seconds_left())
    # Without a user to notify, a request would not be retried.
    silent = replace(context, notify=lambda _text: None, show_activity=None, is_patient=False).limit_time(seconds)

    def read(path: str) -> tuple[GgufHeader, int] | HfModelsError:
        try:
            return read_remote_header(silent, hub, repo, details, path)
        except HfModelsError as error:
            return error

    found = compute_at_once(read, paths, seconds=seconds)
    late = {path: TimedOutError(f"The header of {path} did not arrive within {seconds:g} s") for path in paths}
    results = [found.get(path, late[path]) for path in paths]
    errors = [result for result in results if isinstance(result, HfModelsError)]
    # An invalid header matters more than one that may be readable later.
    errors.sort(key=lambda error: not isinstance(error, InvalidGgufError))
    return errors[0] if errors else [result for result in results if not isinstance(result, HfModelsError)]
