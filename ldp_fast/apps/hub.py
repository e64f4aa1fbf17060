"""Names of models on the hub: whether the hub can be reached is asked before a library tries for half a minute."""

from __future__ import annotations

import os
import pathlib
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping

from ..errors import UsageError, reason, shortened
from ..guidance.loading import embedded_folder, embedded_models

# Until a connection is there; a name server that does not answer is not waited for any longer either.
SECONDS = 4.0
HUB = "https://huggingface.co"
# Where an address does not say its port, by its scheme.
_WEB = {"http": 80, "https": 443}
_PROXY = {**_WEB, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def reachable(argument: str, name: str, file: str) -> str:
    """What a model is loaded by: its name, or its folder in the hub's cache where the hub cannot be asked for it.

    By its name the hub is asked for each file, and asked again and again without a network.

    Args:
        argument: that named it.
        name: an embedded model, a path, or a hub name, which alone is looked at.
        file: at the top of the model, by which it is known to be in the cache.

    Raises:
        UsageError: a path that does not exist; a hub name, and no network; HF_ENDPOINT is not an address.
        ModuleNotFoundError: huggingface_hub is not installed.
    """
    check_endpoint()
    try:
        if embedded_folder(name) is not None or pathlib.Path(name).expanduser().exists():
            return name
    except (OSError, ValueError):  # longer than a name may be, or with a zero byte
        raise UsageError(f"{argument}: expected a path, got {shortened(name)!r}") from None
    if name.startswith((".", "~", "/")) or name.count("/") > 1 or not name:
        raise UsageError(f"{argument}: there is no folder {name!r}")
    hub = endpoint()
    from huggingface_hub import try_to_load_from_cache

    try:
        held = try_to_load_from_cache(name, file)
    except ValueError:
        raise UsageError(
            f"{argument}: {name!r} is neither an embedded model ({', '.join(embedded_models())}), nor a folder, nor a "
            "hub name (owner/name)"
        ) from None
    cached = pathlib.Path(held).parent if isinstance(held, str) else None
    offline = next((v for v in _OFFLINE if os.environ.get(v, "").lower() in ("1", "on", "yes", "true")), None)
    why = unreachable(hub) if offline is None else offline
    if why is None:
        return name
    if cached is not None:
        return str(cached)
    if offline is not None:
        raise UsageError(
            f"{argument}: {name!r} is not in the cache of {_shown(hub)}, and {offline} forbids fetching it"
        )
    raise UsageError(
        f"{argument}: {name!r} would have to be fetched from {_shown(hub)}, but the network does not lead there "
        f"({why}): give a folder"
    )


def check_endpoint() -> None:
    """Checks that HF_ENDPOINT can be read; where it cannot, no model can be loaded, for the hub's library reads it too.

    Raises:
        UsageError: says what came.
    """
    try:
        _ = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", HUB)).port
    except ValueError:
        endpoint()


def endpoint() -> str:
    """The hub's address. An empty HF_ENDPOINT is not taken for none, as the hub's library does not do so.

    Raises:
        UsageError: HF_ENDPOINT is not a web address.
    """
    hub = os.environ.get("HF_ENDPOINT", HUB)
    if _place(hub, _WEB) is None:
        raise UsageError(
            f"HF_ENDPOINT: expected the hub's address, such as {HUB}, got {_shown(hub)!r}; or leave it unset"
        )
    return hub


def _place(address: str, schemes: Mapping[str, int]) -> tuple[str, int] | None:
    """Host and port of an address; None where it is not one."""
    try:
        url = urllib.parse.urlsplit(address)
        host, port = url.hostname, url.port
    except ValueError:
        return None
    if url.scheme not in schemes or not host or any(character.isspace() for character in address):
        return None
    return host, port or schemes[url.scheme]


def _shown(address: str) -> str:
    """An address without the user's name and password, which that of a proxy may hold."""
    return shortened(re.sub(r"^(\w+://)?[^/]*@", r"\1…@", address))


def _proxy(address: str) -> tuple[str, str] | None:
    """The variable of the proxy on the way to an address, and the proxy's own; None where there is none."""
    url, known = urllib.parse.urlsplit(address), urllib.request.getproxies()
    if urllib.request.proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    for name in (url.scheme, "all"):
        if known.get(name):
            variables = (v for v in os.environ if v.lower() == f"{name}_proxy" and os.environ[v] == known[name])
            return next(variables, f"the system's {name} proxy"), known[name]
    return None


def unreachable(address: str) -> str | None:
    """Why a web address, or the proxy on the way to it, does not answer; None where it does."""
    place, proxy, by = _place(address, _WEB), _proxy(address), ""
    if proxy is not None:
        variable, value = proxy
        by, place = f"{variable}, {_shown(value)}: ", _place(value if "://" in value else f"http://{value}", _PROXY)
        if place is None:
            return f"{variable}: expected a proxy's address, such as http://proxy:3128, got {_shown(value)!r}"
    if place is None:
        return "it is not a web address"
    host, port = place
    found: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=SECONDS).close()
            found.append(None)
        except (OSError, UnicodeError) as error:  # the second: a host that cannot be one, such as a..b
            found.append(f"{by}{reason(error)}")

    # A name server is asked without a limit that could be set.
    asking = threading.Thread(target=connect, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return found[0] if found else f"{by}{host} did not answer within {SECONDS:g} s"
