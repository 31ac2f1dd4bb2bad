"""What a person writes becomes a store, and a password in it is never shown."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mneme import MemoryStore, SQLiteStore, StoreBackendError
from mneme.stores import open_store
from mneme.stores._address import ENGINES, is_url, owner_of, without_passwords


def test_a_path_is_a_file(tmp_path: Path) -> None:
    """Text or path, also with what would be a scheme on Windows; nothing is made yet."""
    for address in (tmp_path / "a.db", str(tmp_path / "a.db"), "C://a.db", "a:b.db"):
        store = open_store(address)
        assert isinstance(store, SQLiteStore)
        assert store.path == Path(address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ENGINES)
def test_a_url_is_an_engine(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of its kind gets the address as it is."""
    module, name, _, setting = ENGINES[scheme]
    engine = ModuleType(module)
    setattr(engine, name, lambda address, **which: (address, which))
    monkeypatch.setitem(sys.modules, module, engine)
    made: Any = open_store(f"{scheme}://host/db")
    assert made == (f"{scheme}://host/db", {})
    for query, left in ((f"{setting}=a%20b", ""), (f"x=1&{setting}=a%20b&y=%3F", "?x=1&y=%3F")):
        made = open_store(f"{scheme}://host/db?{query}")
        assert made == (f"{scheme}://host/db{left}", {setting: "a b"})


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not installed is an error with the command that installs it."""
    monkeypatch.setitem(sys.modules, "mneme.stores.redis", None)
    with pytest.raises(StoreBackendError, match=r"pip install 'mneme-toolkit\[redis\]'$"):
        open_store("redis://user:secret@host/0")


def test_another_kind_of_url_is_refused() -> None:
    """It does not become a file of that name, and the message does not repeat it."""
    with pytest.raises(ValueError, match=r"no store for mysql:// addresses") as refused:
        open_store("mysql://root:hush@host/db")
    assert "hush" not in str(refused.value)


def test_whose_a_store_is(tmp_path: Path) -> None:
    """The embedder is told without claiming the store; None where nobody has."""
    memory, file = MemoryStore(), SQLiteStore(tmp_path / "a.db")
    assert owner_of(memory) is None
    for store in (memory, file):
        store.claim("a:model", 8)
        assert owner_of(store) == ("a:model", 8)
    file.close()
    assert owner_of(SQLiteStore(tmp_path / "a.db")) == ("a:model", 8)


PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="@/?#&%+ "), min_size=1)


@given(PASSWORDS, st.sampled_from(["postgresql", "redis", "rediss", "mysql"]))
def test_passwords_are_not_shown(password: str, scheme: str) -> None:
    """Neither of the address itself nor of what a driver says of it."""
    address = f"{scheme}://someone:{password}@host:99/db"
    assume(password not in "***")
    said = without_passwords(f"cannot reach {address} with {password}", address, "plain.db")
    assert password not in said
    assert "***" in said


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("redis://:p%40ss@host/0", "p@ss"),
        ("redis://:p%40ss@host/0", "p%40ss"),
        ("postgresql://u:a@b:c@host/db", "a@b:c"),
        ("postgresql://host/db?user=u&password=hush", "hush"),
        ("postgresql://u:hush@[broken/db", "hush"),
        ("postgresql:///db?sslpassword=hush&x=1", "hush"),
    ],
)
def test_odd_passwords_are_not_shown_either(address: str, secret: str) -> None:
    """Percent-encoded, with the signs of addresses in them, or in the query."""
    assert secret not in without_passwords(f"{address} or {secret}", address)


def test_what_has_no_password_stays() -> None:
    """Paths and plain addresses are shown as they are."""
    for address in ("a.db", "redis://host:1/0", "redis://user@host/0", Path("/x:y@z")):
        assert without_passwords(f"<{address}>", address) == f"<{address}>"
    assert is_url("redis://host")
    assert not is_url("a/b.db")
