import threading

import pytest

from depth_anything_train.runtime import UserError


class Broken(dict):
    """Models of which none can be had."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, name):
        raise self.error


@pytest.fixture
def actions(tmp_path):
    """What makes them of some models; gradio takes seconds to import, which one process of the tests alone spends."""
    pytest.importorskip("gradio")
    from depth_anything_train.app.actions import Actions

    return lambda models: Actions(models, tmp_path, threading.Event())


@pytest.fixture
def messages(actions, monkeypatch):
    messages = []
    monkeypatch.setattr("gradio.Warning", messages.append)
    return messages


def test_predict__what_the_visitor_can_fix_is_told_and_not_logged(actions, messages, capsys):
    assert actions(Broken(UserError("Expected a model."))).predict("photo.jpg", "model", 0) is None
    assert messages == ["Expected a model."]
    assert capsys.readouterr().err == ""


def test_predict__any_other_error_is_logged_and_its_kind_told(actions, messages, capsys):
    assert actions(Broken(RuntimeError("out of memory"))).predict("photo.jpg", "model", 0) is None
    assert len(messages) == 1 and "RuntimeError" in messages[0]
    assert "out of memory" in capsys.readouterr().err


def test_actions__without_a_result_everything_is_empty(actions, messages):
    empty = actions(Broken(None))
    assert empty.show(None, "gray") == [None, ""]
    viewed, points = empty.place(None, 60)
    buttons = [empty.save_colors(None, "gray"), *empty.save_depth(None), points]
    assert viewed is None and len(buttons) == 5
    assert all(button.value is None and not button.interactive for button in buttons)
    assert messages == []
