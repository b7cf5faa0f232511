"""What fuzzing does with the bytes of a file: read all that can be read of it, or be refused with the readers' error.

Anything else that comes out of a target is a finding: another exception, or a tensor that is not wholly in the file.
The seeds are the smallest files that get through every check. Nothing here needs torch or a fuzzing library.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

from qwen3.checkpoint import gguf_model
from qwen3.checkpoint.gguf import GGUFError, GGUFFile
from qwen3.checkpoint.safetensors import CheckpointError, SafetensorsFile
from qwen3.tokenizer import CONTROL_TOKENS


def read_gguf(content: bytes, path: Path) -> str | None:
    """Why no model can be made of the file, or None."""
    path.write_bytes(content)
    try:
        file = GGUFFile(path)
        position = 0
        for name, tensor in file.tensors.items():
            assert len(file.read(name)) == tensor.num_bytes > 0
            assert position <= tensor.offset
            position = tensor.offset + tensor.num_bytes
        assert position <= len(content)
        config = gguf_model.model_config(file)
        gguf_model.stored_parameters(file, config)
        gguf_model.generation_config(file)
        gguf_model.chat_format(file, gguf_model.tokenizer(file))
    except GGUFError as error:
        return str(error)
    return None


def read_safetensors(content: bytes, path: Path) -> str | None:
    """Why the file cannot be read, or None."""
    path.write_bytes(content)
    try:
        file = SafetensorsFile(path)
        num_bytes = sum(file.read(name).nbytes for name in file.tensors)
    except CheckpointError as error:
        return str(error)
    assert num_bytes + 8 + int.from_bytes(content[:8], "little") == len(content)
    return None


def read_safetensors_header(header: bytes, path: Path) -> str | None:
    """The header alone, with the length before it right, so that a change of it gets past the length."""
    return read_safetensors(len(header).to_bytes(8, "little") + header + bytes(_DATA_BYTES), path)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _texts(texts: list[str]) -> bytes:
    return struct.pack("<IQ", 8, len(texts)) + b"".join(map(_text, texts))


def _types(num_plain: int, num_tokens: int) -> bytes:
    return struct.pack(f"<{num_tokens}i", *[1] * num_plain, *[3] * (num_tokens - num_plain))


def gguf_seed(architecture: str = "qwen3", version: int = 3) -> bytes:
    """A model of one layer, all zeros, with a tokenizer of single bytes."""
    # GPT-2's names of the 256 bytes: themselves if they can be seen, else 256 and more.
    tokens = [chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))]
    tokens += [chr(256 + i) for i in range(256 - len(tokens))]
    num_plain = len(tokens)
    tokens += list(CONTROL_TOKENS)
    numbers = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 4,
        "feed_forward_length": 4,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.key_length": 2,
        "attention.value_length": 2,
    }
    shapes = {"attn_q": [4, 4], "attn_k": [2, 4], "attn_v": [2, 4], "attn_output": [4, 4]}
    shapes |= {"attn_norm": [4], "attn_q_norm": [2], "attn_k_norm": [2], "ffn_norm": [4]}
    if architecture == "qwen3moe":
        numbers |= {"expert_count": 2, "expert_used_count": 1, "expert_feed_forward_length": 4}
        shapes |= {"ffn_gate_inp": [2, 4]} | {f"ffn_{name}_exps": [2, 4, 4] for name in ("gate", "up", "down")}
    else:
        shapes |= {f"ffn_{name}": [4, 4] for name in ("gate", "up", "down")}
    shapes = {f"blk.0.{name}": shape for name, shape in shapes.items()}
    shapes |= {"token_embd": [len(tokens), 4], "output_norm": [4]}

    keys = [(f"{architecture}.{key}", 4, struct.pack("<I", value)) for key, value in numbers.items()]
    keys += [
        ("general.architecture", 8, _text(architecture)),
        (f"{architecture}.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-6)),
        (f"{architecture}.rope.freq_base", 6, struct.pack("<f", 1e6)),
        ("tokenizer.ggml.model", 8, _text("gpt2")),
        ("tokenizer.ggml.pre", 8, _text("qwen2")),
        ("tokenizer.ggml.tokens", 9, _texts(tokens)),
        ("tokenizer.ggml.merges", 9, _texts([])),
        ("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, len(tokens)) + _types(num_plain, len(tokens))),
        ("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", tokens.index("<|im_end|>"))),
        ("tokenizer.chat_template", 8, _text("{% for m in messages %}{{ m.content }}{% endfor %}")),
        ("general.sampling.temp", 6, struct.pack("<f", 0.5)),
    ]
    head = b"GGUF" + struct.pack("<IQQ", version, len(shapes), len(keys))
    head += b"".join(_text(key) + struct.pack("<I", kind) + value for key, kind, value in keys)
    data = b""
    for name, shape in shapes.items():
        dimensions = struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += _text(f"{name}.weight") + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", 0, len(data))
        size = 4
        for dimension in shape:
            size *= dimension
        data += bytes(size + -size % 32)
    return head + bytes(-len(head) % 32) + data


_DATA_BYTES = 26
_HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
    "ü": {"dtype": "I8", "shape": [0, 5], "data_offsets": [26, 26]},
}
_HEADER_TEXT = json.dumps(_HEADER).encode()

TARGETS: dict[str, tuple[Callable[[bytes, Path], str | None], list[bytes]]] = {
    "gguf": (read_gguf, [gguf_seed(), gguf_seed("qwen3moe"), gguf_seed(version=2)]),
    "safetensors": (
        read_safetensors,
        [len(_HEADER_TEXT).to_bytes(8, "little") + _HEADER_TEXT + bytes(_DATA_BYTES)],
    ),
    "safetensors-header": (read_safetensors_header, [_HEADER_TEXT]),
}
"""By name: the target, and its seeds."""

_NUMBERS = [struct.pack("<Q", value % 2**64) for value in (0, 1, -1, 2**31, 2**32 - 1, 2**62, 2**63, 12, 13, 255)]


def mutated(content: bytes, generator: random.Random) -> bytes:
    """`content` with one to four changes: a bit, a byte, a number that breaks arithmetic, a piece moved or cut out."""
    out = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(out) or 1)
        match generator.randrange(6):
            case 0:
                out[place : place + 1] = bytes([generator.randrange(256)])
            case 1:
                out[place : place + 1] = bytes([(out[place] if out else 0) ^ 1 << generator.randrange(8)])
            case 2:
                number = generator.choice(_NUMBERS)[: generator.choice([1, 4, 8])]
                out[place : place + len(number)] = number
            case 3:
                source, length = generator.randrange(len(out) or 1), generator.randint(1, 40)
                out[place : place + generator.choice([0, length])] = out[source : source + length]
            case 4:
                del out[place : place + generator.randint(1, 16)]
            case 5:
                out[place:place] = generator.choice([b"0", b"[", b"{", b'"', b",", b"\xff", b"\0", b"\xc3"])
    return bytes(out)
