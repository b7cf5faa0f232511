"""`qwen3 info`: what a checkpoint is, what it needs, and what would run, without loading its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3.cli import options
from qwen3.cli.report import Rows, print_sections, readable_bytes

if TYPE_CHECKING:
    from qwen3.chat import ChatFormat, ForeignTemplate
    from qwen3.config import ModelConfig
    from qwen3.engine.request import SamplingParams
    from qwen3.tokenizer import Tokenizer

_CONTEXTS = (2_048, 8_192, 32_768, 131_072, 262_144)


def info(
    model: options.Model = "builtin",
    as_json: options.Json = False,
    revision: options.Revision = None,
    offline: options.Offline = False,
) -> None:
    """Describe a checkpoint and what it needs here.

    Weights are not loaded and not downloaded. An official name such as Qwen3-8B needs no download at all; what was
    downloaded before is described too.

    Examples:

    \b
      qwen3 info
      qwen3 info Qwen3-30B-A3B
      qwen3 info ./my-model --json
      qwen3 info Qwen3-4B-Q4_K_M.gguf
    """
    config, path = _find(model, revision, offline)
    if path is None:
        text, stored, generation = _official_text(model), None, {}
    elif path.is_file():
        text, stored, generation = _gguf(path)
    else:
        text, stored, generation = _directory(path)
    facts: dict[str, Any] = {
        "model": model,
        "path": None if path is None else str(path),
        "config": config.to_dict(),
        "parameters": {
            "total": config.num_parameters,
            "non_embedding": config.num_non_embedding_parameters,
            "active": config.num_active_parameters,
        },
        "max_context": config.max_context,
        "stored": stored,
        "text": text,
        "sampling": _sampling(text["chat_format"], generation),
        "memory": _memory(config, stored),
        "weights": _weights(config, path),
        "runs": _runs(),
    }
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_sections(_sections(config, facts))


def _find(model: str, revision: str | None, offline: bool) -> tuple[ModelConfig, Path | None]:
    """The model's config, and its directory or GGUF file if there is one on this machine or it had to be fetched."""
    from qwen3.checkpoint.gguf import GGUFFile
    from qwen3.checkpoint.gguf_model import model_config
    from qwen3.checkpoint.hub import resolve
    from qwen3.checkpoint.safetensors import CheckpointError
    from qwen3.config import ModelConfig
    from qwen3.presets import PRESETS, preset

    is_official = model.lower().removeprefix("qwen/") in {name.lower() for name in PRESETS}
    try:
        path = resolve(model, revision=revision, offline=offline or is_official, weights=False)
    except CheckpointError:
        if not is_official:
            raise
        return preset(model), None
    return model_config(GGUFFile(path)) if path.is_file() else ModelConfig.load(path), path


Facts = dict[str, Any]


def _directory(directory: Path) -> tuple[Facts, Facts, Facts]:
    """Text, stored weights and recommended sampling of a Hugging Face directory."""
    from qwen3.chat import load_format
    from qwen3.checkpoint.generation_config import load_generation_config
    from qwen3.tokenizer import Tokenizer

    text = _text(Tokenizer.load(directory), load_format(directory))
    return text, _stored(directory), load_generation_config(directory)


def _gguf(path: Path) -> tuple[Facts, Facts, Facts]:
    """The same of a GGUF file, which besides tells its metadata: texts and numbers, and of lists the length."""
    from qwen3.checkpoint import gguf_model
    from qwen3.checkpoint.gguf import GGUFFile
    from qwen3.checkpoint.gguf_load import keeps_precision
    from qwen3.ops.packed import FORMATS, REPACKED

    file = GGUFFile(path)
    gguf_model.stored_parameters(file, gguf_model.model_config(file))
    dtypes: dict[str, dict[str, int]] = {}
    for tensor in file.tensors.values():
        entry = dtypes.setdefault(tensor.type, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += tensor.num_bytes
    num_values = sum(tensor.num_values for tensor in file.tensors.values())
    packed_bits = sum(t.num_values * FORMATS[REPACKED[t.type]].bits_per_weight for t in file.tensors.values())
    stored = {
        "files": 1,
        "file_bytes": file.num_bytes,
        "dtypes": dtypes,
        "bits_per_weight": 8 * sum(entry["bytes"] for entry in dtypes.values()) / num_values,
        # Once laid out for the kernels; null where the weights become plain tensors.
        "packed_bytes": round(packed_bits / 8) if keeps_precision(file) else None,
        "metadata": {
            key: value if isinstance(value, bool | int | float | str) else f"{len(value):,} values"
            for key, value in file.metadata.items()
        },
    }
    tokenizer = gguf_model.tokenizer(file)
    text = _text(tokenizer, gguf_model.chat_format(file, tokenizer))
    return text, stored, gguf_model.generation_config(file)


def _stored(directory: Path) -> Facts:
    """Files of weights, and for each dtype its tensors and bytes."""
    from qwen3.checkpoint.safetensors import SafetensorsFile

    files = sorted(directory.glob("*.safetensors"))
    dtypes: dict[str, dict[str, int]] = {}
    for file in files:
        for tensor in SafetensorsFile(file).tensors.values():
            entry = dtypes.setdefault(tensor.dtype, {"tensors": 0, "bytes": 0})
            entry["tensors"] += 1
            entry["bytes"] += tensor.end - tensor.begin
    return {
        "files": len(files),
        "file_bytes": sum(file.stat().st_size for file in files),
        "dtypes": dtypes,
    }


def _text(tokenizer: Tokenizer, chat_format: ChatFormat | ForeignTemplate) -> Facts:
    from qwen3.chat import ChatFormat

    return {
        "tokens": tokenizer.vocab_size,
        "control_tokens": len(tokenizer.control_ids),
        "chat_format": chat_format.value if isinstance(chat_format, ChatFormat) else "foreign template",
    }


def _official_text(name: str) -> dict[str, Any]:
    """The same of an official checkpoint that is not here."""
    from qwen3.chat import ChatFormat
    from qwen3.tokenizer import CONTROL_TOKENS

    is_2507 = name.endswith("-2507")
    chat_format = next((each for each in ChatFormat if is_2507 and each.value in name.lower()), ChatFormat.HYBRID)
    return {"tokens": 151_669, "control_tokens": len(CONTROL_TOKENS), "chat_format": chat_format.value}


def _sampling(chat_format: str, stored: Facts) -> dict[str, Facts]:
    """For each mode that the model has, the sampling that the checkpoint recommends, else the model cards."""
    from qwen3.chat import ChatFormat
    from qwen3.engine.request import NON_THINKING, THINKING

    def with_stored(params: SamplingParams) -> dict[str, Any]:
        return {name: stored.get(name, value) for name, value in without(params).items()}

    def without(params: SamplingParams) -> dict[str, Any]:
        return {name: getattr(params, name) for name in ("temperature", "top_p", "top_k", "min_p")}

    if chat_format == ChatFormat.INSTRUCT_2507.value:
        return {"non_thinking": with_stored(NON_THINKING)}
    if chat_format == ChatFormat.THINKING_2507.value:
        return {"thinking": with_stored(THINKING)}
    return {"thinking": with_stored(THINKING), "non_thinking": without(NON_THINKING)}


def _memory(config: ModelConfig, stored: Facts | None) -> list[dict[str, int]]:
    """Bytes to run one conversation on a CPU as it loads by default, for a few contexts up to the model's own."""
    from qwen3.memory import estimate
    from qwen3.weight_choice import STORED_FORMATS

    packed_bytes = (stored or {}).get("packed_bytes")
    stored_as = "fp32" if packed_bytes else STORED_FORMATS[config.dtype]
    contexts = [context for context in _CONTEXTS if context < config.max_context] + [config.max_context]
    rows = []
    for context in contexts:
        estimated = estimate(config, weights=stored_as, kv=stored_as, context=context)
        if packed_bytes:
            estimated = replace(estimated, weights=packed_bytes)
        rows.append({"context": context, **asdict(estimated), "total": estimated.total})
    return rows


def _weights(config: ModelConfig, path: Path | None) -> dict[str, str]:
    """How the weights would be kept on this machine's CPU, and why."""
    from qwen3.hardware import available_bytes
    from qwen3.weight_choice import MemoryShortageError, choose_weights

    if path is not None and path.is_file():
        return {"auto": "as stored", "reason": "a GGUF file keeps its own formats"}
    try:
        choice = choose_weights(config, "auto", available_bytes())
    except MemoryShortageError as shortage:
        return {"auto": "none", "reason": str(shortage)}
    return {"auto": choice.name, "reason": choice.line or f"{choice.name}: as stored"}


def _runs() -> dict[str, Any]:
    from qwen3.ops import IMPLEMENTATIONS
    from qwen3.ops.native import instruction_set

    return {"instruction_set": instruction_set(), "operations": dict(IMPLEMENTATIONS)}


# ---- As text --------------------------------------------------------------------------------------------------


def _sections(config: ModelConfig, facts: Mapping[str, Any]) -> dict[str, Rows]:
    stored, text = facts["stored"], facts["text"]
    memory = [
        (
            f"{row['context']:,} tokens",
            f"{readable_bytes(row['total'])}: weights {readable_bytes(row['weights'])}, "
            f"KV cache {readable_bytes(row['kv_cache'])}",
        )
        for row in facts["memory"]
    ]
    return {
        f"{facts['model']}{'' if stored else ' (official name, nothing downloaded)'}": _architecture(config),
        "Files": [] if stored is None else _files(facts["path"], stored),
        "Metadata": [] if stored is None else _metadata(stored),
        "Text": [
            ("tokenizer", f"{text['tokens']:,} tokens, {text['control_tokens']} of them control tokens"),
            ("chat format", text["chat_format"]),
        ],
        "Sampling": [
            (mode.replace("_", "-"), ", ".join(f"{name} {value}" for name, value in values.items()))
            for mode, values in facts["sampling"].items()
        ],
        f"Memory to run it {_as_loaded(config, stored)} on a CPU": memory,
        "Weights on this machine": [("auto", facts["weights"]["reason"].removeprefix("weights: "))],
        f"Operations (instruction set {facts['runs']['instruction_set']})": _operations(facts["runs"]["operations"]),
    }


def _as_loaded(config: ModelConfig, stored: Facts | None) -> str:
    return "as stored" if (stored or {}).get("packed_bytes") else f"in {config.dtype}"


def _architecture(config: ModelConfig) -> Rows:
    yield "architecture", "Qwen3 mixture of experts" if config.is_moe else "Qwen3 dense"
    counts = f"{config.num_parameters:,}, {config.num_non_embedding_parameters:,} without embeddings"
    yield "parameters", counts + (f", {config.num_active_parameters:,} active" if config.is_moe else "")
    yield "layers", f"{config.num_hidden_layers:,} of width {config.hidden_size:,}"
    yield (
        "attention",
        (f"{config.num_attention_heads} query and {config.num_key_value_heads} key-value heads of {config.head_dim}"),
    )
    if config.num_sparse_layers < config.num_hidden_layers:
        yield "feed-forward", f"{config.intermediate_size:,}"
    if config.is_moe:
        yield (
            "experts",
            (
                f"{config.num_experts_per_tok} of {config.num_experts}, each {config.moe_intermediate_size:,}, "
                f"in {config.num_sparse_layers} layers"
            ),
        )
    head = "shared with the output" if config.tie_word_embeddings else "separate from the output"
    yield "embedding", f"{config.vocab_size:,} rows, {head}"
    rope = config.rope_parameters
    yarn = f", YaRN factor {rope.factor:g}" if rope.rope_type == "yarn" else ""
    yield "positions", f"RoPE theta {rope.rope_theta:,.0f}{yarn}"
    yield "context", f"{config.max_context:,} tokens"
    if config.quantization_config is not None:
        yield "quantized", str(config.quantization_config.get("quant_method", "by an unnamed method"))


def _files(path: str, stored: Mapping[str, Any]) -> Rows:
    yield "path", path
    if not stored["files"]:
        yield "weights", "not on this machine"
        return
    if "bits_per_weight" in stored:
        size = f"{readable_bytes(stored['file_bytes'])}, {stored['bits_per_weight']:.2f} bits a weight"
        runs = "run as stored, with float32 activations" if stored["packed_bytes"] else "plain float32"
        yield "weights", f"GGUF, {size}; {runs}"
    else:
        yield "weights", f"{stored['files']} safetensors, {readable_bytes(stored['file_bytes'])}"
    for dtype, entry in stored["dtypes"].items():
        yield dtype, f"{entry['tensors']:,} tensors, {readable_bytes(entry['bytes'])}"


def _metadata(stored: Mapping[str, Any]) -> Rows:
    """A GGUF file's metadata; of long texts the beginning, control characters escaped."""
    for key, value in stored.get("metadata", {}).items():
        text = str(value)
        text = text if text.isprintable() else ascii(text)[1:-1]
        yield key if key.isprintable() else ascii(key), text if len(text) <= 80 else f"{text[:80]}..."


def _operations(operations: Mapping[str, str]) -> Rows:
    """Operations grouped by what runs them."""
    for form in dict.fromkeys(operations.values()):
        yield form, ", ".join(name for name, each in operations.items() if each == form)
