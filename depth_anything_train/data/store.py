"""How stores are spoken to: fsspec, with its own settings for keys and endpoints, several attempts, one sentence."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from depth_anything_train.data.file_cache import CACHE, CACHE_GB, cache_folder
from depth_anything_train.runtime import UserError, import_extra

LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
"""Scheme of an address -> what fsspec needs for it."""

ATTEMPTS, FIRST_DELAY_S, GIVE_UP_S = 4, 0.5, 60.0
"""How often something is tried, the pause after the first failure, which doubles each time, and when no attempt begins
any more: gcsfs alone tries for more than a minute to find a store that is not there."""

STALLED_S = 60.0
"""How long a web server may send nothing. How long a file takes in all does not matter, as long as it comes."""

Result = TypeVar("Result")


class StoreError(UserError):
    """A store does not give a file; it may give others."""


def filesystem(address: str) -> Any:
    """fsspec's object for a store; it keeps one for each process, so a forked worker gets its own."""
    scheme = address.partition("://")[0]
    library, fsspec = import_extra(LIBRARIES[scheme], extra="remote"), import_extra("fsspec", extra="remote")
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("http", "https"):  # aiohttp alone allows five minutes in all, whatever the size
        timeout = library.ClientTimeout(total=None, sock_connect=STALLED_S, sock_read=STALLED_S)
        given = fsspec.config.apply_config(fsspec.get_filesystem_class(scheme), {}).get("client_kwargs", {})
        options["client_kwargs"] = {"timeout": timeout, **given}
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # prints tracebacks of what is tried again, or told below
    return fsspec.filesystem(scheme, **options)


def retry(address: str, action: Callable[[], Result], *, patient: bool = False) -> Result:
    """Do something that needs a store, again if it fails.

    Args:
        address: for messages.
        action: what to do.
        patient: try as often even if the attempts before took long, as those to fetch a large file may.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: it failed each time, or access is refused.
        UserError: the disk of the cache is full.
    """
    start = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address) from None
        except PermissionError as error:
            raise StoreError(f"Access to {address} is refused ({error}); check the keys of the store.") from None
        except UserError:
            raise
        except Exception as error:  # each store has errors of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"The disk of the cache {cache_folder()} is full; make room, set {CACHE_GB} lower, or name another "
                    f"folder by {CACHE}."
                ) from None
            failure = " ".join(f"{type(error).__name__}: {error}".split())
            if attempt == ATTEMPTS or (time.monotonic() - start > GIVE_UP_S and not patient):
                break
            time.sleep(FIRST_DELAY_S * 2 ** (attempt - 1))
    raise StoreError(f"{address} cannot be read: {attempt} attempts failed, the last with {failure}; try again later.")
