"""Parse model refs and other names from outside. Every value that this module returns is well-formed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from llm_hf_models.errors import BadInputError, BadRefError
from llm_hf_models.gguf.filenames import is_file_name, is_quant_name
from llm_hf_models.gguf.quant_types import find_type
from llm_hf_models.system.text import clean_text

MAX_REF_CHARS = 1000
MAX_REPO_CHARS = 96  # the Hub's limit: validate_repo_id in huggingface_hub/utils/_validators.py
MAX_PATH_CHARS = 512
MAX_PART_BYTES = 255  # of a folder's or file's name: the limit of common file systems
MAX_REVISION_CHARS = 200
DEFAULT_BRANCH = "main"  # the default of every repo on the Hub
HUB_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")
_SHOWN_FILE = "show_file_info"  # in the address of a page that shows the details of a file
# Parts of the Hub's addresses that select no file.
_IGNORED_PARTS = frozenset(
    {"clone", "download", "inference_api", "inference_provider", "library", "local-app", "not-for-all-audiences"}
)
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]*[A-Za-z0-9_+-])?")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")

# Windows reserves these names for devices, with any extension. Git runs hooks from a folder named .git.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(?:\..*)?|\.git", re.IGNORECASE)
_FORBIDDEN_IN_PATH = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')

_HINT = (
    "Write owner/name, owner/name:Q4_K_M, owner/name:file.gguf, owner/name@revision:Q4_K_M, hf://owner/name"
    " or https://huggingface.co/owner/name."
)


def _make_ref_error(text: str, why: str) -> BadRefError:
    return BadRefError(f"{clean_text(text, 80)!r} is not a model ref", cause=why, hint=_HINT)


@dataclass(frozen=True, order=True)
class RepoId:
    """A repo on the Hub, `owner/name`. The constructor rejects unsafe names."""

    owner: str
    name: str

    def __post_init__(self) -> None:
        text = f"{self.owner}/{self.name}"
        if len(text) > MAX_REPO_CHARS:
            raise _make_ref_error(text, f"A repo's name has at most {MAX_REPO_CHARS} characters.")
        if self.owner.lower() in HUB_HOSTS:
            raise _make_ref_error(text, f"{self.owner} is the Hub's host, not an owner.")
        for part in (self.owner, self.name):
            if not _NAME.fullmatch(part) or ".." in part or "--" in part or part.lower().endswith(".git"):
                raise _make_ref_error(text, f"{clean_text(part, 80)!r} is not a valid owner or name on the Hub.")

    @classmethod
    def parse(cls, text: str) -> RepoId:
        """Parse `owner/name`.

        Raises:
            BadRefError: the text has another form.
        """
        owner, slash, name = text.partition("/")
        if not slash or "/" in name:
            raise _make_ref_error(text, "A repo has the form owner/name.")
        return cls(owner, name)

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True, order=True)
class RepoFile:
    """A file's path in a repo: relative, `/`-separated, without `.` or `..`, and safe to join to a folder."""

    path: str

    def __post_init__(self) -> None:
        if not 0 < len(self.path) <= MAX_PATH_CHARS:
            raise _make_ref_error(self.path, f"A file's path has 1 to {MAX_PATH_CHARS} characters.")
        if _FORBIDDEN_IN_PATH.search(self.path):
            raise _make_ref_error(self.path, "A file's path has no control characters, backslashes or any of <>:\"|?*.")
        for part in self.path.split("/"):
            if problem := _find_problem(part):
                raise _make_ref_error(self.path, f"{clean_text(part, 80)!r} {problem}.")

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return self.path


def _find_problem(part: str) -> str | None:
    """Return why some file systems can't store a file or folder of this name, or None if all can."""
    try:
        size = len(part.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return "is not valid Unicode"
    if size == 0 or part in (".", ".."):
        return "is not a valid part of a file's path"
    if size > MAX_PART_BYTES:
        return f"has more than {MAX_PART_BYTES} bytes"
    if part.endswith("."):
        return "ends with a dot"
    if part != part.strip():
        return "starts or ends with a space"
    return "is a reserved name" if _RESERVED.fullmatch(part) else None


def parse_revision(text: str) -> str:
    """Validate and return a branch, tag, commit or `refs/pr/N`.

    Raises:
        BadRefError: git would reject the name.
    """
    safe = _REVISION.fullmatch(text) and ".." not in text and "//" not in text and not text.endswith(".lock")
    if not safe or len(text) > MAX_REVISION_CHARS:
        raise BadRefError(f"{clean_text(text, 80)!r} is not a valid branch, tag or commit")
    return text


def is_commit(revision: str) -> bool:
    """Return whether a revision is a full commit hash, which never moves."""
    return _COMMIT.fullmatch(revision) is not None


def parse_alias(text: str) -> str:
    """Validate and return an alias.

    Raises:
        BadInputError: the alias can't be typed after `llm -m`, or would hide a model's id.
    """
    if not _ALIAS.fullmatch(text) or text.startswith("hf/"):
        raise BadInputError(
            f"{clean_text(text, 60)!r} is not a valid alias",
            hint="Use up to 100 letters, digits and any of ._:/-, and don't start with hf/.",
        )
    return text


def _find_shown_file(text: str, query: str) -> RepoFile | None:
    """Return the file that the query of a page's address names.

    Raises:
        BadRefError: the query has an unknown part, or names several files.
    """
    parts = parse_qsl(query, keep_blank_values=True)
    if unknown := [name for name, _ in parts if name not in {_SHOWN_FILE, *_IGNORED_PARTS}]:
        raise _make_ref_error(text, f"The part {clean_text(unknown[0], 40)!r} after the ? is unknown. Remove it.")
    shown = {path for name, path in parts if name == _SHOWN_FILE}
    if len(shown) > 1:
        raise _make_ref_error(text, f"It names {len(shown)} files. Name one.")
    return RepoFile(shown.pop()) if shown else None


def _count_revision_parts(parts: Sequence[str]) -> int:
    """Return the number of parts of a revision at the start of a path: 3 for `refs/pr/1`, otherwise 1."""
    return 3 if list(parts[:2]) in (["refs", "pr"], ["refs", "convert"]) else 1


@dataclass(frozen=True)
class ModelRef:
    """A repo, and optionally a revision and a quantization or file of it.

    `revision` None means the default branch. At most one of `quant` and `file` is set. `host` is
    the host of a URL.
    """

    repo: RepoId
    revision: str | None = None
    quant: str | None = None
    file: RepoFile | None = None
    host: str | None = field(default=None, compare=False)  # never contacted: the URL of a mirror is accepted too

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Parse any form that a user may type or paste.

        Args:
            text: `owner/name`, `owner/name:QUANT`, `owner/name:file.gguf`, `owner/name@revision:…`,
                the same after `hf://` or `hf.co/`, or the URL of a page on the Hub, including its
                `tree`, `blob` and `resolve` pages.

        Raises:
            BadRefError: the text has none of these forms. The cause names the problem.
        """
        if not text.strip() or len(text) > MAX_REF_CHARS:
            raise _make_ref_error(text, f"A model ref has 1 to {MAX_REF_CHARS} characters.")
        try:
            return cls._parse(text.strip())
        except BadRefError as error:  # quote the whole text, not only the invalid part
            raise _make_ref_error(text, error.cause or f"{error.message}.") from None

    @classmethod
    def _parse(cls, text: str) -> ModelRef:
        lower = text.lower()
        if lower.startswith(("http://", "https://")):
            return cls._parse_url(text)
        if lower.startswith(tuple(f"{host}/" for host in HUB_HOSTS)):
            return cls._parse_url(f"https://{text}")
        if lower.startswith("hf://"):
            return cls._parse_uri(text[len("hf://") :])
        owner_and_name = re.split("[:@]", text, maxsplit=1)[0]
        if lower.startswith("hf/") and owner_and_name.count("/") > 1:  # otherwise, hf is the owner
            text = text[len("hf/") :]
        return cls._parse_parts(text)

    @classmethod
    def _parse_parts(cls, text: str) -> ModelRef:
        head, colon, rest = text.partition(":")
        name, at, revision = head.partition("@")
        repo = RepoId.parse(name)
        revision_or_none = parse_revision(revision) if at else None
        if not colon:
            return cls(repo, revision_or_none)
        if not rest:
            raise _make_ref_error(text, "A quantization or a file must follow the colon.")
        if "/" in rest or is_file_name(rest):
            return cls(repo, revision_or_none, file=RepoFile(rest))
        if not is_quant_name(rest):
            if not re.search(r"[\s@:]", rest):  # a file's name without suffix, such as `modèle-v1+Q8_0`
                return cls(repo, revision_or_none, file=RepoFile(rest))
            raise _make_ref_error(text, f"{clean_text(rest, 80)!r} is neither a quantization nor a file.")
        return cls(repo, revision_or_none, quant=rest)

    @classmethod
    def _parse_uri(cls, text: str) -> ModelRef:
        """Parse the text after `hf://`.

        Accepts the forms above, and huggingface_hub's `owner/name@revision/path/to/file`.
        """
        text = text.removeprefix("models/")
        if text.startswith(("datasets/", "spaces/", "buckets/")):
            raise _make_ref_error(text, f"It names one of the Hub's {text.partition('/')[0]}, not a model.")
        if ":" in text or text.count("/") < 2:  # noqa: PLR2004 - owner/name
            return cls._parse_parts(text)
        owner, name, *path = text.split("/")
        name, at, revision = name.partition("@")
        if at and _count_revision_parts([revision, *path]) > 1:
            revision, path = "/".join([revision, *path[:2]]), path[2:]
        file = RepoFile("/".join(path)) if path else None
        return cls(RepoId(owner, name), parse_revision(unquote(revision)) if at else None, file=file)

    @classmethod
    def _parse_url(cls, text: str) -> ModelRef:
        try:
            address = urlsplit(text)
            host, parts = address.hostname, [unquote(part) for part in address.path.split("/") if part]
            shown = _find_shown_file(text, address.query)
        except ValueError:
            raise _make_ref_error(text, "It is not a valid URL.") from None
        if shown is not None and parts[2:3] == ["tree"]:  # the list of files is only the page behind it
            parts[2] = "blob"
            parts[_count_revision_parts(parts[3:]) + 3 :] = []
        ref = cls._parse_path(text, parts)
        if shown is not None and (ref.quant is not None or ref.file not in (None, shown)):
            raise _make_ref_error(text, f"It names two files: {_SHOWN_FILE} is {shown}.")
        return replace(ref, file=shown or ref.file, host=host)

    @classmethod
    def _parse_path(cls, text: str, parts: list[str]) -> ModelRef:
        if parts[:1] in (["datasets"], ["spaces"]):
            raise _make_ref_error(text, f"It names one of the Hub's {parts[0]}, not a model.")
        if len(parts) > 1 and (":" in parts[1] or "@" in parts[1]):
            return cls._parse_parts("/".join(parts))
        if len(parts) == 2:  # noqa: PLR2004
            return cls(RepoId(parts[0], parts[1]))
        if len(parts) >= 4 and parts[2] in ("tree", "blob", "resolve", "raw"):  # noqa: PLR2004
            return cls._parse_page(RepoId(parts[0], parts[1]), parts[2], parts[3:])
        raise _make_ref_error(text, "It is not the URL of a model's page.")

    @classmethod
    def _parse_page(cls, repo: RepoId, page: str, rest: list[str]) -> ModelRef:
        size = _count_revision_parts(rest)
        path, named = "/".join(rest[size:]), parse_revision("/".join(rest[:size]))
        # Every page's URL contains a branch, so the default branch in a URL is not the user's choice.
        revision = None if named == DEFAULT_BRANCH else named
        if not path:
            return cls(repo, revision)
        if page == "tree":
            folder = path.rpartition("/")[2]
            if not find_type(folder).name or not is_quant_name(folder):
                raise _make_ref_error(path, "It is the page of a folder. Name a quantization or a file instead.")
            return cls(repo, revision, quant=folder)
        return cls(repo, revision, file=RepoFile(path))

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        if self.file and "/" not in self.file.path and not is_file_name(self.file.path):
            revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
            return f"hf://{self.repo}{revision}/{self.file}"  # after a colon, it would be parsed as a quantization
        suffix = self.quant or (self.file and self.file.path)
        return f"{self.repo}{revision}" + (f":{suffix}" if suffix else "")
