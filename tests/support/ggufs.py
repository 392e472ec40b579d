"""Write tiny GGUF models that llama.cpp loads and runs, and that answer with the text that a test chose.

A chat model made here is a chain: every token has one successor, written into its embedding and output matrices, and
attention and feed-forward add nothing. So its answer is exact at any temperature, and one block is as good as thirty.
The prompt's last token chooses where the chain starts. The template ends a prompt with a token of its own when tools
are offered and when a tool has answered, so that a whole tool call can be tested with exact text.

A model that sees has one more feature: its first block attends to an image, if there is one, and starts another chain
if the image is red or blue. So an answer shows whether the pixels came through the projector (`tiny_mmproj`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np

ANSWER = "Hello from a tiny model."
TOOL_ANSWER = "The tool has spoken."
WIDTH = 64  # the embedding's length: a chain has at most this many tokens
HEADS, KV_HEADS = 4, 2
CHAT_TEMPLATE = (
    "{%- if tools %}<|im_start|>system\n"
    "You may call a tool. Tools, one JSON object a line, inside <tools></tools>:\n<tools>"
    "{%- for tool in tools %}\n{{ tool | tojson }}{%- endfor %}\n</tools>\n"
    "Call one with <tool_call>\n"
    '{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n{%- endif %}'
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content %}{{- message.content }}{%- endif %}"
    "{%- for call in message.tool_calls or [] %}"
    '{{- \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if messages[-1].role == 'tool' %}{{- '<|after_tool|>' }}{%- elif tools %}{{- '<|with_tools|>' }}{%- endif %}"
    "{%- endif %}"
)
# A model that reasons: give it an answer such as THINKING_ANSWER. `enable_thinking: false` ends its thoughts at once.
THINKING_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>' }}{%- endif %}"
    "{{- message.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think></think>' }}{%- endif %}"
    "{%- endif %}"
)
THOUGHTS, CONCLUSION = "Let me think about it for a while.", "It is so."
THINKING_ANSWER = f"<think>{THOUGHTS}</think>{CONCLUSION}"
_TAGS = ("<think>", "</think>")
_SPECIALS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|with_tools|>", "<|after_tool|>")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_EOS = _SPECIALS.index("<|im_end|>")
_WITH_TOOLS, _AFTER_TOOL = _SPECIALS.index("<|with_tools|>"), _SPECIALS.index("<|after_tool|>")
_START = -1  # any token outside the chains
# The projector's output for a patch: the axes of the embedding that mean "here is an image", "it is red", "it is blue".
# The last two also start chains. They are the last axes, so that a projector fits any model.
_IMAGE, _RED, _BLUE = -2, -3, -4
_SEEN = (_IMAGE, _RED, _BLUE)
RED_ANSWER, BLUE_ANSWER = "A red picture.", "So blue!"
PATCH, PATCHES = 16, 2  # pixels, and the number of patches in a row: an image is PATCHES * PATCHES tokens
VISION_WIDTH = 8


def tiny_chat(
    path: Path,
    *,
    answer: str = ANSWER,
    endless: bool = False,
    tool_call: str | None = None,
    tool_answer: str = TOOL_ANSWER,
    template: str | None = CHAT_TEMPLATE,
    sees: bool = False,
    name: str = "Tiny Chat",
    license_id: str = "apache-2.0",
    context: int = 4096,
    blocks: int = 2,
    vocabulary: int = 0,
    weights_bytes: int = 0,
    seed: int = 0,
    shards: int = 1,
) -> Path:
    """Write a llama-architecture chat model that answers any prompt with `answer`, token by token.

    Args:
        path: The file to write; for `shards` > 1 the shards are next to it, named `<stem>-00001-of-0000N.gguf`.
        answer: Its exact answer; split at spaces, at most about 50 words.
        endless: Start the answer again instead of ending it, for tests of cancelling and of token limits.
        tool_call: Its exact answer if tools are offered, such as `<tool_call>\\n{"name": …}\\n</tool_call>`;
            None answers with `answer` as if there were no tools.
        tool_answer: Its answer to a conversation that ends with a tool's result.
        template: Its chat template; None omits it.
        sees: Answer `RED_ANSWER` or `BLUE_ANSWER` if the prompt has an image of that colour (with tiny_mmproj).
        name: general.name.
        license_id: general.license.
        context: Number of tokens it was trained for.
        blocks: Number of its blocks.
        vocabulary: Its minimum number of tokens; filled up with words that it never generates.
        weights_bytes: Its minimum size in bytes, reached by widening its feed-forward part.
        seed: Another seed gives another digest and the same answers.
        shards: Number of files to split it into, as llama.cpp does.

    Returns:
        The file, or the first shard.
    """
    chains = [(_START, answer, endless), (_AFTER_TOOL, tool_answer, False)]
    chains.append((_WITH_TOOLS, tool_call, False) if tool_call else (_WITH_TOOLS, answer, endless))
    chains += [(_RED, RED_ANSWER, False), (_BLUE, BLUE_ANSWER, False)] if sees else []
    words, successors = _chain(chains)
    tokens = [*_SPECIALS, *_BYTES, *words]
    tokens += [f"\u2581filler{i}" for i in range(max(0, vocabulary - len(tokens)))]
    rng = np.random.default_rng(seed)
    writer = _writer(path, "llama", shards, _tensor_count(blocks))
    writer.add_type("model")
    writer.add_name(name)
    writer.add_license(license_id)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if template is not None:
        writer.add_chat_template(template)
    feed_forward = max(64, -(-weights_bytes // (blocks * 3 * WIDTH * 2)))
    _llama_shape(writer, context, blocks, feed_forward, len(tokens))
    _spm_tokenizer(writer, tokens)
    embedding, output = _matrices(len(tokens), successors)
    _add(writer, "token_embd.weight", embedding)
    for block in range(blocks):
        looking = _looking(successors) if sees and block == 0 else {}
        _llama_block(writer, block, feed_forward, rng, looking)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
    _add(writer, "output.weight", output)
    return _write(writer, path, shards)


def tiny_base(path: Path, *, answer: str = ANSWER, name: str = "Tiny Base", seed: int = 0, context: int = 4096) -> Path:
    """Write a model without a chat template that continues any text with `answer`."""
    return tiny_chat(path, answer=answer, name=name, template=None, seed=seed, context=context)


def tiny_split(folder: Path, shards: int = 3, *, stem: str = "tiny", seed: int = 0, answer: str = ANSWER) -> list[Path]:
    """Write a chat model as a real split, with the split.* keys that llama.cpp checks. Return the shards in order."""
    tiny_chat(folder / f"{stem}.gguf", shards=shards, seed=seed, answer=answer)
    return sorted(folder.glob(f"{stem}-*-of-{shards:05d}.gguf"))


def tiny_embedding(
    path: Path, *, name: str = "Tiny Embedding", width: int = WIDTH, pooling: int = 1, seed: int = 0
) -> Path:
    """Write a bert-architecture embedding model with a word-piece vocabulary; texts that share words are similar.

    Args:
        path: The file to write.
        name: general.name.
        width: Length of the embedding.
        pooling: llama.cpp's pooling type; 1 is mean.
        seed: Another seed gives other embeddings.
    """
    rng = np.random.default_rng(seed)
    letters = [chr(c) for c in range(33, 127)]
    words = [
        "the",
        "a",
        "is",
        "of",
        "and",
        "to",
        "in",
        "cat",
        "dog",
        "walrus",
        "sea",
        "sky",
        "red",
        "blue",
        "green",
        "hello",
        "world",
        "tiny",
        "model",
        "text",
    ]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [f"\u2581{t}" for t in dict.fromkeys([*words, *letters])] + letters
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_type("model")
    writer.add_name(name)
    writer.add_license("mit")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(gguf.PoolingType(pooling))
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 5 + [1] * (len(tokens) - 5))
    writer.add_token_type_count(2)
    for key, value in (("padding", 0), ("unknown", 1), ("cls", 2), ("seperator", 3), ("mask", 4), ("bos", 2)):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", value)
    writer.add_uint32("tokenizer.ggml.eos_token_id", 3)
    _bert_tensors(writer, len(tokens), width, rng)
    return _write(writer, path, 1)


def tiny_mmproj(
    path: Path, *, audio: bool = False, seed: int = 0, width: int = WIDTH, legacy_dimension: int | None = None
) -> Path:
    """Write a vision projector in LLaVA's form ("mlp") for a model that `sees`; with `audio`, only the header of one.

    Another `width` makes it the projector of another model. With `legacy_dimension`, its header is that of LLaVA's
    first converter: without a type, and with a projection_dim that is not the model's width.

    Keys and tensors: llama.cpp's tools/mtmd/clip.cpp. It is as simple as the rest: it outputs the redness and
    blueness of a patch, each as a number, and a constant for a patch.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "clip")
    if legacy_dimension is None:
        writer.add_type("mmproj")
    writer.add_name("Tiny Projector")
    writer.add_clip_has_audio_encoder(audio)
    writer.add_clip_has_vision_encoder(not audio)
    writer.add_clip_projector_type("mlp")
    if not audio:
        _vision_shape(writer, legacy_dimension or width)
        _vision_encoder(writer, rng)
    _vision_projector(writer, width)
    return _write(writer, path, 1)


def _vision_shape(writer: gguf.GGUFWriter, projection_dim: int) -> None:
    writer.add_vision_image_size(PATCH * PATCHES)
    writer.add_vision_patch_size(PATCH)
    writer.add_vision_embedding_length(VISION_WIDTH)
    writer.add_vision_feed_forward_length(VISION_WIDTH)
    writer.add_vision_projection_dim(projection_dim)
    writer.add_vision_block_count(2)  # this kind of projector reads the output of the last but one
    writer.add_vision_head_count(1)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(value=True)


def _vision_encoder(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    """Return an encoder that outputs the mean redness and blueness of patches, -1 to 2 each; two blocks add nothing."""
    channels = np.zeros((VISION_WIDTH, 3))
    channels[0], channels[1] = (1, -0.5, -0.5), (-0.5, -0.5, 1)
    kernel = np.broadcast_to(channels[:, :, None, None] / PATCH**2, (VISION_WIDTH, 3, PATCH, PATCH))
    writer.add_tensor("v.patch_embd.weight", np.ascontiguousarray(kernel, dtype=np.float32))
    writer.add_tensor("v.position_embd.weight", np.zeros((PATCHES**2, VISION_WIDTH), dtype=np.float32))
    square = (VISION_WIDTH, VISION_WIDTH)
    for block in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down"):
            silent = name in ("attn_out", "ffn_down", "ffn_up")  # either of these may be the last: old files swap them
            values = np.zeros(square) if silent else rng.random(square)
            writer.add_tensor(f"v.blk.{block}.{name}.weight", values.astype(np.float32))
        for name in ("ln1", "ln2"):
            writer.add_tensor(f"v.blk.{block}.{name}.weight", np.ones(VISION_WIDTH, dtype=np.float32))
            writer.add_tensor(f"v.blk.{block}.{name}.bias", np.zeros(VISION_WIDTH, dtype=np.float32))


def _vision_projector(writer: gguf.GGUFWriter, width: int) -> None:
    """Return two linear layers that put redness and blueness where the model reads them, and a constant for "image"."""
    first, constant = np.zeros((VISION_WIDTH, VISION_WIDTH)), np.zeros(VISION_WIDTH)
    first[0, 0] = first[1, 1] = constant[2] = 1
    second = np.zeros((width, VISION_WIDTH))
    if width == WIDTH:
        for column, (axis, scale) in enumerate(((_RED, 1), (_BLUE, 1), (_IMAGE, 2))):
            second[_seen_axis(axis), column] = scale
    for name, values in (
        ("mm.0.weight", first),
        ("mm.0.bias", constant),
        ("mm.2.weight", second),
        ("mm.2.bias", np.zeros(width)),
    ):
        writer.add_tensor(name, values.astype(np.float32))


def _seen_axis(seen: int) -> int:
    return WIDTH - 1 - _SEEN.index(seen)


def _axes(successors: dict[int, int]) -> dict[int, int]:
    """Return which token, or start of a chain, has which axis of the embedding."""
    axes = {token: axis for axis, token in enumerate(token for token in successors if token not in _SEEN)}
    if len(axes) + len(_SEEN) > WIDTH:
        raise ValueError(f"{len(axes)} tokens are too many to say: at most {WIDTH - len(_SEEN)}")
    return axes | {token: _seen_axis(token) for token in successors if token in _SEEN}


def _looking(successors: dict[int, int]) -> dict[str, np.ndarray]:
    """Return the first head of a block that attends to images at the start of an answer and copies their colours.

    The query and the key use only the slowest pair of the rotary embedding, so that distance hardly matters. A token
    within an answer has the opposite query and ignores images.
    """
    head, axes = WIDTH // HEADS, _axes(successors)
    query, key = np.zeros((WIDTH, WIDTH)), np.zeros((head * KV_HEADS, WIDTH))
    value, out = np.zeros((head * KV_HEADS, WIDTH)), np.zeros((WIDTH, WIDTH))
    for token, axis in axes.items():
        query[head - 2, axis] = 2 if token == _START else -2
    key[head - 2, _seen_axis(_IMAGE)] = 2
    for place, colour in enumerate((_RED, _BLUE)):
        value[place, _seen_axis(colour)] = 1
        out[_seen_axis(colour), place] = 1
    return {"attn_q": query, "attn_k": key, "attn_v": value, "attn_output": out}


def _chain(parts: Sequence[tuple[int, str, bool]]) -> tuple[list[str], dict[int, int]]:
    """Return the words to add to the vocabulary, and the successor of each token; `_START` is any token outside a
    chain."""
    words: list[str] = []
    successors: dict[int, int] = {}
    first = len(_SPECIALS) + len(_BYTES)
    starts: dict[str, int] = {}
    for start, text, endless in parts:
        if text in starts:
            successors[start] = starts[text]
            continue
        at = start
        for piece in _pieces(text, words):
            successors[at] = at = first + len(words)
            words.append(piece)
        starts[text] = successors[start]
        successors[at] = starts[text] if endless else _EOS
    return words, successors


def _pieces(text: str, taken: Sequence[str]) -> Iterator[str]:
    """Return the text cut at spaces, without cuts before a repeated piece: a token has only one successor."""
    seen = set(taken)
    pending = ""
    for part in re.findall(r"</?think>| ?(?:(?!</?think>)[^ ])+| ", text):
        pending += part.replace(" ", "\u2581")
        if pending not in seen:
            seen.add(pending)
            yield pending
            pending = ""
    while pending in seen:  # the last words repeat: spell them with an invisible joiner
        pending += "\u200b"
    if pending:
        yield pending


def _matrices(size: int, successors: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings as unit vectors, one per link of the chain, and an output matrix that reads the successor from
    it."""
    axes = _axes(successors)
    embedding = np.zeros((size, WIDTH), dtype=np.float16)
    embedding[:, axes[_START]] = 1
    output = np.zeros((size, WIDTH), dtype=np.float16)
    for token, axis in axes.items():
        if token >= 0:
            embedding[token] = 0
            embedding[token, axis] = 1
        output[successors[token], axis] = 8  # the norm makes a unit vector 8 long: a logit of 64 against 0
    return embedding, output


def _writer(path: Path, architecture: str, shards: int, tensors: int) -> gguf.GGUFWriter:
    if shards == 1:
        return gguf.GGUFWriter(path, architecture)
    return gguf.GGUFWriter(path, architecture, split_max_tensors=-(-tensors // shards))


def _write(writer: gguf.GGUFWriter, path: Path, shards: int) -> Path:
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if shards == 1 else path.with_name(f"{path.stem}-00001-of-{shards:05d}.gguf")


def _tensor_count(blocks: int) -> int:
    return 3 + 9 * blocks


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray) -> None:
    writer.add_tensor(name, values.astype(np.float16))


def _llama_shape(writer: gguf.GGUFWriter, context: int, blocks: int, feed_forward: int, vocabulary: int) -> None:
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)


def _spm_tokenizer(writer: gguf.GGUFWriter, tokens: Sequence[str]) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(tokens))
    writer.add_token_scores([0.0 if i < len(_SPECIALS) else -float(i) for i in range(len(tokens))])
    words = tokens[len(_SPECIALS) + len(_BYTES) :]
    types = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * (len(_SPECIALS) - 1)
    types += [gguf.TokenType.BYTE] * len(_BYTES)
    types += [gguf.TokenType.USER_DEFINED if word in _TAGS else gguf.TokenType.NORMAL for word in words]
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_EOS)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(value=False)
    writer.add_add_space_prefix(value=False)


def _llama_block(
    writer: gguf.GGUFWriter,
    block: int,
    feed_forward: int,
    rng: np.random.Generator,
    given: Mapping[str, np.ndarray],
) -> None:
    """Return a block: random where it does no harm, zero in the two matrices that feed its output; or as `given`."""
    kv = WIDTH // HEADS * KV_HEADS
    for name, shape, silent in (
        ("attn_q", (WIDTH, WIDTH), False),
        ("attn_k", (kv, WIDTH), False),
        ("attn_v", (kv, WIDTH), False),
        ("attn_output", (WIDTH, WIDTH), True),
        ("ffn_gate", (feed_forward, WIDTH), False),
        ("ffn_up", (feed_forward, WIDTH), False),
        ("ffn_down", (WIDTH, feed_forward), True),
    ):
        values = np.zeros(shape, dtype=np.float16) if silent else rng.random(shape, dtype=np.float32) / 64
        _add(writer, f"blk.{block}.{name}.weight", given.get(name, values))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(WIDTH, dtype=np.float32))


def _bert_tensors(writer: gguf.GGUFWriter, vocabulary: int, width: int, rng: np.random.Generator) -> None:
    def normal(*shape: int, scale: float = 0.05) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    writer.add_tensor("token_embd.weight", normal(vocabulary, width, scale=1))
    writer.add_tensor("token_types.weight", normal(2, width))
    writer.add_tensor("position_embd.weight", normal(512, width, scale=0.01))
    norms = ["token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"]
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(width, dtype=np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", normal(width, width))
        writer.add_tensor(f"blk.0.{name}.bias", np.zeros(width, dtype=np.float32))
