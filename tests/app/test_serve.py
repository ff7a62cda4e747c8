import socket

import pytest

from depth_anything_train.app.serve import free_port
from depth_anything_train.runtime import UserError


def test_free_port__is_the_one_asked_for_or_any():
    assert free_port("127.0.0.1", free_port("127.0.0.1", 0)) > 0


@pytest.mark.parametrize("port", [70_000, -1])
def test_free_port__refuses_what_is_no_port(port):
    with pytest.raises(UserError, match=f"port {port} cannot be used"):
        free_port("127.0.0.1", port)


def test_free_port__refuses_one_in_use():
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(UserError, match="in use"):
            free_port("127.0.0.1", other.getsockname()[1])
