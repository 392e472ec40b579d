"""Mutations of real GGUF headers by a seeded fuzzer, compared with llama.cpp's own reader."""

from __future__ import annotations

import os
import random
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from llm_hf_models.errors import InvalidGgufError
from llm_hf_models.gguf.header import GgufHeader
from llm_hf_models.gguf.validate import check_file
from tests.support import gguf_oracle, ggufs
from tests.support.malformed_ggufs import EDGES, STRICTER, judge_header

QUICK_MUTATIONS = 1500
STORM_MUTATIONS = int(100_000 * float(os.environ.get("STORM_SHARE", "1")))
SEED = 20_240_321
SECONDS_EACH = 2.0  # of CPU time, for files of at most 200 kB
MEMORY_EACH = 48 * 1024 * 1024


def mutate_files(bases: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield real files with bytes flipped, numbers replaced by edge values, ranges cut, doubled or swapped."""
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
def base_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Provide files as small as real models get, so that most mutations hit a header."""
    folder = tmp_path_factory.mktemp("bases")
    paths = [ggufs.tiny_chat(folder / "chat.gguf", blocks=1), ggufs.tiny_base(folder / "base.gguf")]
    paths += [ggufs.tiny_embedding(folder / "embedding.gguf"), ggufs.tiny_mmproj(folder / "mmproj.gguf")]
    paths += ggufs.tiny_split(folder, 3)
    return [path.read_bytes() for path in paths]


def judge_mutations(bases: Sequence[bytes], count: int, seed: int, folder: Path) -> Counter[str]:
    """Judge mutations, then ask llama.cpp about all that passed and a sample of the others."""
    verdicts: Counter[str] = Counter()
    batch: list[tuple[Path, frozenset[str]]] = []
    for number, content in enumerate(mutate_files(bases, count, seed)):
        started = time.thread_time()
        judged = judge_header(content)
        assert time.thread_time() - started < SECONDS_EACH, f"mutation {number} of seed {seed}"
        verdicts["refused" if isinstance(judged, InvalidGgufError) else "read"] += 1
        if isinstance(judged, GgufHeader) or number % 20 == 0:
            path = folder / f"{number}.gguf"
            path.write_bytes(content)
            codes = frozenset(f.code for f in check_file(path).errors if f.part == "structure")
            batch.append((path, codes))
        if len(batch) == 500:
            verdicts += compare(batch)
            batch = []
    return verdicts + compare(batch)


def compare(requested: Sequence[tuple[Path, frozenset[str]]]) -> Counter[str]:
    """Compare our verdicts with llama.cpp's, and remove the files."""
    verdicts: Counter[str] = Counter()
    for (path, codes), verdict in zip(requested, gguf_oracle.read_all([path for path, _ in requested]), strict=True):
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
def test_mutated_headers_give_only_our_errors_and_agree_with_llama_cpp(base_files: list[bytes], tmp_path: Path) -> None:
    verdicts = judge_mutations(base_files, QUICK_MUTATIONS, SEED, tmp_path)
    assert verdicts["read"] > QUICK_MUTATIONS / 20
    assert verdicts["refused"] > QUICK_MUTATIONS / 20


@pytest.mark.storm
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "win32", reason="the oracle forks")
def test_hundred_thousand_mutations_give_only_our_errors(base_files: list[bytes], tmp_path: Path) -> None:
    verdicts = judge_mutations(base_files, STORM_MUTATIONS, SEED + 1, tmp_path)
    print(dict(verdicts))  # noqa: T201 - README's figure
    assert verdicts["read"] + verdicts["refused"] == STORM_MUTATIONS


def test_memory_use_of_a_mutation_is_limited(base_files: list[bytes]) -> None:
    worst = 0
    for content in mutate_files(base_files, QUICK_MUTATIONS // 5, SEED + 2):
        tracemalloc.start()
        judge_header(content)
        worst = max(worst, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert worst < MEMORY_EACH
