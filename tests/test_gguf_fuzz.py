"""Headers at random: built by hypothesis, and real ones mutated by a seeded fuzzer: only our errors, bounded time."""

from __future__ import annotations

import io
import os
import random
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_hf_models.errors import InvalidGgufError
from llm_hf_models.gguf_header import GgufHeader, read_header
from llm_hf_models.gguf_rules import DOCUMENTED_RULES
from llm_hf_models.validate import check_file, check_header
from tests.support import gguf_oracle, ggufs
from tests.support.raw_gguf import array, entry, gguf, tensor
from tests.test_gguf_handcrafted import STRICTER

QUICK_MUTATIONS = 1500
STORM_MUTATIONS = int(100_000 * float(os.environ.get("STORM_SHARE", "1")))
SEED = 20_240_321
SECONDS_EACH = 2.0  # of CPU time, for files of at most 200 kB
MEMORY_EACH = 48 * 1024 * 1024

# Numbers at the edges of types, and small ones that a header has everywhere.
EDGES = [0, 1, 2, 7, 8, 9, 10, 12, 13, 31, 32, 64, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**61]
EDGES += [2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]

KEYS = st.sampled_from(["general.architecture", "general.alignment", "tokenizer.ggml.tokens", "llama.block_count", "a"])
NAMES = KEYS | st.text(max_size=8)
NUMBERS = st.sampled_from(["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"])


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """A key with a value of any type, or an array that may claim another length."""
    key = draw(NAMES)
    match draw(st.integers(0, 3)):
        case 0:
            return entry(key, "string", draw(st.text(max_size=20) | st.just("llama")))
        case 1:
            return entry(key, draw(NUMBERS), draw(st.integers(0, 64)))
        case 2:
            claimed = draw(st.none() | st.sampled_from(EDGES))
            return array(key, draw(NUMBERS), draw(st.lists(st.integers(0, 9), max_size=9)), length=claimed)
        case _:
            return array(key, "string", draw(st.lists(st.text(max_size=5), max_size=9)))


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file that is mostly well made, with tensors laid out mostly as they should be."""
    sizes = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=4))
    offset, tensors = 0, []
    for number, (rows, columns) in enumerate(sizes):
        name = draw(st.just(f"t{number}") | st.text(max_size=4))
        tensors.append(tensor(name, [columns * 8, rows], draw(st.sampled_from([0, 1, 2, 8, 24, 30, 99])), offset))
        offset += draw(st.sampled_from([-(-rows * columns * 32 // 32) * 32, 0, 32, 64]))
    counts = {"tensor_count": draw(st.none() | st.sampled_from(EDGES))} if draw(st.booleans()) else {}
    metadata = draw(st.lists(entries(), max_size=5))
    return gguf(metadata, tensors, data=bytes(draw(st.integers(0, 600))), **counts)  # type: ignore[arg-type]


def judge(content: bytes) -> GgufHeader | InvalidGgufError:
    """What the reader says; whatever it reads, the validator must have documented words for."""
    try:
        header = read_header(io.BytesIO(content), file_bytes=len(content))
    except InvalidGgufError as error:
        if error.code not in DOCUMENTED_RULES:
            pytest.fail(f"undocumented: {error.code}")
        return error
    report = check_header(header, file_bytes=len(content))
    assert {finding.code for finding in report.findings} <= set(DOCUMENTED_RULES)
    return header


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files())
def test_any_header_is_read_or_refused_under_a_documented_rule(content: bytes) -> None:
    judge(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"GGUF", b"GGUF\3\0\0\0", b"GGUF\0\0\0\3"]))
def test_any_bytes_are_read_or_refused_under_a_documented_rule(content: bytes, start: bytes) -> None:
    judge(start + content)


@settings(max_examples=200, deadline=None)
@given(files())
def test_knowing_the_files_size_changes_no_verdict_from_good_to_bad(content: bytes) -> None:
    known = judge(content)
    try:
        unknown = read_header(io.BytesIO(content))
    except InvalidGgufError:
        assert isinstance(known, InvalidGgufError)
    else:
        if isinstance(known, GgufHeader):
            assert (unknown.metadata, unknown.tensors) == (known.metadata, known.tensors)


def mutations(bases: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Real files with bytes flipped, numbers replaced by edges, ranges cut, doubled or swapped."""
    chance = random.Random(seed)
    for _ in range(count):
        content = bytearray(chance.choice(bases))
        reach = min(len(content), chance.choice([64, 512, 4096, len(content)]))
        for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
            at = chance.randrange(reach)
            match chance.randrange(6):
                case 0:
                    content[at : at + 1] = bytes(byte ^ (1 << chance.randrange(8)) for byte in content[at : at + 1])
                case 1:
                    width = chance.choice([4, 8])
                    content[at : at + width] = (chance.choice(EDGES) % 256**width).to_bytes(width, "little")
                case 2:
                    del content[at : at + chance.choice([1, 4, 8, 100])]
                case 3:
                    content[at:at] = content[max(0, at - chance.choice([1, 8, 33])) : at]
                case 4:
                    other = chance.choice(bases)
                    content[at : at + 64] = other[at : at + 64]
                case _:
                    del content[chance.randrange(len(content) + 1) :]
        yield bytes(content)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Files as small as real models get, so that most mutations meet a header."""
    folder = tmp_path_factory.mktemp("bases")
    paths = [ggufs.tiny_chat(folder / "chat.gguf", blocks=1), ggufs.tiny_base(folder / "base.gguf")]
    paths += [ggufs.tiny_embedding(folder / "embedding.gguf"), ggufs.tiny_mmproj(folder / "mmproj.gguf")]
    paths += ggufs.tiny_split(folder, 3)
    return [path.read_bytes() for path in paths]


def storm(bases: Sequence[bytes], count: int, seed: int, folder: Path) -> Counter[str]:
    """Judges mutations, then asks llama.cpp about all that passed and a sample of what did not."""
    verdicts: Counter[str] = Counter()
    asked: list[tuple[Path, frozenset[str]]] = []
    for number, content in enumerate(mutations(bases, count, seed)):
        started = time.thread_time()
        judged = judge(content)
        assert time.thread_time() - started < SECONDS_EACH, f"mutation {number} of seed {seed}"
        verdicts["refused" if isinstance(judged, InvalidGgufError) else "read"] += 1
        if isinstance(judged, GgufHeader) or number % 20 == 0:
            path = folder / f"{number}.gguf"
            path.write_bytes(content)
            codes = frozenset(f.code for f in check_file(path).errors if f.part == "structure")
            asked.append((path, codes))
        if len(asked) == 500:
            verdicts += compare(asked)
            asked = []
    return verdicts + compare(asked)


def compare(asked: Sequence[tuple[Path, frozenset[str]]]) -> Counter[str]:
    """Holds our verdicts against llama.cpp's, and removes the files."""
    verdicts: Counter[str] = Counter()
    for (path, codes), verdict in zip(asked, gguf_oracle.ask([path for path, _ in asked]), strict=True):
        warned = {finding.code for finding in check_file(path).warnings}
        if not codes:
            expected = "accepts the header" if "data-unpadded" in warned else "accepts"
            assert verdict == expected, path
        elif verdict.startswith("accepts"):
            assert codes <= STRICTER, (path, codes)
            verdicts["only we refuse"] += 1
        if verdict.startswith("killed"):
            verdicts["llama.cpp died"] += 1
        path.unlink()
    return verdicts


@pytest.mark.skipif(sys.platform == "win32", reason="the oracle forks")
def test_mutations_of_real_headers_give_only_our_errors_and_llama_cpp_takes_what_we_take(
    bases: list[bytes], tmp_path: Path
) -> None:
    verdicts = storm(bases, QUICK_MUTATIONS, SEED, tmp_path)
    assert verdicts["read"] > QUICK_MUTATIONS / 20
    assert verdicts["refused"] > QUICK_MUTATIONS / 20


@pytest.mark.storm
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "win32", reason="the oracle forks")
def test_a_hundred_thousand_mutations_hold_too(bases: list[bytes], tmp_path: Path) -> None:
    verdicts = storm(bases, STORM_MUTATIONS, SEED + 1, tmp_path)
    print(dict(verdicts))  # noqa: T201 - README's figure
    assert verdicts["read"] + verdicts["refused"] == STORM_MUTATIONS


def test_no_mutation_takes_more_memory_than_a_few_times_its_size(bases: list[bytes]) -> None:
    worst = 0
    for content in mutations(bases, QUICK_MUTATIONS // 5, SEED + 2):
        tracemalloc.start()
        judge(content)
        worst = max(worst, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert worst < MEMORY_EACH
