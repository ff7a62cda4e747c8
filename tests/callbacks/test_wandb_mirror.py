from depth_anything_train.callbacks.wandb_mirror import wandb_mirror


def test_wandb__offline_and_the_same_run_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    ids = []
    for step in (1, 2):
        logger = wandb_mirror(folder=tmp_path, project="tests", name="run")
        logger.log_metrics({"train/loss": 1.0}, step=step)
        assert logger.experiment.offline
        ids.append(logger.experiment.id)
        logger.experiment.finish()
    assert ids[0] == ids[1] == (tmp_path / "wandb_id").read_text()
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*{ids[0]}"))) >= 1
