"""The memory that a model needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.memory_fit import (
    CONTEXT_STEP,
    DEFAULT_CONTEXT,
    MIN_CONTEXT,
    Fit,
    assess_fit,
    estimate_kv_bytes_per_token,
)
from llm_hf_models.system.units import format_size

GB = 1_000_000_000
MB = 1_000_000
SMOLLM2 = ModelFacts(kv_bytes_per_token=23_040, embedding_length=576, vocabulary_size=49_152, context_length=8192)
SMOLLM2_BYTES = 98_362_432


@pytest.mark.parametrize(("context", "measured"), [(512, 184 * MB), (2048, 228 * MB), (8192, 373 * MB)])
def test_estimate_is_close_above_the_measured_memory(context: int, measured: int) -> None:
    needed = assess_fit(SMOLLM2_BYTES, SMOLLM2, context=context, available=8 * GB).needed
    assert measured <= needed <= measured * 1.3


def test_fitting_model_reports_its_memory_and_context() -> None:
    fit = assess_fit(SMOLLM2_BYTES, SMOLLM2, context=2048, available=8 * GB)
    assert fit.fits
    assert not fit.reduced
    assert fit.context == 2048
    assert fit.reason == f"needs {fit.needed / MB:.0f} MB of 8 GB at 2,048 tokens"


def test_largest_fitting_context_is_reported() -> None:
    llama = ModelFacts(kv_bytes_per_token=131_072, context_length=131_072)
    fit = assess_fit(5 * GB, llama, context=0, available=7 * GB)
    assert fit.fits
    assert fit.reduced
    assert MIN_CONTEXT <= fit.context < 131_072
    assert fit.context % CONTEXT_STEP == 0
    assert "reduced from 131,072 to fit" in fit.reason
    assert not assess_fit(5 * GB, llama, context=fit.context, available=7 * GB).reduced
    assert assess_fit(5 * GB, llama, context=fit.context + CONTEXT_STEP, available=7 * GB).reduced


def test_model_without_a_useful_context_does_not_fit() -> None:
    fit = assess_fit(5 * GB, ModelFacts(kv_bytes_per_token=131_072), context=8192, available=5 * GB)
    assert not fit.fits
    assert fit.context == MIN_CONTEXT
    assert fit.reason == f"needs at least {format_size(fit.needed)} at 512 tokens, but 5 GB are available"


def test_context_is_capped_at_that_of_the_model() -> None:
    assert assess_fit(SMOLLM2_BYTES, SMOLLM2, context=99_999, available=8 * GB).context == 8192
    assert assess_fit(SMOLLM2_BYTES, SMOLLM2, context=0, available=8 * GB).context == 8192
    assert assess_fit(SMOLLM2_BYTES, None, context=0, available=8 * GB).context == DEFAULT_CONTEXT


def test_projector_needs_memory_of_its_own() -> None:
    bare = assess_fit(SMOLLM2_BYTES, SMOLLM2, context=512, available=8 * GB)
    seeing = assess_fit(SMOLLM2_BYTES, SMOLLM2, context=512, available=8 * GB, mmproj_bytes=100 * MB)
    assert seeing.needed > bare.needed + 100 * MB


@pytest.mark.parametrize(
    ("weights", "real"), [(98 * MB, 23_040), (400 * MB, 114_688), (5 * GB, 131_072), (42 * GB, 327_680)]
)
def test_estimate_without_a_header_is_close_to_known_models(weights: int, real: int) -> None:
    assert 0.85 * real <= estimate_kv_bytes_per_token(weights, None) <= 1.5 * real


FACTS = st.none() | st.builds(
    ModelFacts,
    kv_bytes_per_token=st.none() | st.integers(0, 2**24),
    context_length=st.none() | st.integers(0, 2**31),
    embedding_length=st.none() | st.integers(0, 2**16),
    vocabulary_size=st.none() | st.integers(0, 2**20),
)
BYTES = st.integers(0, 2**40)


@given(BYTES, FACTS, st.integers(0, 2**31), st.floats(0, 1.2), st.integers(0, 2**32))
def test_verdict_agrees_with_its_figures(
    weights: int, facts: ModelFacts | None, context: int, share: float, mmproj: int
) -> None:
    available = int(share * assess_fit(weights, facts, context=context, available=2**80, mmproj_bytes=mmproj).needed)
    fit = assess_fit(weights, facts, context=context, available=available, mmproj_bytes=mmproj)
    assert fit.fits == (fit.needed <= fit.available)
    assert fit.available == available
    if context:
        assert fit.context <= context
    if fit.reduced:
        assert fit.fits
        assert fit.context % CONTEXT_STEP == 0
        assert fit.context >= MIN_CONTEXT
        assert assess_fit(weights, facts, context=fit.context, available=available, mmproj_bytes=mmproj) == _whole(fit)
        larger = assess_fit(
            weights, facts, context=fit.context + CONTEXT_STEP, available=available, mmproj_bytes=mmproj
        )
        assert larger.context == fit.context


def _whole(fit: Fit) -> Fit:
    return replace(fit, reduced=False, reason=fit.reason.partition(" (")[0])


@given(BYTES, FACTS, st.integers(1, 2**20), BYTES, BYTES)
def test_more_memory_never_makes_the_fit_worse(
    weights: int, facts: ModelFacts | None, context: int, one: int, other: int
) -> None:
    less, more = sorted((one, other))
    small, large = (assess_fit(weights, facts, context=context, available=room) for room in (less, more))
    assert small.fits <= large.fits
    if small.fits:
        assert small.context <= large.context


def test_layers_with_a_sliding_window_do_not_grow_with_the_context() -> None:
    # gemma-3-270m: 3 of 18 layers see all of the context, the others the last 512 tokens.
    whole = ModelFacts(kv_bytes_per_token=18_432, context_length=32_768)
    windowed = replace(whole, sliding_window=512, kv_windowed_bytes_per_token=15_360)
    plain, small = (assess_fit(GB, facts, context=32_768, available=100 * GB).needed for facts in (whole, windowed))
    assert plain - small == 15_360 * (32_768 - (512 * 4 + 512))
    short = [assess_fit(GB, facts, context=1024, available=100 * GB).needed for facts in (whole, windowed)]
    assert short[0] == short[1]
