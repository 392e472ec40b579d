"""Read and write the signed part of a signature: an in-toto statement with the manifest of the OMS predicate."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_hf_models.errors import BadSignatureError
from llm_hf_models.signatures.strict_json import check_object, get_list, get_object, get_text, parse_object
from llm_hf_models.signatures.types import Algorithm, SignedFile
from llm_hf_models.system.text import clean_text

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
# The paths that signers and verifiers leave out.
DEFAULT_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")

MAX_FILES = 50_000
MAX_IGNORED = 1000
MAX_PATH_BYTES = 1024
SINGLE_FILE = "."  # the path that the reference implementation writes for a model that is one file
HEX_LENGTHS: dict[Algorithm, int] = {"sha256": 64, "blake2b": 128, "blake3": 64}
_SPELLINGS: dict[str, Algorithm] = {"sha256": "sha256", "blake2b": "blake2b", "blake2": "blake2b", "blake3": "blake3"}
_HEX = re.compile(r"[0-9a-f]+")
_RANGE = re.compile(r"(.+):(0|[1-9][0-9]{0,18}):([1-9][0-9]{0,18})", re.DOTALL)
_FORBIDDEN_IN_PATH = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True)
class Statement:
    """A parsed statement."""

    name: str
    digest: str
    files: tuple[SignedFile, ...]
    algorithm: Algorithm
    shard_bytes: int | None
    ignored: tuple[str, ...]


def encode_for_signing(payload: bytes) -> bytes:
    """Return the bytes that a DSSE signature is made over (its pre-authentication encoding)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def split_into_ranges(size: int, shard_bytes: int, limit: int = MAX_FILES) -> Iterator[tuple[int, int]]:
    """Return the start and end of each shard of a file. There is one more than `limit` if the file has more."""
    for start in range(0, min(size, (limit + 1) * shard_bytes), shard_bytes):
        yield start, min(start + shard_bytes, size)


def compute_root_digest(digests: Iterable[str]) -> str:
    """Return the sha256 over the bytes of the digests, one after another."""
    root = hashlib.sha256()
    for digest in digests:
        root.update(bytes.fromhex(digest))
    return root.hexdigest()


def build_statement(name: str, digests: Mapping[str, str], ignored: Sequence[str] = DEFAULT_IGNORED) -> bytes:
    """Return the statement about whole files.

    Args:
        name: the name of the model, for people.
        digests: the sha256 of each file, by its path relative to the model's folder.
        ignored: paths that were left out.

    Raises:
        BadSignatureError: there is no file, or a path or digest can't be signed.
    """
    for path in digests:
        if not _is_plain_path(path):
            raise BadSignatureError(f"A signature can't list the file name {clean_text(path, 120)!r}")
    files = [SignedFile(path, _check_digest(digests[path], "sha256")) for path in sorted(digests)]
    if not files:
        raise BadSignatureError("There are no files to sign")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": compute_root_digest(file.digest for file in files)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(ignored),
            },
            "resources": [{"name": file.path, "algorithm": "sha256", "digest": file.digest} for file in files],
        },
    }
    return json.dumps(statement, ensure_ascii=False, separators=(",", ":")).encode()


def parse_statement(payload: bytes) -> Statement:
    """Parse a statement strictly.

    Raises:
        BadSignatureError: it is not a statement about a model, or it contradicts itself.
    """
    statement = parse_object(payload, "The signed statement")
    if get_text(statement, "_type") != STATEMENT_TYPE:
        raise BadSignatureError("The signed statement is not an in-toto statement v1")
    if get_text(statement, "predicateType") != PREDICATE_TYPE:
        raise BadSignatureError("The signed statement is not about a model", cause=f"It is not a {PREDICATE_TYPE}.")
    subject = check_object(get_list(statement, "subject", 1)[0], "The signature's subject")
    predicate = get_object(statement, "predicate")
    algorithm, shard_bytes, ignored = _parse_serialization(get_object(predicate, "serialization"))
    files = tuple(
        _parse_resource(check_object(resource, "A resource of the signature"), algorithm, shard_bytes)
        for resource in get_list(predicate, "resources", MAX_FILES)
    )
    _check_names(files)
    if shard_bytes is not None:
        _check_ranges(files, shard_bytes)
    digest = _check_digest(get_object(subject, "digest").get("sha256"), "sha256")
    if digest != compute_root_digest(file.digest for file in files):
        raise BadSignatureError("The signature's root digest is not that of its files")
    return Statement(get_text(subject, "name"), digest, files, algorithm, shard_bytes, ignored)


def _parse_serialization(serialization: dict[str, Any]) -> tuple[Algorithm, int | None, tuple[str, ...]]:
    algorithm = _SPELLINGS.get(get_text(serialization, "hash_type"))
    if algorithm is None:
        raise BadSignatureError("The signature uses an unknown hash algorithm")
    if not isinstance(serialization.get("allow_symlinks"), bool):
        raise BadSignatureError("The signature's field allow_symlinks is missing or is not true or false")
    ignored = serialization.get("ignore_paths", [])
    if (
        not isinstance(ignored, list)
        or len(ignored) > MAX_IGNORED
        or not all(isinstance(path, str) for path in ignored)
    ):
        raise BadSignatureError("The signature's field ignore_paths is not a list of paths")
    method, shard_bytes = get_text(serialization, "method"), serialization.get("shard_size")
    is_size = isinstance(shard_bytes, int) and not isinstance(shard_bytes, bool) and shard_bytes > 0
    if method == "shards" and is_size:
        return algorithm, shard_bytes, tuple(ignored)
    if method == "files" and shard_bytes is None:
        return algorithm, None, tuple(ignored)
    raise BadSignatureError("The signature's method and shard size do not fit")


def _parse_resource(resource: dict[str, Any], algorithm: Algorithm, shard_bytes: int | None) -> SignedFile:
    # Other implementations write an algorithm such as `sha256-sharded-1000` for shards.
    stated = get_text(resource, "algorithm").removesuffix(f"-sharded-{shard_bytes}")
    if _SPELLINGS.get(stated) != algorithm:
        raise BadSignatureError("A resource of the signature has another hash algorithm than the signature")
    name, digest = get_text(resource, "name"), resource.get("digest")
    if shard_bytes is None:
        return SignedFile(_check_listed_path(name), _check_digest(digest, algorithm))
    match = _RANGE.fullmatch(name)
    if match is None:
        raise BadSignatureError("A resource of the signature is not a byte range of a file")
    return SignedFile(_check_listed_path(match[1]), _check_digest(digest, algorithm), int(match[2]), int(match[3]))


def _check_listed_path(path: str) -> str:
    return path if path == SINGLE_FILE else _check_path(path)


def _check_digest(digest: object, algorithm: Algorithm) -> str:
    if not isinstance(digest, str) or len(digest) != HEX_LENGTHS[algorithm] or not _HEX.fullmatch(digest):
        raise BadSignatureError(f"The signature has a digest that is not a {algorithm}")
    return digest


def _check_path(path: str) -> str:
    if not _is_plain_path(path):
        raise BadSignatureError("The signature lists a path that is not a plain relative path")
    return path


def _is_plain_path(path: str) -> bool:
    """Return whether a path is relative, in its shortest form, and inside of its folder."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    is_short = not any(part in ("", ".", "..") for part in path.split("/"))
    return is_short and size <= MAX_PATH_BYTES and not _FORBIDDEN_IN_PATH.search(path)


def _check_names(files: Sequence[SignedFile]) -> None:
    if len({file.name for file in files}) != len(files):
        raise BadSignatureError("The signature lists a file twice")
    if len({file.path for file in files}) > 1 and any(file.path == SINGLE_FILE for file in files):
        raise BadSignatureError("The signature lists a path that is not a plain relative path")


def _check_ranges(files: Sequence[SignedFile], shard_bytes: int) -> None:
    """Raise an error unless the ranges of each file are those into which a signer splits it."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for file in files:
        ranges.setdefault(file.path, []).append((file.start or 0, file.end or 0))
    for found in ranges.values():
        size = max(end for _, end in found)
        if sorted(found) != list(split_into_ranges(size, shard_bytes, len(found))):
            raise BadSignatureError("The byte ranges of a file in the signature have a gap or overlap")
