import json
import socket
import time

import numpy as np
import pytest

from depth_anything_train.callbacks.wandb_mirror import WandbMirror


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No key, no login, no word of wandb's own; it is started and ended anew by each test."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    yield
    import wandb

    wandb.teardown()


def mirror(folder, **options):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("steps: 3\n")
    (folder / "provenance.json").write_text(json.dumps({"commit": "abc"}))
    return WandbMirror(folder=folder, project="tests", name="run", **options)


def test_mirror__is_offline_without_a_key_and_the_same_run_after_a_restart(tmp_path):
    ids = []
    for step in (1, 2):
        logger = mirror(tmp_path / "run")
        logger.log_metrics({"train/loss": 1.0}, step=step)
        logger.log_image("previews", np.zeros((8, 8, 3), np.uint8), step=step)
        logger.log_table("data", [{"source": "a", "images": 3}, {"source": "b", "licences": ["CC0"]}])
        assert logger.run.offline
        assert logger.run.config["steps"] == 3 and logger.run.config["provenance"]["commit"] == "abc"
        ids.append(logger.run.id)
        logger.finalize("success")
    assert ids[0] == ids[1] == (tmp_path / "run" / "wandb_id").read_text()
    assert not logger.failed
    media = next((tmp_path / "run" / "wandb").glob(f"offline-run-*{ids[0]}/files/media"))
    table = next(media.rglob("*.table.json"))
    assert json.loads(table.read_text())["data"] == [["a", "3", ""], ["b", "", "['CC0']"]]
    assert list(media.rglob("*.png"))


def test_mirror__goes_on_offline_when_nobody_answers(tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        logger = mirror(tmp_path / "run", timeout_s=1.0)
        start = time.monotonic()
        logger.log_metrics({"train/loss": 1.0}, step=0)
        assert time.monotonic() - start < 20
        logger.log_metrics({"train/loss": 0.5}, step=1)
        logger.finalize("success")
    assert not logger.failed
    assert capsys.readouterr().err.count("wandb goes on offline") == 1
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 1


def test_mirror__a_failure_is_said_once_and_stops_nothing(tmp_path, capsys):
    logger = mirror(tmp_path / "run", offline=True, job_type=object())  # nothing that wandb could send
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step=step)
    logger.finalize("success")
    assert logger.failed
    assert capsys.readouterr().err.count("left out from here on") == 1
