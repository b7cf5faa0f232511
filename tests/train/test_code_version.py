"""The commit is the code's own, and says when the code is not the commit's."""

import subprocess

import pytest

from qwen3.train.code_version import code_version, commit


@pytest.fixture
def package(tmp_path):
    """A package in a git checkout, whose files are the commit's."""
    directory = tmp_path / "src" / "package"
    directory.mkdir(parents=True)
    (directory / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "first")
    return directory


def git(directory, *words):
    return subprocess.run(["git", "-C", directory, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_changed_code_is_not_passed_off_as_its_commit(package, tmp_path):
    head = git(tmp_path, "rev-parse", "HEAD")
    # What is beside the package is no part of it.
    (tmp_path / "notes.txt").write_text("new")
    assert commit(package) == head
    (package / "__init__.py").write_text("x = 1")
    assert commit(package) == f"{head} with changes"


def test_another_project_s_commit_is_not_the_package_s(package, tmp_path):
    installed = tmp_path / "site-packages" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert commit(installed) is None
    assert commit(tmp_path / "missing") is None


def test_the_sources_have_a_digest():
    assert len(code_version()["sha256"]) == 64
