"""Faults at moments that are made sure: final weights are those of an undisturbed run, to the last bit."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from scenes import write_shards
from striking import Fault, end, expected, judged, run_to_the_end, start, tiny_runs, weights

from depth_anything_train.data.test_sets import open_data
from depth_anything_train.evaluation.loop import evaluate
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.models.checkpoints import load_model
from depth_anything_train.models.loading import load_depth_model
from depth_anything_train.run_folder import read_lines, read_metrics

KILL, TERM = signal.SIGKILL, signal.SIGTERM
STEPS, EVERY = 12, 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tiny_runs(tmp_path_factory.mktemp("runs"), steps=STEPS, every=EVERY)


@pytest.fixture
def one_thread():
    """In this process too, as in those of the ranks: the order of sums depends on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def numbers(cfg, name="train/loss"):
    return [row[name] for row in read_metrics(Path(cfg.out) / "metrics.jsonl") if name in row]


def record(cfg):
    return (Path(cfg.out) / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("ranks", "faults"),
    [
        (
            1,
            [
                Fault(KILL, "checkpoint", 4),
                Fault(TERM, "validation", 4),
                Fault(KILL, "step", 4),
                Fault(TERM, "start-up"),
                Fault(TERM, "validation", 12),
                Fault(KILL, "validation", 12),
            ],
        ),
        (
            2,
            [
                Fault(TERM, "validation", 0),
                Fault(KILL, "step", 5, rank=1),
                Fault(TERM, "validation", 8, rank=1),
                Fault(TERM, "checkpoint", 12),
            ],
        ),
    ],
)
def test_faults__several_in_a_row_leave_no_trace_in_the_weights(runs, tmp_path, ranks, faults):
    undisturbed = runs("tiny_student", tmp_path / "undisturbed")
    run_to_the_end(undisturbed, ranks=ranks)
    disturbed = runs("tiny_student", tmp_path / "disturbed", "workers=2", "checkpoint.background=true")
    half = len(faults) // 2
    ends = [end(start(disturbed, ranks=ranks, fault=fault)) for fault in faults[:half]]
    disturbed.compile = ranks > 1  # from here on
    ends += run_to_the_end(disturbed, *faults[half:], ranks=ranks)
    assert all(map(expected, ends, faults)), ends
    assert weights(Path(disturbed.out)) == weights(Path(undisturbed.out))
    assert record(disturbed) == record(undisturbed)
    assert judged(Path(disturbed.out)) == judged(Path(undisturbed.out))
    assert len(numbers(disturbed)) == STEPS and judged(Path(disturbed.out)).count("\n") == STEPS // EVERY + 1


def test_fewer_ranks__continue_with_the_same_samples_and_losses(runs, tmp_path):
    # Steps so small that rounding, which differs, cannot grow: medians make the loss a rough surface.
    careful = ["optim.encoder_lr=1e-7", "optim.decoder_lr=1e-7"]
    one = runs("tiny_student", tmp_path / "one", *careful, "validation=[]")
    run_to_the_end(one)
    shrunk = runs("tiny_student", tmp_path / "shrunk", *careful, "validation=[]", "max_per_device=3")
    assert end(start(shrunk, ranks=2, fault=Fault(TERM, "step", 6, rank=1))) == [75, 75]
    assert len(numbers(shrunk)) == 7
    assert end(start(shrunk)) == [0]
    assert len(numbers(shrunk)) == STEPS
    assert numbers(shrunk) == pytest.approx(numbers(one), rel=1e-5)


def test_second_start__waits_for_the_first_which_leaves_no_row_twice(runs, tmp_path):
    cfg = runs("tiny_teacher", tmp_path / "run")
    (first,) = start(cfg, fault=Fault(signal.SIGSTOP, "step", 5))
    while len(numbers(cfg)) < 5:
        assert first.is_alive()
        time.sleep(0.05)
    (second,) = start(cfg)
    second.join(3)
    waited = second.exitcode is None and len(numbers(cfg)) == 5
    os.kill(first.pid, signal.SIGCONT)
    assert end([first, second]) == [0, 0] and waited
    assert [row["step"] for row in read_lines(Path(cfg.out) / "metrics.jsonl")] == [*range(1, STEPS + 1)]


def test_silent_rank__is_given_up_after_the_timeout(runs, tmp_path):
    cfg = runs("tiny_teacher", tmp_path / "run", "timeout_s=3")
    processes = start(cfg, ranks=2, fault=Fault(signal.SIGSTOP, "step", 5, rank=1))
    processes[0].join(120)
    assert processes[0].exitcode == 2  # a sentence, as for every UserError
    end(processes, timeout=0)


def test_fsdp__has_the_losses_of_ddp_continues_and_ends_in_a_whole_model(runs, tmp_path, one_thread):
    held_out = write_shards(tmp_path / "held_out", "labelled", counts=(3,), first=50)
    careful = ["optim.encoder_lr=1e-7", "optim.decoder_lr=1e-7", "model.activation_checkpointing=selective"]
    careful += [f"validation=[{held_out}]", "validate.every_n_steps=8"]
    whole = runs("tiny_teacher", tmp_path / "whole", *careful)
    sharded = runs("tiny_teacher", tmp_path / "sharded", *careful, "trainer.strategy=fsdp2", "preview.every_n_steps=8")
    for cfg in (whole, sharded):
        run_to_the_end(cfg, ranks=2)
        rows = read_metrics(Path(cfg.out) / "validation" / "metrics.jsonl")
        assert [row["step"] for row in rows] == [0, 8, STEPS]
        # Two ranks share three images, and have the numbers of one.
        model = DepthAnything.from_pretrained(Path(cfg.out) / "model", device="cpu")
        alone = evaluate(model, open_data([str(held_out)]), DepthProtocol(name="validation"))
        assert rows[-1] == {"step": STEPS, "images": 3, **alone.mean()}
        best, _ = load_model(Path(cfg.out) / "best")
        assert torch.isfinite(best(torch.zeros(1, 3, 28, 28))).all()
    assert numbers(sharded) == pytest.approx(numbers(whole), rel=1e-5)
    assert (Path(sharded.out) / "previews" / "step-00000008.png").exists()

    plain = ["trainer.strategy=fsdp2", "validation=[]"]
    undisturbed = runs("tiny_teacher", tmp_path / "undisturbed", *plain)
    run_to_the_end(undisturbed, ranks=2)
    disturbed = runs("tiny_teacher", tmp_path / "disturbed", *plain, "compile=true")
    assert end(start(disturbed, ranks=2, fault=Fault(TERM, "step", 5))) == [75, 75]
    model, _ = load_depth_model(tmp_path / "disturbed" / "checkpoints" / "step-00000006.ckpt")
    assert torch.isfinite(model(torch.zeros(1, 3, 28, 28))).all()
    run_to_the_end(disturbed, ranks=2)
    assert weights(Path(disturbed.out)) == weights(Path(undisturbed.out))


def test_fsdp__trains_two_heads_of_bins_as_ddp_does(runs, tmp_path, one_thread):
    near, far = (write_shards(tmp_path / name, "labelled", first=first) for name, first in (("near", 0), ("far", 50)))
    domains = "[[nyu,0.001,10.0],[kitti,0.001,80.0]]"
    routed = ["task=metric_routed", f"model.bins.domains={domains}", "model.max_depth_m=80", "steps=4"]
    streams = ["data=metric_two", f"+nyu=[{near}]", f"+kitti=[{far}]", "data.sources.kitti.crop=none"]
    careful = ["~data.batch.labelled", "data.batch.nyu=2", "data.batch.kitti=2", "optim.lr=1e-6", "validation=[]"]
    losses = []
    for strategy in ("ddp", "fsdp2"):
        out = tmp_path / strategy
        cfg = runs("tiny_metric", out, *routed, *streams, *careful, f"trainer.strategy={strategy}")
        run_to_the_end(cfg, ranks=2)
        losses.append({name: numbers(cfg, f"train/loss/{name}") for name in ("nyu", "kitti", "domain")})
        assert load_model(out / "model")[0].config.bins.names == ["nyu", "kitti"]
    for name, values in losses[0].items():
        assert len(values) == 4
        assert losses[1][name] == pytest.approx(values, rel=1e-4)
