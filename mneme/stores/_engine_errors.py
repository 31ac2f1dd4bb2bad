"""What the drivers of engines raise, in mneme's words."""

from __future__ import annotations

from mneme.errors import StoreBackendError

__all__ = ["unavailable"]


def unavailable(
    name: str, exc: Exception, password: str | None, *, is_away: bool, also: str = ""
) -> StoreBackendError:
    """
    What to raise for `exc` of the server `name`, without its `password`; `is_away` where that
    gave no answer, and `also` names what else there is to check.
    """
    text = " ".join(str(exc).split())
    if password:
        text = text.replace(password, "***")
    error = StoreBackendError(
        f"{name} cannot be used: {text}. Nothing is known to have been changed. "
        "Check that the server runs, that it can be reached from here, the user's "
        f"password and rights,{also} and timeout=."
    )
    error.is_away = is_away
    return error
