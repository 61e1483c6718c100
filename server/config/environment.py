"""The environment as we read it: which variables are ours, and what of them is a slip (pure).

Much that begins with our prefix was set by nobody on purpose: Kubernetes tells every container
of a pod about a service named ``understudy``. Such variables are passed over. One that looks as
if somebody had meant us, and misspelt it, is told with the nearest name that there is; only
where it seems to hold a token is it an error, for without it the doors would be open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from generator.hook_secrets import WANTED, is_secret

PREFIX: Final = "UNDERSTUDY_"

STUDIO_TOKEN: Final = "UNDERSTUDY_STUDIO_TOKEN"  # noqa: S105 - the variable's name
"""What the terminal's commands bring to a Studio; a server wants nothing of it."""

STUDIO_DATABASE: Final = "UNDERSTUDY_STUDIO_DATABASE"
"""The address of the Studio's database: a secret, for it may bring a password."""

_READ: Final = re.compile(r"UNDERSTUDY_|R2_")
_SERVICE_LINK: Final = re.compile(
    r"(.*_)?SERVICE_(HOST|PORT(_\w+)?)|(.*_)?PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


def tidy(env: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """The variables that we read, without what surrounds a value by mistake.

    A file of variables that was written on Windows ends each of them in a carriage return.

    Args:
        env: the environment.
        also: names of variables that are ours without looking so.
    """
    names = frozenset(also)
    return {
        name: value.strip().removeprefix("\ufeff")
        for name, value in env.items()
        if _READ.match(name) or name in names
    }


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes (or Docker's links) set a variable that begins with our prefix."""
    name = name.removeprefix(PREFIX)
    if _SERVICE_LINK.fullmatch(name):
        return True
    return (name == "PORT" or name.endswith("_PORT")) and bool(_SERVICE_ADDRESS.fullmatch(value))


def why_no_token(token: str, *, sent: bool) -> str | None:
    """What is wrong with a token, of which nothing is said; None for nothing.

    Args:
        token: without blanks around it.
        sent: whether we send it ourselves: a header carries ASCII alone from everybody to
            everybody. One that we are brought is understood in UTF-8 and in Latin-1.
    """
    if not token.isprintable():
        return "expected a text of one line without control characters"
    if sent and _VISIBLE.fullmatch(token) is None:
        return "expected visible signs of ASCII: a header carries nothing else"
    return None


def why_no_secret(text: str) -> str | None:
    """What is wrong with a secret for signatures, or with one of several; None for nothing.

    Args:
        text: as Standard Webhooks has them; two, with a blank between, while one is replaced.
    """
    for each in text.split():
        if not is_secret(each):
            return f'{WANTED}: echo "whsec_$(openssl rand -base64 32)"'
    return None
