"""Which files of a repo are models, and which belong to one."""

from __future__ import annotations

import pytest

from llm_hf_models.gguf.variants import choose_best, find_companions, group_variants
from tests.support.repo_listings import GB, SizedPath, make_listing

MAIN = {"walrus-9b-Q8_0.gguf": 9.5, "walrus-9b-Q4_K_M.gguf": 5.5}


@pytest.mark.parametrize(
    ("companion", "size", "kind"),
    [
        ("mtp-walrus-9b.gguf", 0.3, "draft"),
        ("MTP/walrus-9b-Q8_0-MTP.gguf", 0.2, "draft"),
        ("draft/walrus-0.5b-Q8_0.gguf", 0.5, "draft"),
        ("walrus-9b-eagle3-Q8_0.gguf", 0.4, "draft"),
        ("dflash-kquant.gguf", 1.0, "draft"),
        ("dspark/head.gguf", 1.0, "draft"),
        ("walrus-9b-draft-Q8_0.gguf", 0.5, "draft"),
        ("walrus-9b-FastMTP-32K.gguf", 0.4, "draft"),
        ("walrus-9b-MTP-Q4K-Q8_0-F32.gguf", 0.4, "draft"),
        ("walrus-9b-assistant.Q8_0.gguf", 0.2, "draft"),
        ("speculator/walrus-9b-Q8_0.gguf", 0.4, "draft"),
        ("walrus-9b-medusa-Q8_0.gguf", 0.4, "draft"),
        ("eagle-3/walrus-9b-Q8_0.gguf", 0.4, "draft"),
        ("MTP-Q8_0/walrus-9b-Q8_0.gguf", 0.4, "draft"),
        ("walrus-9b-MTPdraft-Q8_0.gguf", 0.4, "draft"),
        ("mmproj-walrus-9b-F16.gguf", 0.9, "projector"),
        ("multimodal_projector-f16.gguf", 0.9, "projector"),
        ("walrus-9b-mproj-f16.gguf", 0.9, "projector"),
        ("mmproj-files/walrus-9b-F16.gguf", 0.9, "projector"),
        ("projector/walrus-9b-F16.gguf", 0.9, "projector"),
        ("clip-vit-large-f16.gguf", 0.9, "projector"),
        ("vision/walrus-9b-vision-F16.gguf", 0.9, "projector"),
        ("walrus-9b-vision-f16.gguf", 0.9, "projector"),
        ("walrus-9b-imatrix.gguf", 0.02, "imatrix"),
        ("imatrix_walrus.gguf", 0.02, "imatrix"),
        ("walrus-9b-Q8_0.imatrix.gguf", 0.02, "imatrix"),
        ("walrus-9b-pirate-lora-F16.gguf", 0.2, "adapter"),
        ("adapter-Q8_0.gguf", 0.2, "adapter"),
        ("walrus-9b-f16-big-endian.gguf", 18, "other"),
        ("walrus-tokenizer-12hz-Q8_0.gguf", 0.2, "other"),
        ("vae-BF16.gguf", 0.2, "other"),
        ("walrus-9b-audio-F16.gguf", 0.2, "other"),  # no known word, but a tenth of the model that it is named after
        ("parts/walrus-9b-Q8_0.gguf", 0.2, "other"),
        ("token2wav-gguf/flow_matching.gguf", 0.2, "other"),
    ],
)
def test_companion_next_to_models_is_not_a_variant(companion: str, size: float, kind: str) -> None:
    files = make_listing({**MAIN, companion: size})
    assert find_companions(files) == {companion: kind}
    variants = group_variants(files)
    assert [variant.quant for variant in variants] == ["Q8_0", "Q4_K_M"]
    assert choose_best(variants, lambda variant: variant.size <= 0.3 * GB).variant.quant == "Q4_K_M"


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("walrus-9b-MTP-Q6_K.gguf", 7.5),
        ("walrus-9b-Q8_0-mtp.gguf", 9.8),
        ("walrus-9b-MTP-IQ1_M.gguf", 2.4),  # fewer bytes than the smallest model, but as many weights
        ("MTP-builds/walrus-9b-IQ4_XS.gguf", 5),
        ("MTP/walrus-9b-Q4_K_M.gguf", 5.7),
        ("mtp-walrus-9b-Q6_K.gguf", 7.5),
        ("walrus-9b-0.6b-distilled-Q8_0.gguf", 0.6),  # the name has a size of its own
        ("walrus-9b-1bit.gguf", 1.3),
        ("walrus-9b-IQ2XXS-w2Q2K-Instruct-imatrix.gguf", 2.5),
        ("walrus-9b-imatrix.gguf", 9),
        ("walrus-9b-IQ3_M-imatrix.gguf", 4),
        ("walrus-9b-noMTP-Q4_K_M.gguf", 5.4),
        ("walrus-9b-Vision-Q4_K_M.gguf", 5.6),
        ("walrus-9b-fixed-tokenizer-Q4_K_M.gguf", 5.5),
        ("imatrixed-walrus-9b-Q6_K.gguf", 7.4),
    ],
)
def test_full_size_file_is_a_model_whatever_its_name_says(model: str, size: float) -> None:
    files = make_listing({**MAIN, model: size})
    assert find_companions(files) == {}
    assert len(group_variants(files)) == 3


@pytest.mark.parametrize(
    "sizes",
    [
        {"walrus-IQ1_M-mtp.gguf": 60},
        {"walrus-9b-MTP-Q6_K.gguf": 7.5, "walrus-9b-MTP-Q4_K_M.gguf": 5.6},
        {"walrus-DFlash.Q8_0.gguf": 0.6},
        {"walrus-imatrix.gguf": 100},
        {"walrus-IQ2XXS-w2Q2K-imatrix.gguf": 1},
        {"walrus-qlora.Q8_0.gguf": 7.7, "walrus-qlora.Q4_K_M.gguf": 4.4},
        {"walrus-Vision-Q8_0.gguf": 9},
    ],
)
def test_files_without_another_model_are_models(sizes: dict[str, float]) -> None:
    assert find_companions(make_listing(sizes)) == {}


def test_small_model_of_a_series_is_compared_with_its_own_size() -> None:
    sizes = {"walrus-70b-Q4_K_M.gguf": 42, "walrus-1b-Q4_K_M.gguf": 0.8, "walrus-1b-MTP-Q4_K_M.gguf": 0.9}
    assert find_companions(make_listing({**sizes, "walrus-70b-MTP-Q8_0.gguf": 1.2})) == {
        "walrus-70b-MTP-Q8_0.gguf": "draft"
    }


def test_draft_model_is_not_chosen_if_the_main_model_is_incomplete() -> None:
    files = make_listing({"walrus-Q8_0-00001-of-00002.gguf": 5, "mtp-walrus.gguf": 0.2})
    assert group_variants(files) == []


def test_kinds_are_the_same_if_sizes_are_unknown() -> None:
    names = ("walrus-Q4_K_M.gguf", "mtp-walrus.gguf", "MTP/walrus-Q8_0-MTP.gguf", "imatrix.gguf", "mmproj-F16.gguf")
    for size in (0, 1):
        assert list(find_companions([SizedPath(name, size) for name in names]).values()) == [
            "draft", "imatrix", "projector", "draft",
        ]  # fmt: skip


def test_small_file_without_another_word_is_a_variant() -> None:
    files = make_listing({"walrus-9b-F32.gguf": 36.0, "walrus-9b-Q4_K_M.gguf": 0.2})
    assert find_companions(files) == {}
    assert [variant.quant for variant in group_variants(files)] == ["F32", "Q4_K_M"]
