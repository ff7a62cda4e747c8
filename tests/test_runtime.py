import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from depth_anything_train import runtime
from depth_anything_train.runtime import UserError, fingerprint, import_extra, keyed_seed


def test_fingerprint__depends_on_content_not_on_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_keyed_seed__is_the_same_everywhere_and_differs_between_keys():
    assert keyed_seed(0, "crop", 1) == 13516250364532556437  # a change would change the order of every run ever started
    assert len({keyed_seed(seed, "crop", i) for seed in range(30) for i in range(30)}) == 900
    assert keyed_seed(1, 23) != keyed_seed(12, 3)


def test_import_extra__names_what_to_install():
    assert import_extra("json", extra="none") is json
    with pytest.raises(UserError, match=r"depth-anything-train\[video\]"):
        import_extra("no_such_library.part", extra="video")


def commit(root, **environment):
    """What a result says of the package in `root`, by a process that may not have git on its path."""
    package = root / "depth_anything_train"
    package.mkdir(exist_ok=True)
    shutil.copy(runtime.__file__, package)
    code = "import runtime; print(runtime.provenance()['commit'])"
    line = [sys.executable, "-c", code]
    return subprocess.run(line, cwd=package, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_provenance__names_the_commit_of_its_own_checkout_alone(tmp_path, monkeypatch):
    """A package may be installed inside somebody else's repository, and images of containers often lack git."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    user = ["-c", "user.name=a", "-c", "user.email=a@b"]
    git = ["git", "-C", str(tmp_path), *user]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    path = {"PATH": str(Path(shutil.which("git")).parent)}
    assert commit(tmp_path, **path) == head
    assert commit(tmp_path, PATH="/nonexistent") == "unknown"
    installed = tmp_path / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    assert commit(installed, **path) == "installed package"
