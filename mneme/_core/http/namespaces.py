"""The namespace of a request: who tells it, and what becomes of a request that has none."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeAlias

from mneme import context
from mneme._core.keys import check_namespace
from mneme.errors import NamespaceRequiredError

__all__ = ["Namespace", "check_namespace_setting", "log_failure", "namespace_for", "opened"]

log = logging.getLogger("mneme")

Namespace: TypeAlias = str | Callable[[Any], Any] | None
"""A namespace, or who tells it from an ASGI scope, a WSGI environ or a client's request."""


async def namespace_for(namespace: Namespace, where: Any) -> str | None:
    """
    The namespace of the request at `where`; None if none is configured.

    Raises:
        NamespaceRequiredError: the resolver gave none. What is cached for others must not be
            seen, and nothing be stored where others see it.
        Exception: whatever the resolver raises, or a name that is none.
    """
    if not callable(namespace):
        return namespace
    name = namespace(where)
    if inspect.isawaitable(name):
        name = await name
    if name is None:
        raise NamespaceRequiredError(
            "the resolver gave no namespace for a request. The cache was left out of it. "
            "Return a name for every request that is to be cached."
        )
    return check_namespace(name)


async def opened(around: ExitStack, namespace: Namespace, where: Any) -> Exception | None:
    """Open the request's namespace; where that fails, bypass every cache and say why."""
    try:
        name = await namespace_for(namespace, where)
    except Exception as exc:
        around.enter_context(context.bypass())
        return exc
    if name is not None:
        around.enter_context(context.namespace(name))
    return None


def check_namespace_setting(namespace: Namespace) -> None:
    """
    Nothing, if `namespace` is a name or a resolver.

    Raises:
        TypeError, ValueError: it is neither, or no good name.
    """
    if not callable(namespace):
        check_namespace(namespace)


def log_failure(why: Exception) -> None:
    """For requests without a namespace where there is no cache that could count them."""
    # None is how a resolver says that a request (a health check, a login) has no tenant.
    level = logging.DEBUG if isinstance(why, NamespaceRequiredError) else logging.WARNING
    log.log(level, "the namespace resolver failed, going on without any cache: %s", why)
