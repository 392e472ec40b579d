"""all-MiniLM-L6-v2's safetensors as a GGUF file that llama.cpp runs. For tests: converts only BERT.

    python -m tests.tools.convert_minilm FOLDER OUT.gguf      # FOLDER: config.json, model.safetensors, tokenizer.json

Keys and tensor names are those that llama.cpp's `bert` architecture reads (src/models/bert.cpp, src/llama-arch.cpp). A
vocabulary of word pieces is written with a mark before whole words instead of `##` before the others, as its tokenizer
expects (src/llama-vocab.cpp, WPM). Safetensors: a length, a JSON header, the tensors
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

MEAN_POOLING = gguf.PoolingType.MEAN  # sentence-transformers' 1_Pooling/config.json of this model
_DTYPES = {"F32": np.float32, "F16": np.float16}
_OUTSIDE_BLOCKS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_IN_BLOCKS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_SPECIAL = {"padding": "[PAD]", "unknown": "[UNK]", "cls": "[CLS]", "seperator": "[SEP]", "mask": "[MASK]"}


def convert(folder: Path, out: Path) -> Path:
    """Write the model of that folder to `out`, and return it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(out, "bert")
    writer.add_type("model")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(MEAN_POOLING)
    writer.add_token_type_count(config["type_vocab_size"])
    _tokenizer(writer, _read_vocabulary(folder))
    for name, values in sorted(_read_tensors(folder / "model.safetensors")):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _read_vocabulary(folder: Path) -> list[str]:
    """Return every word piece in the order of its id."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids: dict[str, int] = tokenizer["model"]["vocab"]
    return sorted(ids, key=ids.__getitem__)


def _tokenizer(writer: gguf.GGUFWriter, pieces: list[str]) -> None:
    special = set(_SPECIAL.values())
    tokens = [
        piece if piece in special else piece[2:] if piece.startswith("##") else f"\u2581{piece}" for piece in pieces
    ]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if piece in special else gguf.TokenType.NORMAL for piece in pieces])
    for key, piece in _SPECIAL.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", pieces.index(piece))
    writer.add_bos_token_id(pieces.index("[CLS]"))
    writer.add_eos_token_id(pieces.index("[SEP]"))


def _read_tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor of the architecture by llama.cpp's name. The pooler is omitted: the mean is used."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    header_bytes = int.from_bytes(data[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + header_bytes].tobytes())
    header.pop("__metadata__", None)
    for name, about in header.items():
        renamed = _rename(name.removeprefix("bert."))
        if renamed is not None:
            begin, end = (8 + header_bytes + offset for offset in about["data_offsets"])
            values = np.frombuffer(data[begin:end].tobytes(), dtype=_DTYPES[about["dtype"]])
            yield renamed, values.reshape(about["shape"]).astype(np.float32)


def _rename(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    block = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", stem)
    if block:
        return f"blk.{block[1]}.{_IN_BLOCKS[block[2]]}.{kind}"
    if stem == "pooler.dense" or name == "embeddings.position_ids":
        return None
    return f"{_OUTSIDE_BLOCKS[stem]}.{kind}"


def main() -> None:
    """Convert from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    convert(given.folder, given.out)


if __name__ == "__main__":
    main()
