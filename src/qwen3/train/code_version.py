"""Which code a run was made with: the SHA-256 of this package's sources, and the commit where git has them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def code_version() -> dict[str, str]:
    """`sha256` of all sources, and `commit` if there is one."""
    total = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(_PACKAGE).as_posix()} {digest}\n".encode())
    version = {"sha256": total.hexdigest()}
    if found := commit():
        version["commit"] = found
    return version


def commit(package: Path = _PACKAGE) -> str | None:
    """The commit of the code in `package`, followed by "with changes" if its files are others than the commit's.

    None where git does not track them: a package installed into some other project's checkout is not of that project's
    commit.
    """
    if shutil.which("git") is None:
        return None

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True, check=False)

    tracked, head = git("ls-files", "--error-unmatch", "__init__.py"), git("rev-parse", "HEAD")
    if tracked.returncode or head.returncode:
        return None
    return head.stdout.strip() + (" with changes" if git("status", "--porcelain", ".").stdout.strip() else "")
