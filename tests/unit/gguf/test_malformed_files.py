"""Handcrafted malformed files, each named, with our verdict and that of llama.cpp's own reader."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

import pytest

from llm_hf_models.gguf.rules import DOCUMENTED_RULES, Finding
from llm_hf_models.gguf.validate import ValidationReport, check_file
from tests.support import gguf_oracle
from tests.support.malformed_ggufs import STRICTER
from tests.support.raw_gguf import ALL_ONES, TYPES, array, entry, gguf, tensor, text

ARCHITECTURE = entry("general.architecture", "string", "llama")
ONE_TENSOR = tensor("a", [8])
ONE_DATA = bytes(32)


@dataclass(frozen=True)
class Case:
    """One file: the structural rule that it breaks (None if it is valid), and the source of its kind."""

    name: str
    content: bytes
    code: str | None
    kin: str = "llama.cpp's test-gguf.cpp"


def make_file(*metadata: bytes, **parts: object) -> bytes:
    return gguf(metadata, [ONE_TENSOR], **{"data": ONE_DATA, **parts})  # type: ignore[arg-type]


def make_tensor_file(*tensors: bytes, data: bytes = bytes(64), **parts: object) -> bytes:
    return gguf([ARCHITECTURE], tensors, data=data, **parts)  # type: ignore[arg-type]


def claim_string(length: int) -> bytes:
    return text("key") + struct.pack("<IQ", 8, length) + b"abc"


OTHER = ">" if sys.byteorder == "little" else "<"
ALIGN = "general.alignment"
HEADERS = [
    Case("an empty file", b"", "truncated"),
    Case("four bytes", b"GGUF", "truncated"),
    Case("bad magic", gguf(magic=b"FUGG"), "not-gguf"),
    Case("version 0", gguf(version=0), "version"),
    Case("version 1", gguf(version=1), "version"),
    Case("a future version", gguf(version=4), "version"),
    Case("version 2", make_file(version=2), None),
    Case("bad number of tensors", gguf(tensor_count=ALL_ONES), "count-too-large"),
    Case("bad number of keys", gguf(metadata_count=ALL_ONES), "count-too-large"),
    Case("more tensors than there is room for", gguf(tensor_count=1000), "count-too-large", "CVE-2024-23605"),
    Case("more keys than there is room for", gguf(metadata_count=1000), "count-too-large", "CVE-2024-21836"),
    Case(
        "a count that wraps when it is multiplied", gguf(metadata_count=2**58 + 1), "count-too-large", "CVE-2024-21836"
    ),
    Case("a tensor count that wraps", gguf(tensor_count=2**61 + 1), "count-too-large", "CVE-2026-27940"),
    Case("an empty header", gguf(), None),
    Case(
        "the other byte order",
        gguf([entry("a", "uint32", 1, OTHER)], [tensor("a", [8], order=OTHER)], order=OTHER, data=ONE_DATA),
        "byte-order",
        "ours",
    ),
]
KINDS = [kind for kind in TYPES if kind != "array"]
METADATA = [
    Case("bad key size", gguf([text("key", length=ALL_ONES)]), "key-length"),
    Case("a key longer than the file", gguf([text("key", length=60_000) + bytes(20)]), "truncated", "CVE-2024-21802"),
    Case("a key size that wraps when one is added", gguf([text("k", length=ALL_ONES)]), "key-length", "CVE-2024-21802"),
    Case("an empty key", make_file(entry("", "uint32", 1)), "key-length", "ours"),
    Case("a key that is not UTF-8", make_file(entry(b"\xff\xfe", "uint32", 1)), "key-text", "ours"),
    Case("a key with a zero in it", make_file(entry(b"a\0b", "uint32", 1)), "key-text", "ours"),
    Case("bad value type", gguf([text("key") + struct.pack("<II", 13, 0)]), "value-type"),
    Case("bad array type", gguf([text("key") + struct.pack("<IIQ", 9, 13, 1) + bytes(8)]), "value-type"),
    Case("an array of arrays", gguf([text("key") + struct.pack("<IIQ", 9, 9, 0)]), "array-nested", "ours"),
    Case(
        "arrays a thousand deep",
        gguf([text("key") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 1000]),
        "array-nested",
        "CVE-2024-21825",
    ),
    Case("duplicate key", make_file(entry("a", "uint32", 1), entry("a", "uint32", 2)), "duplicate-key"),
    Case("a string without end", gguf([claim_string(ALL_ONES)]), "truncated", "CVE-2024-23496"),
    Case("a string of half a terabyte", gguf([claim_string(2**39)]), "truncated", "CVE-2024-23496"),
    Case(
        "a token that claims more than 31 bits",
        gguf([text("tokenizer.ggml.tokens") + struct.pack("<IIQQ", 9, 8, 1, 2**31 + 5) + b"token"]),
        "truncated",
        "CVE-2025-49847",
    ),
    Case("an array without end", gguf([array("a", "float64", [1.0], length=ALL_ONES)]), "truncated", "CVE-2024-21836"),
    Case(
        "an array whose size wraps", gguf([array("a", "uint64", [1], length=2**61 + 1)]), "truncated", "CVE-2024-21836"
    ),
    Case(
        "an array of endless strings", gguf([array("a", "string", ["x"], length=2**60)]), "truncated", "CVE-2024-21836"
    ),
    Case("a bool that is 2", make_file(text("b") + struct.pack("<IB", 7, 2)), "bool-value", "ours"),
    Case("a bool array with a 7", make_file(text("b") + struct.pack("<IIQBB", 9, 7, 2, 1, 7)), "bool-value", "ours"),
    Case("bad alignment", make_file(entry(ALIGN, "uint32", 13)), "alignment"),
    Case("alignment 0", make_file(entry(ALIGN, "uint32", 0)), "alignment"),
    Case("alignment of the wrong type", make_file(entry(ALIGN, "uint64", 32)), "alignment", "ours"),
    Case("alignment as a string", make_file(entry(ALIGN, "string", "32")), "alignment", "ours"),
    Case("alignment as a bool", make_file(entry(ALIGN, "bool", True)), "alignment", "ours"),
    Case(
        "every type of value", make_file(*(entry(kind, kind, "x" if kind == "string" else 1) for kind in KINDS)), None
    ),
    Case("every type of array", make_file(*(array(k, k, ["x", ""] if k == "string" else [1, 0]) for k in KINDS)), None),
    Case("empty arrays", make_file(array("a", "string", []), array("b", "uint8", [])), None),
]
LONG = "a_tensor_with_a_very_long_name_which_is_longer_than_what_is_allowed"
TENSORS = [
    Case("bad name size", make_tensor_file(tensor(LONG, [8])), "tensor-name-length"),
    Case("a name of 63 bytes", make_tensor_file(tensor(LONG[:63], [8]), data=ONE_DATA), None),
    Case("a name of 64 bytes", make_tensor_file(tensor(LONG[:64], [8]), data=ONE_DATA), "tensor-name-length"),
    Case("a tensor without a name", make_tensor_file(tensor("", [8]), data=ONE_DATA), "tensor-name-length", "ours"),
    Case("a name that is not UTF-8", make_tensor_file(tensor(b"\xff", [8]), data=ONE_DATA), "tensor-name-text", "ours"),
    Case("a name with a zero in it", make_tensor_file(tensor(b"a\0b", [8]), data=ONE_DATA), "tensor-name-text", "ours"),
    Case("bad number of dimensions", make_tensor_file(tensor("a", [1] * 5)), "tensor-dimensions", "CVE-2024-21825"),
    Case(
        "billions of dimensions",
        make_tensor_file(tensor("a", [1], dims=2**32 - 1)),
        "tensor-dimensions",
        "CVE-2024-21825",
    ),
    Case("no dimensions", make_tensor_file(tensor("a", []), data=ONE_DATA), None),
    Case("bad shape", make_tensor_file(tensor("a", [ALL_ONES])), "tensor-shape"),
    Case("shape too big", make_tensor_file(tensor("a", [2**33, 2**33])), "tensor-shape"),
    Case("a dimension of 0", make_tensor_file(tensor("a", [0])), "tensor-shape", "ours"),
    Case("a dimension of 0 after others", make_tensor_file(tensor("a", [8, 0])), "tensor-shape", "ours"),
    Case(
        "an element count that fits and bytes that wrap",
        make_tensor_file(tensor("a", [2**62])),
        "tensor-too-large",
        "CVE-2026-33298",
    ),
    Case(
        "bytes of doubles that wrap to 0",
        make_tensor_file(tensor("a", [2**61], 28)),
        "tensor-too-large",
        "CVE-2026-33298",
    ),
    Case(
        "tensors whose sum wraps",
        make_tensor_file(tensor("a", [2**60]), tensor("b", [2**60], offset=2**62), tensor("c", [2**60], offset=2**63)),
        "tensor-too-large",
        "CVE-2025-53630",
    ),
    Case("bad tensor type", make_tensor_file(tensor("a", [8], 43)), "tensor-type"),
    Case("a negative tensor type", make_tensor_file(tensor("a", [8], 2**32 - 1)), "tensor-type"),
    Case("a removed tensor type", make_tensor_file(tensor("a", [8], 4)), "tensor-type", "ours"),
    Case("rows that don't fill a block", make_tensor_file(tensor("a", [33], 2)), "tensor-block"),
    Case("bad offset", make_tensor_file(tensor("a", [8], offset=ALL_ONES)), "tensor-too-large"),
    Case("an offset past the file's end", make_tensor_file(tensor("a", [8], offset=2**20)), "tensor-offset"),
    Case("a misaligned offset", make_tensor_file(tensor("a", [8]), tensor("b", [8], offset=33)), "tensor-offset"),
    Case("two tensors in one place", make_tensor_file(tensor("a", [8]), tensor("b", [8])), "tensor-offset"),
    Case("a gap", make_tensor_file(tensor("a", [8]), tensor("b", [8], offset=64), data=bytes(96)), "tensor-offset"),
    Case("duplicate name", make_tensor_file(tensor("a", [8]), tensor("a", [8], offset=32)), "duplicate-tensor"),
    Case(
        "inconsistent alignment",
        make_tensor_file(tensor("a", [3]), tensor("b", [3], offset=12)),
        "tensor-offset",
    ),
    Case("two tensors", make_tensor_file(tensor("a", [8]), tensor("b", [8], offset=32)), None),
    Case(
        "custom alignment",
        gguf([entry(ALIGN, "uint32", 1)], [tensor("a", [3]), tensor("b", [3], offset=12)], data=bytes(24), alignment=1),
        None,
    ),
    Case(
        "every kind of block",
        make_tensor_file(tensor("a", [256], 12), tensor("b", [64], 40, 160), data=bytes(224)),
        None,
    ),
]
# Models load without this padding, although llama.cpp's reader requires it when it reads the data by itself.
UNPADDED = [Case("data unpadded at its end", make_tensor_file(tensor("a", [3]), data=bytes(12)), None, "ours")]
DATA = [
    Case("not enough data", make_file(data=bytes(31)), "tensor-past-end"),
    Case("no data", make_file(data=b""), "tensor-past-end"),
    Case("no padding before the data", make_file()[:57], "truncated"),
    Case("an end within the tensors", make_file()[:56], "truncated"),
    Case("data and trailing bytes", make_file(data=bytes(1000)), None),
    *UNPADDED,
]
CASES = [*HEADERS, *METADATA, *TENSORS, *DATA]


@dataclass(frozen=True)
class Judged:
    """The verdicts of both readers on one case."""

    case: Case
    errors: tuple[Finding, ...]  # structural ones
    llama: str


def filter_structural(report: ValidationReport) -> tuple[Finding, ...]:
    return tuple(finding for finding in report.errors if finding.part == "structure")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judged]:
    folder = tmp_path_factory.mktemp("handcrafted")
    paths = [folder / f"{number}.gguf" for number in range(len(CASES))]
    for path, case in zip(paths, CASES, strict=True):
        path.write_bytes(case.content)
    verdicts = gguf_oracle.read_all(paths)
    return {
        case.name: Judged(case, filter_structural(check_file(path)), verdict)
        for case, path, verdict in zip(CASES, paths, verdicts, strict=True)
    }


def test_rules_stricter_than_llama_cpp_are_documented() -> None:
    assert set(DOCUMENTED_RULES) >= STRICTER


def test_every_case_has_a_unique_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_malformed_file_breaks_the_intended_rule(judged: dict[str, Judged], name: str) -> None:
    case = judged[name].case
    codes = {finding.code for finding in judged[name].errors}
    assert codes == ({case.code} if case.code else set()), judged[name].errors


@pytest.mark.skipif(sys.platform == "win32", reason="the oracle forks")
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_llama_cpp_accepts_valid_files_and_our_extra_rules_are_known(judged: dict[str, Judged], name: str) -> None:
    both = judged[name]
    if not both.errors:
        assert both.llama == ("accepts the header" if both.case in UNPADDED else "accepts")
    elif both.llama.startswith("accepts"):
        assert {finding.code for finding in both.errors} <= STRICTER


@pytest.mark.skipif(sys.platform == "win32", reason="the oracle forks")
def test_each_stricter_rule_has_a_file_that_llama_cpp_accepts(judged: dict[str, Judged]) -> None:
    met = {finding.code for each in judged.values() if each.llama.startswith("accepts") for finding in each.errors}
    assert met == STRICTER
