"""File names of real converters, and malformed ones."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.errors import NoGgufError, QuantNotFoundError
from llm_hf_models.gguf.variants import Variant, choose_best, find_incomplete_splits, find_variant, group_variants
from llm_hf_models.hub.refs import ModelRef


@dataclass(frozen=True)
class File:
    path: str
    size: int = 100


def make_files(*paths: str) -> list[File]:
    return [File(path) for path in paths]


def list_labels(*paths: str) -> list[str]:
    return [variant.quant for variant in group_variants(make_files(*paths))]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Qwen3-0.6B-Q4_K_M.gguf", "Q4_K_M"),
        ("Qwen3-0.6B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Qwen3-8B-UD-IQ2_XXS.gguf", "UD-IQ2_XXS"),
        ("mistral-7b-instruct-v0.2.Q4_K_M.gguf", "Q4_K_M"),
        ("Meta-Llama-3.1-8B-Instruct-Q6_K_L.gguf", "Q6_K_L"),
        ("Phi-3-mini-4k-instruct-q4.gguf", "Q4"),
        ("Phi-3-mini-4k-instruct-fp16.gguf", "F16"),
        ("qwen2.5-7b-instruct-q5_k_m.gguf", "Q5_K_M"),
        ("Llama-3-8B-Instruct-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("Model-7B.i1-Q4_K_M.gguf", "Q4_K_M"),
        ("Model-7B.i1-IQ1_S.gguf", "IQ1_S"),
        ("InfinityRP-v1-7B-Q4_K_M-imat.gguf", "Q4_K_M"),
        ("Falcon3-1B-imatrix-IQ4_XS.gguf", "IQ4_XS"),
        ("bitnet-TQ1_0.gguf", "TQ1_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4"),
        ("Inkling-NVFP4.gguf", "NVFP4"),
        ("gemma-3-1b-it-BF16.gguf", "BF16"),
        ("all-MiniLM-L6-v2.F32.gguf", "F32"),
        ("ggml-model-Q4_K.gguf", "Q4_K"),
        ("SmolLM2-135M-Instruct.Q4_1.GGUF", "Q4_1"),
        ("Model_Q4_K_M_v2.gguf", "Q4_K_M"),
        ("Q4_K_M/model.gguf", "Q4_K_M"),
        ("gguf/BF16/model.gguf", "BF16"),
        ("Qwen3-Q4-trained-Q8_0.gguf", "Q8_0"),
        ("tinyllama.gguf", "tinyllama"),
        ("tiny.llama-v1.5.gguf", "tiny-llama-v1.5"),
        ("LICENSE.gguf", "model-LICENSE"),
        ("模型.gguf", "model"),
    ],
)
def test_label_is_the_usual_name_of_the_quantization(path: str, label: str) -> None:
    assert list_labels(path) == [label]


def test_shards_are_one_ordered_variant_with_the_sum_of_their_sizes() -> None:
    paths = [f"Q4_K_M/model-{index:05}-of-00003.gguf" for index in (3, 1, 2)]
    (variant,) = group_variants([File(path, size) for size, path in enumerate(paths, 1)])
    assert variant.files == tuple(sorted(paths))
    assert (variant.quant, variant.size, variant.shards) == ("Q4_K_M", 6, 3)


@pytest.mark.parametrize(
    ("paths", "name", "reason"),
    [
        (
            ["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"],
            "m-Q8_0",
            "shard 00002 of 3 is missing",
        ),
        (["a/m-00002-of-00002.gguf"], "a/m", "shard 00001 of 2 is missing"),
        (["m-00002-of-00003.gguf"], "m", "2 of 3 shards are missing, the first is 00001"),
        (["m-00004-of-00002.gguf"], "m", "shard number 4 of 2 is invalid"),
        (["m-00000-of-00001.gguf"], "m", "shard number 0 of 1 is invalid"),
        (["m.Q8_0.gguf-split-a", "m.Q8_0.gguf-split-b"], "m.Q8_0.gguf", "cut by bytes"),
        (["m.Q8_0.gguf.part1of2", "m.Q8_0.gguf.part2of2"], "m.Q8_0.gguf", "cut by bytes"),
        (["m.gguf-part-a"], "m.gguf", "cut by bytes"),
    ],
)
def test_incomplete_split_is_not_a_variant_and_has_a_reason(paths: list[str], name: str, reason: str) -> None:
    assert group_variants(make_files(*paths)) == []
    (broken,) = find_incomplete_splits(make_files(*paths, "m-Q2_K.gguf", "README.md"))
    assert (broken.name, broken.files) == (name, tuple(paths))
    assert broken.reason.startswith(reason)


def test_complete_split_is_not_reported() -> None:
    assert (
        find_incomplete_splits(make_files("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "x-00001-of-00000.gguf"))
        == []
    )


@pytest.mark.parametrize(
    "path",
    [
        "imatrix.gguf",
        "imatrix_unsloth.gguf",
        "Model-7B.imatrix",
        "Model-7B.imatrix.gguf",
        "imatrix-GLM-4.5-BF16.gguf",
        "mmproj-F16.gguf",
        "llava-v1.5-7b-mmproj-f16.gguf",
        "mmproj/model-f16.gguf",
        "ggml-lora-rank8-f16.gguf",
        "my-style-lora.gguf",
        "adapter-Q8_0.gguf",
        "ggml-vocab-llama-bpe.gguf",
        "happy-control-vector.gguf",
        "README.md",
        "model.safetensors",
        "config.json",
    ],
)
def test_files_with_other_names_are_not_variants(path: str) -> None:
    assert list_labels(path) == []


def test_model_merged_from_a_lora_is_a_variant() -> None:
    assert list_labels("alpaca-lora-7b.Q4_K_M.gguf", "Mistral-7B-LoRA-Q4_K_M.gguf") != []
    assert list_labels("alpaca-lora-7b.F16.gguf") == ["F16"]


def test_draft_model_is_skipped_unless_it_is_alone() -> None:
    assert list_labels("mtp-Qwen3-Q8_0.gguf", "Qwen3-Q4_K_M.gguf") == ["Q4_K_M"]
    assert list_labels("draft-0.5b-Q8_0.gguf") == ["Q8_0"]
    assert list_labels("Qwen3.6-27B-MTP-Q4_K_M.gguf") == ["Q4_K_M"]


def test_variants_are_sorted_by_quality() -> None:
    kinds = ["IQ1_S", "Q4_0", "F16", "Q4_K_M", "UD-Q4_K_XL", "Q8_0", "Q2_K", "BF16", "Q5_0", "Q6_K", "IQ4_XS"]
    expected = ["BF16", "F16", "Q8_0", "Q6_K", "Q5_0", "UD-Q4_K_XL", "Q4_K_M", "IQ4_XS", "Q4_0", "Q2_K", "IQ1_S"]
    assert list_labels(*(f"m-{kind}.gguf" for kind in kinds)) == expected


def test_two_models_of_one_quantization_get_unique_labels() -> None:
    assert set(list_labels("gemma-4b-Q4_K_M.gguf", "gemma-12b-Q4_K_M.gguf", "gemma-12b-Q8_0.gguf")) == {
        "gemma-4b-Q4_K_M",
        "gemma-12b-Q4_K_M",
        "Q8_0",
    }
    assert set(list_labels("m.Q4_K_M.gguf", "m.i1-Q4_K_M.gguf")) == {"Q4_K_M", "i1-Q4_K_M"}
    assert set(list_labels("a/m-Q4_K_M.gguf", "b/m-Q4_K_M.gguf")) == {"a-m-Q4_K_M", "b-m-Q4_K_M"}
    assert len({label.lower() for label in list_labels("M-Q4_K_M.gguf", "m-q4_k_m.gguf", "é.gguf", "è.gguf")}) == 4


@pytest.mark.parametrize(
    ("projectors", "taken"),
    [
        (["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-F16.gguf"),
        (["mmproj-BF16.gguf", "mmproj-Q8_0.gguf"], "mmproj-BF16.gguf"),
        (["mmproj-model-f16.gguf"], "mmproj-model-f16.gguf"),
        (["mmproj-Q4_0.gguf", "mmproj-Q8_0.gguf"], "mmproj-Q8_0.gguf"),
        (["mmproj/x-F16.gguf"], "mmproj/x-F16.gguf"),
        (["llava-mmproj-f32.gguf"], "llava-mmproj-f32.gguf"),
    ],
)
def test_every_variant_gets_the_usual_projector(projectors: list[str], taken: str) -> None:
    models = ["llava-Q4_K_M.gguf", "Q8_0/llava-00001-of-00001.gguf"]
    variants = group_variants([*make_files(*models), *(File(path, 7) for path in projectors)])
    assert [(variant.mmproj, variant.mmproj_size) for variant in variants] == [(taken, 7)] * 2
    assert variants[0].all_files == (*variants[0].files, taken)


def test_projector_belongs_to_the_model_it_names_or_is_next_to() -> None:
    by_name = {
        variant.files[0]: variant.mmproj
        for variant in group_variants(
            make_files(
                "g-4b-Q4_K_M.gguf", "g-12b-Q4_K_M.gguf", "g-1b-Q8_0.gguf", "mmproj-g-4b-f16.gguf", "g-12b-mmproj.gguf"
            )
        )
    }
    assert by_name == {
        "g-4b-Q4_K_M.gguf": "mmproj-g-4b-f16.gguf",
        "g-12b-Q4_K_M.gguf": "g-12b-mmproj.gguf",
        "g-1b-Q8_0.gguf": None,
    }
    by_words = group_variants(
        make_files(
            "g-1-Q8_0.gguf", "G_3.5_4b-Q8_0.gguf", "mmproj-BF16.gguf", "mmproj-g-12b-F16.gguf", "mmproj-g-3-5-4b.gguf"
        )
    )
    assert {variant.files[0]: variant.mmproj for variant in by_words} == {
        "g-1-Q8_0.gguf": "mmproj-g-12b-F16.gguf",  # the name of no model in the repo
        "G_3.5_4b-Q8_0.gguf": "mmproj-g-3-5-4b.gguf",
    }
    by_folder = {
        variant.files[0]: variant.mmproj
        for variant in group_variants(
            make_files("a/x-Q8_0.gguf", "b/y-Q8_0.gguf", "a/mmproj-F32.gguf", "mmproj-F16.gguf")
        )
    }
    assert by_folder == {"a/x-Q8_0.gguf": "a/mmproj-F32.gguf", "b/y-Q8_0.gguf": "mmproj-F16.gguf"}


def make_variants(*quants: str) -> list[Variant]:
    return [Variant(quant, (f"m-{quant}.gguf",), size) for size, quant in enumerate(quants, 1)]


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0"], "Q4_K_M"),
        (["Q8_0", "q4_k", "Q2_K"], "q4_k"),
        (["Q8_0", "UD-Q4_K_XL", "UD-Q2_K_XL"], "UD-Q4_K_XL"),
        (["UD-Q4_K_M", "Q4_K_M"], "Q4_K_M"),
        (["Q8_0", "Q4_K_S", "Q5_K_M"], "Q4_K_S"),
        (["F16", "Q8_0", "Q5_K_S"], "Q5_K_S"),
        (["F16", "Q8_0", "Q4_0"], "Q8_0"),
        (["F16", "IQ4_XS", "Q4_0"], "IQ4_XS"),
        (["F16", "Q4_1", "IQ1_S"], "Q4_1"),
        (["F16", "IQ1_S"], "F16"),
        (["Q4_0_4_4", "IQ2_XXS"], "IQ2_XXS"),
        (["Q4_0_4_4"], "Q4_0_4_4"),
        (["plain", "IQ1_S"], "plain"),
    ],
)
def test_default_choice_is_the_usual_quantization(there: list[str], taken: str) -> None:
    choice = choose_best(make_variants(*there), lambda _: True)
    assert choice.variant.quant == taken
    assert choice.reason


def test_best_fitting_variant_is_chosen_with_a_reason() -> None:
    sized = [Variant(quant, (quant,), size) for quant, size in [("Q8_0", 8), ("Q4_K_M", 5), ("Q3_K_M", 4), ("Q2_K", 3)]]
    choice = choose_best(sized, lambda variant: variant.size <= 4)
    assert choice.variant.quant == "Q3_K_M"
    assert "Q4_K_M doesn't fit" in choice.reason


def test_smallest_variant_is_chosen_with_a_reason_if_none_fits() -> None:
    choice = choose_best(
        [Variant("Q8_0", ("a",), 8), Variant("IQ1_S", ("b",), 2), Variant("Q4_K_M", ("c",), 5)], lambda _: False
    )
    assert choice.variant.quant == "IQ1_S"
    assert "no variant fits" in choice.reason


def test_largest_fitting_model_of_several_is_chosen_with_a_note() -> None:
    there = [
        Variant("g-4b-Q4_K_M", ("a",), 4),
        Variant("g-12b-Q4_K_M", ("b",), 12),
        Variant("g-27b-Q4_K_M", ("c",), 27),
    ]
    choice = choose_best(there, lambda variant: variant.size < 20)
    assert choice.variant.quant == "g-12b-Q4_K_M"
    assert "2 more of this type" in choice.reason


def test_type_dropped_by_llama_cpp_is_never_recommended() -> None:
    assert "may not support" in choose_best(make_variants("Q4_0_8_8"), lambda _: True).reason


def test_choosing_from_nothing_is_an_error() -> None:
    with pytest.raises(NoGgufError):
        choose_best([], lambda _: True)


@pytest.mark.parametrize("name", ["Q4_K_M", "q4_k_m", "Q4KM", "q4-k-m", " Q4_K_M "])
def test_quantization_is_found_in_any_spelling(name: str) -> None:
    assert find_variant(make_variants("Q8_0", "Q4_K_M", "UD-Q4_K_M", "Q4_0"), name).quant == "Q4_K_M"


def test_quantization_is_found_by_its_type_or_a_unique_prefix() -> None:
    there = make_variants("Q8_0", "UD-Q4_K_XL", "Q4_K_M-v2", "gemma-Q6_K")
    assert find_variant(there, "Q8").quant == "Q8_0"
    assert find_variant(there, "Q4_K_XL").quant == "UD-Q4_K_XL"
    assert find_variant(there, "ud").quant == "UD-Q4_K_XL"
    assert find_variant(there, "q6_k").quant == "gemma-Q6_K"


@pytest.mark.parametrize("name", ["Q4", "Q5_K_M", "", ":", "\x1b[31m", "Q" * 5000])
def test_unknown_or_ambiguous_quantization_lists_the_choices(name: str) -> None:
    with pytest.raises(QuantNotFoundError) as caught:
        find_variant(make_variants("Q8_0", "Q4_K_M", "Q4_0"), name)
    assert "Q4_K_M, Q4_0" in str(caught.value.hint)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


WORDS = st.sampled_from(
    [
        *(
            "Q4_K_M",
            "q8_0",
            "UD-",
            "i1-",
            "imat",
            "BF16",
            "Q4",
            "mmproj",
            "lora",
            "imatrix",
            "draft-",
            "model",
            "LICENSE",
        ),
        *(
            "-00001-of-00002",
            "-00002-of-00002",
            "-00000-of-00000",
            ".",
            "-",
            "_",
            "/",
            "..",
            " ",
            "é",
            "\x00",
            "🦭",
            "v1.5",
        ),
    ]
)
PATHS = st.lists(WORDS, min_size=1, max_size=7).map("".join) | st.text(max_size=30)
REPOS = st.lists(PATHS.map(lambda path: f"{path}.gguf"), max_size=12, unique=True)


@given(REPOS, st.randoms())
def test_any_names_give_unique_labels_that_can_be_found_again(paths: list[str], random: object) -> None:
    found = group_variants(make_files(*paths))
    seen = [variant.quant.casefold() for variant in found]
    assert len(seen) == len(set(seen))
    for variant in found:
        assert ModelRef.parse(f"owner/name:{variant.quant}").quant == variant.quant
        assert find_variant(found, variant.quant) == variant
        assert find_variant(found, variant.quant.swapcase()) == variant
    shuffled = list(paths)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert group_variants(make_files(*shuffled)) == found


@given(REPOS)
def test_every_path_is_in_at_most_one_variant(paths: list[str]) -> None:
    weights = [path for variant in group_variants(make_files(*paths)) for path in variant.files]
    assert len(weights) == len(set(weights))
    assert set(weights) <= set(paths)
    broken = {path for split in find_incomplete_splits(make_files(*paths)) for path in split.files}
    assert not broken & set(weights)


@given(REPOS.filter(lambda paths: group_variants(make_files(*paths))), st.data())
def test_chosen_variant_fits_if_any_can(paths: list[str], data: st.DataObject) -> None:
    found = group_variants(make_files(*paths))
    fitting = data.draw(st.sets(st.sampled_from(found)))
    choice = choose_best(found, fitting.__contains__)
    assert choice.variant in found
    if choice.variant not in fitting:
        assert "no variant fits" in choice.reason
