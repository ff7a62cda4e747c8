import csv

from depth_anything_train.callbacks.metrics_log import MetricsLog
from depth_anything_train.run_folder import read_metrics


def test_log__rows_come_back_and_steps_count_from_one(tmp_path):
    log = MetricsLog(tmp_path)
    log.log_metrics({"train/loss": 2.0, "epoch": 0}, step=0)
    log.log_metrics({"epoch": 0}, step=1)  # nothing but bookkeeping: no row
    assert read_metrics(log.path) == [{"step": 1, "train/loss": 2.0}]


def test_continue_from__leaves_no_trace_of_an_interruption(tmp_path):
    log = MetricsLog(tmp_path)
    for step in range(4):
        log.log_metrics({"train/loss": float(step)}, step=step)
    with open(log.path, "a") as file:
        file.write('{"step": 5, "train/l')
    log.continue_from(2)
    assert [row["step"] for row in read_metrics(log.path)] == [1, 2]
    log.log_metrics({"train/loss": 2.0}, step=2)
    assert log.path.read_text().count("\n") == 3


def test_log__numbers_of_the_machine_have_a_file_of_their_own(tmp_path):
    log = MetricsLog(tmp_path)
    for step in range(3):
        log.log_metrics({"train/loss": 2.0, "machine/images_per_second": 9.0}, step=step)
    log.continue_from(2)
    assert read_metrics(log.path) == [{"step": step, "train/loss": 2.0} for step in (1, 2)]
    assert read_metrics(log.machine) == [{"step": step, "machine/images_per_second": 9.0} for step in (1, 2)]


def test_log__a_validation_and_the_step_before_it_are_one_row(tmp_path):
    log = MetricsLog(tmp_path)
    log.log_metrics({"train/loss": 2.0}, step=0)
    log.log_metrics({"train/loss": 2.0, "machine/memory_gb": 1.0}, step=0)  # once more, and a number that is new
    log.log_metrics({"val/loss": 3.0, "epoch": 0}, step=0)
    assert read_metrics(log.path) == [{"step": 1, "train/loss": 2.0, "val/loss": 3.0}]
    assert read_metrics(log.machine) == [{"step": 1, "machine/memory_gb": 1.0}]
    log.finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == "step,train/loss,val/loss\n1,2.0,3.0\n"

    whole = log.path.read_text()
    for log in (MetricsLog(tmp_path), MetricsLog(tmp_path)):  # stopped behind the validation, which is done once more
        log.continue_from(1)
        log.log_metrics({"val/loss": 3.0}, step=0)
        assert log.path.read_text() == whole
    log.path.write_text(whole.splitlines(keepends=True)[0])  # stopped before it
    log.continue_from(1)
    log.log_metrics({"val/loss": 3.0}, step=0)
    assert log.path.read_text() == whole


def test_finalize__writes_the_same_numbers_as_a_table(tmp_path):
    log = MetricsLog(tmp_path)
    log.log_metrics({"a": 1.5}, step=0)
    log.log_metrics({"a": 2.5, "b": 3.0}, step=1)
    log.finalize("success")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert rows == [{"step": "1", "a": "1.5", "b": ""}, {"step": "2", "a": "2.5", "b": "3.0"}]
