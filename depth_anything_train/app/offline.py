"""Keeps the page from asking anyone but its own server for anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# gradio's scripts are inline in its page, build functions from text and run in workers made of blobs; all of that is
# allowed, but none of it from another host, whatever a version of gradio may want to load.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class Offline:
    """ASGI middleware: every answer tells the browser to load fonts, scripts and data from this server alone."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on and add the policy to its answer."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)
