"""Texts that name a variant: labels, other spellings of its quantization, names of files and folders."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.errors import QuantNotFoundError
from llm_hf_models.gguf.variants import find_companions, find_incomplete_splits, find_variant, group_variants
from tests.support.repo_listings import SizedPath

FILES = [
    SizedPath("Walrus-20b-MXFP4_MOE.gguf", 12),
    SizedPath("Walrus-20b-fp16.gguf", 40),
    SizedPath("Walrus-20b-UD-Q4_K_XL.gguf", 13),
    SizedPath("Walrus-20b.i1-Q5_K_M.gguf", 15),
    SizedPath("AD-IQ2_XS/Walrus-20b-AD-IQ2_XS.gguf", 8),
    *(SizedPath(f"UD-Q8_K_XL/Walrus-20b-UD-Q8_K_XL-{index:05}-of-00002.gguf", 12) for index in (1, 2)),
    SizedPath("Walrus-20b-Q4_K_M.gguf", 12),
    SizedPath("Walrus-20b-Q4_K_M-mtp.gguf", 13),
    SizedPath("Walrus-20b-I-Balanced.gguf", 14),
    SizedPath("tugão-20b-Q2_K.gguf", 7),
    SizedPath("mtp-Walrus-20b.gguf", 1),
]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        *((text, "Walrus-20b-MXFP4_MOE.gguf") for text in ("MXFP4_MOE", "mxfp4", "MXFP4", "mxfp4-moe")),
        *((text, "Walrus-20b-fp16.gguf") for text in ("fp16", "FP16", "F16", "f16")),
        *((text, "Walrus-20b-UD-Q4_K_XL.gguf") for text in ("UD-Q4_K_XL", "ud-q4_k_xl", "Q4_K_XL", "q4kxl")),
        *((text, "Walrus-20b.i1-Q5_K_M.gguf") for text in ("Q5_K_M", "i1-Q5_K_M", "q5", "Walrus-20b.i1-Q5_K_M")),
        *((text, "AD-IQ2_XS/Walrus-20b-AD-IQ2_XS.gguf") for text in ("IQ2_XS", "AD-IQ2_XS", "ad-iq2_xs", "iq2xs")),
        *(
            (text, "UD-Q8_K_XL/Walrus-20b-UD-Q8_K_XL-00001-of-00002.gguf")
            for text in (
                "UD-Q8_K_XL",
                "Walrus-20b-UD-Q8_K_XL",
                "UD-Q8_K_XL/Walrus-20b-UD-Q8_K_XL",
                "Walrus-20b-UD-Q8_K_XL-00002-of-00002",
                "Walrus-20b-UD-Q8_K_XL-00002-of-00002.gguf",
            )
        ),
        *((text, "Walrus-20b-Q4_K_M.gguf") for text in ("Q4_K_M", "q4km", "Q4-K-M", "walrus-20b-q4_k_m.GGUF")),
        *((text, "Walrus-20b-Q4_K_M-mtp.gguf") for text in ("Q4_K_M-mtp", "q4_k_m_mtp", "20b-mtp-Walrus-Q4_K_M")),
        *((text, "Walrus-20b-I-Balanced.gguf") for text in ("I-Balanced", "i_balanced", "20b-I-Balanced", "balanced")),
        ("tugão-20b-Q2_K", "tugão-20b-Q2_K.gguf"),
    ],
)
def test_every_spelling_names_the_variant(text: str, path: str) -> None:
    assert find_variant(group_variants(FILES, "acme/Walrus-20b-GGUF"), text).files[0] == path


@pytest.mark.parametrize("text", ["Q4_K_S", "Q4", "mtp-Walrus-20b", "gguf", "_", "20b"])
def test_text_that_names_no_variant_or_several_is_an_error(text: str) -> None:
    with pytest.raises(QuantNotFoundError):
        find_variant(group_variants(FILES, "acme/Walrus-20b-GGUF"), text)


WORDS = st.sampled_from(
    [
        *("Q4_K_M", "q4km", "Q8_0", "UD-", "UD-Q4_K_XL", "i1-", "BF16", "fp16", "MXFP4_MOE", "Q4_K_HB", "3.7bpw"),
        *("mmproj", "lora", "imatrix", "draft-", "mtp", "MTP/", "-mtp", "eagle3-", "vision", "walrus", "Walrus", "20b"),
        *("-00001-of-00002", "-00002-of-00002", ".gguf", ".", "-", "_", "/", " ", "é", "模型", "\x00", "v1.5", "I-Bal"),
    ]
)
PATHS = st.lists(WORDS, min_size=1, max_size=7).map("".join) | st.text(max_size=20)
REPOS = st.lists(
    st.builds(SizedPath, PATHS.map(lambda path: f"{path}.gguf"), st.sampled_from([0, 1, 10**7, 10**9, 10**10, 10**11])),
    max_size=10,
    unique_by=lambda file: file.path,
)
REPO_NAMES = st.sampled_from(["", "acme/walrus-20b-GGUF", "Q4_K_M", "acme/I-mtp-v1.5"])


@given(REPOS, REPO_NAMES)
def test_every_label_stem_and_file_name_selects_its_own_file(files: list[SizedPath], repo: str) -> None:
    variants = group_variants(files, repo)
    labels = [variant.quant.casefold() for variant in variants]
    assert len(labels) == len(set(labels))
    stems = Counter(get_stem(variant.files[0]) for variant in variants)
    for variant in variants:
        for text in (variant.quant, *variant.files):
            assert find_variant(variants, text) == variant
        if variant.quant.swapcase() not in stems:
            assert find_variant(variants, variant.quant.swapcase()) == variant
        stem = get_stem(variant.files[0])
        is_plain = any(char.isalnum() for char in stem) and stem == stem.strip() and not stem.endswith(".gguf")
        if stems[stem] == 1 and is_plain:
            assert find_variant(variants, stem) == variant


def get_stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".gguf").removesuffix("-00001-of-00002")


@given(REPOS)
def test_every_file_is_a_variant_a_companion_or_incomplete(files: list[SizedPath]) -> None:
    variants = [path for variant in group_variants(files) for path in variant.files]
    incomplete = [path for split in find_incomplete_splits(files) for path in split.files]
    listed = [*variants, *incomplete, *find_companions(files)]
    assert sorted(listed) == sorted({file.path for file in files})


@given(REPOS)
def test_a_draft_or_imatrix_is_never_a_variant_next_to_a_model(files: list[SizedPath]) -> None:
    named = {"mtp-head.gguf": 10**8, "imatrix.gguf": 10**7, "plain-Q4_K_M.gguf": 10**10}
    repo = {**{file.path: file for file in files}, **{path: SizedPath(path, size) for path, size in named.items()}}
    variants = [path for variant in group_variants(repo.values()) for path in variant.files]
    assert set(named) & set(variants) == {"plain-Q4_K_M.gguf"}
