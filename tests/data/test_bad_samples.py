import pytest

from depth_anything_train.data import bad_samples
from depth_anything_train.data.bad_samples import BadSamples
from depth_anything_train.runtime import UserError


def test_bad_samples__stop_the_run_above_the_share():
    bad = BadSamples(0.1, at_least=20)
    for _ in range(19):
        bad.count(1, [("a", "m")])  # too few to judge
    bad.count(171, [])
    bad.count(10, [("b", "m")])  # 20 of 200
    with pytest.raises(UserError, match=r"21 of 201 .*'a': 19, 'b': 2.*max_bad_share=0.1"):
        bad.count(1, [("b", "m")])


def test_bad_samples__show_the_first_and_every_thousandth(capsys):
    bad = BadSamples(1.0)
    for number in range(1, 2002):
        bad.count(1, [("slug", f"message {number}")])
    assert capsys.readouterr().err.splitlines() == [
        f"Bad sample number {number} (slug): message {number}" for number in (1, 1000, 2000)
    ]
    assert bad.reasons == {"slug": 2001}


def test_bad_samples__what_was_used_before_counts_too_and_what_was_loaded_ahead_does_not():
    first = BadSamples(0.1, at_least=20)
    first.count(100, [("a", "m")] * 9)
    first.note_used()
    first.count(100, [("a", "m")] * 10)
    assert first.state() == {"seen": 100, "reasons": {"a": 9}}
    second = BadSamples(0.1, at_least=20, before=first.state())
    second.count(100, [("a", "m")] * 10)
    with pytest.raises(UserError, match=r"21 of 202 .*'a': 19, 'b': 2"):
        second.count(2, [("b", "m")] * 2)


@pytest.mark.parametrize("ranks", [1, 8])
def test_bad_samples__a_continued_run_is_stopped_as_early_on_any_number_of_processes(ranks, monkeypatch):
    monkeypatch.setattr(bad_samples.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(bad_samples.distributed, "get_world_size", lambda: ranks)
    bad = BadSamples(0.1, before={"seen": 8000 * 90, "reasons": {"a": 80}})
    batch = 80 // ranks
    for _ in range(998):
        bad.count(batch, [("b", "m")] * batch)
    with pytest.raises(UserError, match="more than data.max_bad_share=0.1"):  # 80,000 of 799,920, or an eighth of both
        bad.count(batch, [("b", "m")] * batch)


def test_close__a_run_in_which_nothing_could_be_used_is_an_error():
    bad = BadSamples(0.1)
    bad.count(4, [("damaged_sample", "why")] * 4)
    bad.note_used()
    with pytest.raises(UserError, match="None of 4 samples could be used .4 x damaged_sample"):
        bad.close()


def test_close__says_what_was_left_out(capsys):
    bad = BadSamples(0.1)
    bad.count(8, [("damaged_sample", "why")])
    bad.note_used()
    bad.close()
    assert "1 of 8 samples could not be used: 1 x damaged_sample" in capsys.readouterr().err
