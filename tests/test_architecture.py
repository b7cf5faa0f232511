"""Who may import whom, held over the syntax tree; and that the light modules stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# Modules that work without torch. They import the standard library, numpy, each other, and what stands here.
LIGHT = {
    "qwen3.config": set(),
    "qwen3.presets": set(),
    "qwen3.strict_json": set(),
    "qwen3.hardware": set(),
    "qwen3.memory": set(),
    "qwen3.weight_choice": set(),
    "qwen3.quant.blocks": set(),
    "qwen3.quant.formats": set(),
    "qwen3.text_split": set(),
    "qwen3.tokenizer": {"tokenizers"},
    "qwen3.chat": {"jinja2"},
    "qwen3.grammar": {"llguidance"},
    "qwen3.multiples": set(),
    "qwen3.checkpoint.generation_config": set(),
    "qwen3.checkpoint.directory": set(),
    "qwen3.checkpoint.drift": set(),
    "qwen3.checkpoint.integrity": set(),
    "qwen3.checkpoint.gguf": set(),
    "qwen3.checkpoint.gguf_model": set(),
    "qwen3.checkpoint.hub": {"huggingface_hub"},
    "qwen3.checkpoint.names": set(),
    "qwen3.checkpoint.safetensors": set(),
    "qwen3.engine.blocks": set(),
    "qwen3.engine.capacity": set(),
    "qwen3.engine.cost": set(),
    "qwen3.engine.request": set(),
    "qwen3.engine.scheduler": set(),
    "qwen3.engine.speculate": set(),
    "qwen3.engine.thinking": set(),
    "qwen3.engine.guide": set(),
    "qwen3.engine.rules": set(),
    "qwen3.server.chat_schema": {"pydantic"},
    "qwen3.server.completions_schema": {"pydantic"},
    "qwen3.server.limits": set(),
    "qwen3.server.messages_schema": {"pydantic"},
    "qwen3.server.responses_schema": {"pydantic"},
    "qwen3.server.schemas": {"pydantic"},
    "qwen3.agent": {"pydantic", "typing_extensions", "mcp", "httpx2"},
    "qwen3.train.bbpe": {"tokenizers"},
    "qwen3.train.card": set(),
    "qwen3.train.card_text": set(),
    "qwen3.train.charts": set(),
    "qwen3.train.code_version": set(),
    "qwen3.train.curriculum": set(),
    "qwen3.train.data": set(),
    "qwen3.train.curves": set(),
    "qwen3.train.energy": set(),
    "qwen3.train.flops": set(),
    "qwen3.train.layout": set(),
    "qwen3.train.ledger": set(),
    "qwen3.train.ledger_writer": set(),
    "qwen3.train.plan": set(),
    "qwen3.train.recipe": set(),
    "qwen3.train.scaling": set(),
    "qwen3.train.schedule": set(),
    "qwen3.train.shares": set(),
    "qwen3.train.spikes": set(),
    "qwen3.train.step_law": set(),
    "qwen3.train.sweep": set(),
    "qwen3.train.data.hub": {"datasets", "huggingface_hub"},
    "qwen3.train.data.sources": {"pyarrow"},
    "qwen3.train.data.workers": {"ray"},
}

# What of qwen3 the other modules may import, besides the package that they are in; the longest prefix counts.
# "qwen3" allows its own names (`__version__`), not everything below.
CONFIG = {"qwen3.config", "qwen3.presets", "qwen3.strict_json"}
TEXT = {"qwen3.text_split", "qwen3.tokenizer", "qwen3.chat", "qwen3.grammar"}
MAY_IMPORT = {
    "qwen3": {"qwen3.config", "qwen3.engine.llm", "qwen3.engine.request", "qwen3.tokenizer"},
    "qwen3.__main__": {"qwen3.cli"},
    "qwen3.ops": {"qwen3._native", "qwen3.quant.blocks"},
    "qwen3.model": {"qwen3.ops"} | CONFIG,
    "qwen3.checkpoint": CONFIG,
    "qwen3.checkpoint.load": {"qwen3.model", "qwen3.ops"} | CONFIG,
    "qwen3.checkpoint.packed_cache": {"qwen3.model", "qwen3.ops"} | CONFIG,
    "qwen3.checkpoint.gguf_load": {"qwen3.model", "qwen3.ops", "qwen3.quant.blocks"},
    "qwen3.engine": {"qwen3.model", "qwen3.ops"} | CONFIG,
    "qwen3.engine.loading": {"qwen3.model", "qwen3.checkpoint", "qwen3.hardware", "qwen3.weight_choice"},
    "qwen3.engine.generation": {"qwen3.chat", "qwen3.tokenizer"},
    "qwen3.engine.prompts": TEXT,
    "qwen3.engine.results": {"qwen3.chat"},
    "qwen3.engine.scoring": {"qwen3.chat", "qwen3.model", "qwen3.ops"},
    "qwen3.engine.llm": {"qwen3.model", "qwen3.ops", "qwen3.checkpoint", "qwen3.hardware"} | CONFIG | TEXT,
    "qwen3.train": {"qwen3.model", "qwen3.ops", "qwen3.checkpoint"} | CONFIG | TEXT,
    "qwen3.server": {"qwen3", "qwen3.chat", "qwen3.grammar", "qwen3.strict_json"}
    | {f"qwen3.engine.{name}" for name in ("llm", "generation", "prompts", "request", "scoring")},
    "qwen3.server.calculator": {"qwen3.engine.llm", "qwen3.memory", "qwen3.quant.formats"} | CONFIG,
    "qwen3.cli": {"qwen3", "qwen3.memory", "qwen3.hardware", "qwen3.weight_choice", "qwen3.checkpoint"}
    | {"qwen3.agent", "qwen3.engine", "qwen3.ops", "qwen3.train", "qwen3.server"}
    | {"qwen3.model.random", "qwen3.model.transforms"}
    | CONFIG
    | TEXT,
}

RUNS_DATA_AS_CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def name_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in sorted(SOURCE.rglob("*.py"))}
PACKAGES = {name for name, file in MODULES.items() if file.name == "__init__.py"}


def longest_prefix(module: str, table: Iterable[str]) -> str | None:
    return max((prefix for prefix in table if is_within(module, prefix)), key=len, default=None)


def is_within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def imports(tree: ast.AST, module: str) -> Iterator[str]:
    """Every module that a syntax tree imports, also inside functions and for type checkers only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                package = module if module in PACKAGES else module.rpartition(".")[0]
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join(base + ([source] if source else []))
            for alias in node.names:
                full_name = f"{source}.{alias.name}"
                yield full_name if full_name in MODULES or full_name == "qwen3._native" else source


def forbidden_imports(tree: ast.AST, module: str) -> list[str]:
    found = set(imports(tree, module))
    light = longest_prefix(module, LIGHT)
    if light is not None:
        outside = sys.stdlib_module_names | {"numpy"} | LIGHT[light]
        return sorted(
            name
            for name in found
            if not (longest_prefix(name, LIGHT) if is_within(name, "qwen3") else name.split(".")[0] in outside)
        )
    rule = longest_prefix(module, MAY_IMPORT)
    own_package = module if module in PACKAGES else module.rpartition(".")[0]
    allowed = MAY_IMPORT[rule] | {own_package}
    below = allowed - {"qwen3"}
    return sorted(
        name
        for name in found
        if is_within(name, "qwen3") and name not in allowed and longest_prefix(name, below) is None
    )


def executed_data(tree: ast.AST, module: str) -> list[str]:
    """Ways in which data could run as code: unpicklers, eval and exec, torch.load, numpy's allow_pickle."""
    found = [name for name in imports(tree, module) if name.split(".")[0] in RUNS_DATA_AS_CODE]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in {"eval", "exec", "__import__"}:
            found.append(node.id)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"torch.load", "torch.hub.load"}:
            found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.hub"}:
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name == "load"]
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append("allow_pickle")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_the_table_allows(module):
    assert forbidden_imports(ast.parse(MODULES[module].read_text("utf-8")), module) == []


@pytest.mark.parametrize("prefix", [*LIGHT, *MAY_IMPORT])
def test_every_row_of_the_table_is_about_something(prefix):
    assert prefix in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_module_never_runs_data_as_code(module):
    assert executed_data(ast.parse(MODULES[module].read_text("utf-8")), module) == []


@pytest.mark.parametrize(
    ("module", "program", "forbidden"),
    [
        ("qwen3.config", "import torch", ["torch"]),
        ("qwen3.config", "def f():\n    import torch.nn", ["torch.nn"]),
        ("qwen3.config", "from qwen3.model import transformer", ["qwen3.model.transformer"]),
        ("qwen3.config", "from . import model", ["qwen3.model"]),
        ("qwen3.config", "import json, numpy as np\nfrom qwen3.presets import X", []),
        ("qwen3.model.layers", "from qwen3.engine.cache import Cache", ["qwen3.engine.cache"]),
        ("qwen3.model.layers", "import torch\nfrom qwen3 import ops\nfrom qwen3.model import rope", []),
        ("qwen3.ops.reference", "from qwen3.config import ModelConfig", ["qwen3.config"]),
        ("qwen3.engine.cache", "from ..tokenizer import Tokenizer", ["qwen3.tokenizer"]),
        ("qwen3.engine.request", "from qwen3.engine.cache import Cache", ["qwen3.engine.cache"]),
        ("qwen3.train.loop", "from qwen3.engine.llm import LLM", ["qwen3.engine.llm"]),
        ("qwen3.train.loop", "from qwen3 import LLM", ["qwen3"]),
        ("qwen3.server.app", "from qwen3.engine.engine import Engine", ["qwen3.engine.engine"]),
        ("qwen3.engine.llm", "from qwen3.server.worker import Worker", ["qwen3.server.worker"]),
        ("qwen3.agent.loop", "import mcp\nfrom qwen3.engine.request import Finished", []),
        ("qwen3.agent.loop", "from qwen3.engine.llm import LLM", ["qwen3.engine.llm"]),
        ("qwen3.cli.main", "from qwen3 import __version__", []),
        ("qwen3.cli.main", "from qwen3.model import Qwen3", ["qwen3.model"]),
    ],
)
def test_the_table_is_held(module, program, forbidden):
    assert forbidden_imports(ast.parse(program), module) == forbidden


@pytest.mark.parametrize(
    "program",
    [
        "import pickle",
        "from marshal import loads",
        "torch.load(path)",
        "from torch import load",
        "eval(text)",
        "run = exec",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_running_data_as_code_is_seen(program):
    assert executed_data(ast.parse(program), "qwen3.config")


def test_calling_a_method_named_eval_is_no_offence():
    assert executed_data(ast.parse("model.eval()"), "qwen3.config") == []


def test_light_modules_load_no_torch():
    light = [module for module in MODULES if longest_prefix(module, LIGHT)]
    assert "qwen3.config" in light
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} loads torch'\n"
    )
    subprocess.run([sys.executable, "-c", program, "qwen3", *light], check=True)


def test_help_loads_no_torch():
    program = (
        "import sys\n"
        "from qwen3.cli.main import main\n"
        "sys.argv = ['qwen3', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "chat" in result.stdout


def test_the_model_loads_without_torch_s_compiler_and_sharding_which_take_seconds():
    program = "import sys, qwen3.model; assert not {'torch._dynamo', 'torch.distributed.tensor'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_file_has_a_name_that_says_nothing():
    folders = ["src", "native", "tests", "benchmarks", "recipes"]
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if "__pycache__" not in file.parts]
    assert MODULES["qwen3.config"] in files
    vague = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert [file for file in files if file.stem in vague] == []
