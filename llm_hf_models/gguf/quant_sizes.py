"""Estimate the size of a quantization from the number of parameters, before its files are known."""

from __future__ import annotations

from llm_hf_models.gguf.filenames import find_quant_type

# Bits per weight of a whole file, for Llama-3.1-8B (llama.cpp, tools/quantize/README.md). Other models differ by about
# a tenth, small ones by more, because their embeddings are a larger part. The last two rows are those of the type's
# blocks, with an allowance for tensors of other types.
_BITS_PER_WEIGHT = {
    "F64": 64, "F32": 32, "BF16": 16, "F16": 16, "Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.7, "Q5_K_S": 5.57,
    "Q4_K_M": 4.89, "Q4_K_S": 4.67, "IQ4_NL": 4.68, "IQ4_XS": 4.46, "Q3_K_L": 4.3, "Q3_K_M": 4, "Q3_K_S": 3.64,
    "IQ3_M": 3.76, "IQ3_S": 3.66, "IQ3_XS": 3.5, "IQ3_XXS": 3.25, "Q2_K": 3.16, "Q2_K_S": 2.97,
    "IQ2_M": 2.93, "IQ2_S": 2.74, "IQ2_XS": 2.59, "IQ2_XXS": 2.38, "IQ1_M": 2.15, "IQ1_S": 2,
    "Q5_1": 6.1, "Q5_0": 5.6, "Q4_1": 5.1, "Q4_0": 4.6, "MXFP4": 4.6, "NVFP4": 4.8, "TQ2_0": 2.4, "TQ1_0": 2,
    "Q8_K": 9.1, "Q5_K": 5.7, "Q4_K": 4.89, "Q3_K": 4,
}  # fmt: skip
_LARGER = ("_XL", "_L")  # a converter's types, with some tensors at more bits


def estimate_variant_bytes(parameters: int, quant: str) -> int | None:
    """Return the approximate size of a variant's weights in bytes, or None for an unknown quantization.

    Args:
        parameters: number of parameters of the model.
        quant: label of the variant, such as `UD-Q4_K_XL`.
    """
    name, _ = find_quant_type(quant)
    for suffix in _LARGER:
        if name not in _BITS_PER_WEIGHT:
            name = name.removesuffix(suffix)
    bits = _BITS_PER_WEIGHT.get(name)
    return int(parameters * bits / 8) if bits else None
