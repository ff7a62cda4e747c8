import threading

import pytest

from depth_anything_train.runtime import UserError

pytest.importorskip("gradio")

from depth_anything_train.app.actions import Actions  # noqa: E402


class Broken(dict):
    """Models of which none can be had."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, name):
        raise self.error


@pytest.fixture
def messages(monkeypatch):
    messages = []
    monkeypatch.setattr("gradio.Warning", messages.append)
    return messages


def test_predict__what_the_visitor_can_fix_is_told_and_not_logged(messages, tmp_path, capsys):
    actions = Actions(Broken(UserError("Expected a model.")), tmp_path, threading.Event())
    assert actions.predict("photo.jpg", "model", 0) is None
    assert messages == ["Expected a model."]
    assert capsys.readouterr().err == ""


def test_predict__any_other_error_is_logged_and_its_kind_told(messages, tmp_path, capsys):
    actions = Actions(Broken(RuntimeError("out of memory")), tmp_path, threading.Event())
    assert actions.predict("photo.jpg", "model", 0) is None
    assert len(messages) == 1 and "RuntimeError" in messages[0]
    assert "out of memory" in capsys.readouterr().err


def test_actions__without_a_result_everything_is_empty(messages, tmp_path):
    actions = Actions(Broken(None), tmp_path, threading.Event())
    assert actions.show(None, "gray") == [None, ""]
    viewed, points = actions.place(None, 60)
    buttons = [actions.save_colors(None, "gray"), *actions.save_depth(None), points]
    assert viewed is None and len(buttons) == 5
    assert all(button.value is None and not button.interactive for button in buttons)
    assert messages == []
