"""Coverage-guided fuzzing of a reader with atheris, which must be installed besides (`pip install atheris`).

    python tests/fuzz/fuzz.py gguf --minutes 5

Keeps what reaches new code in a corpus folder, where the next run goes on. A finding ends the run and leaves the file.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["qwen3"]):
    from readers import TARGETS


WORDS = ["GGUF", "general.alignment", "dtype", "shape", "data_offsets", "__metadata__", "F64", "BF16", "BOOL", "1e9"]
"""What mutations may put in."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--corpus", type=Path, help="a folder; build/fuzz/TARGET unless given")
    arguments = parser.parse_args()
    corpus = arguments.corpus or Path("build/fuzz") / arguments.target
    corpus.mkdir(parents=True, exist_ok=True)
    target, seeds = TARGETS[arguments.target]
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.parent / f"{arguments.target}.dict"
    words.write_text("".join(f'"{word}"\n' for word in WORDS))
    path = Path(tempfile.mkdtemp()) / "file"

    def run(content: bytes) -> None:
        refusal = target(content, path)
        assert refusal is None or refusal.isprintable(), refusal

    options = [
        f"-max_total_time={arguments.minutes * 60:.0f}",
        "-max_len=32768",
        "-print_final_stats=1",
        "-timeout=5",
        f"-dict={words}",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
