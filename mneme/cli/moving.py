"""``export``, ``import`` and ``migrate``: a cache to an archive, to a store, to an embedder."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mneme import checkpoint
from mneme._core.ports import embeds_async
from mneme.cli.embedders import embedder_named
from mneme.cli.say import fail, printable, say_json, working
from mneme.errors import CheckpointError, MnemeError
from mneme.migrate import areembed, reembed
from mneme.stores._address import is_url, open_store, without_passwords
from mneme.stores._reader import open_source
from mneme.types import AnyEmbedder

__all__ = ["export", "import_", "migrate"]

ADDRESS = "The path of a SQLite file, or a postgresql:// or redis:// URL."

Address = Annotated[str, typer.Argument(help=ADDRESS, metavar="STORE", show_default=False)]
Archive = Annotated[Path, typer.Argument(help="The file of the archive.", show_default=False)]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def export(store: Address, archive: Archive, as_json: AsJSON = False) -> None:
    """
    Write all of a cache to one archive, which any store can take in.

    An archive that is there is replaced once the new one is whole.
    """
    with refusals(store), working() as progress:
        check_is_archive(archive)
        source, fingerprint, dim = open_source(store)
        with closing(source):
            progress.add_task("writing", total=None)
            entries = checkpoint.save(source, archive, fingerprint=fingerprint, dim=dim)
    told(as_json, store, archive, entries, fingerprint, dim, f"{store} to {archive}")


def import_(
    archive: Archive,
    store: Address,
    max_bytes: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse an archive that unpacks to more; 16 GiB."),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """
    Fill a new file, or an empty store, from an archive that `export` or `dumps` wrote.

    The archive is checked to its end first; a store that holds entries is left alone.
    """
    options: dict[str, Any] = {} if max_bytes is None else {"max_bytes": max_bytes}
    with refusals(store), working() as progress:
        progress.add_task("checking and loading", total=None)
        if is_url(store):
            with closing(open_store(store)) as dest:
                entries = checkpoint.restore(archive, dest, **options)
        else:
            entries = checkpoint.restore_to_file(archive, store, **options)
        dest, fingerprint, dim = open_source(store)
        dest.close()
    told(as_json, store, archive, entries, fingerprint, dim, f"{archive} to {store}")


def migrate(
    source: Annotated[str, typer.Argument(help=f"{ADDRESS} It is only read.", show_default=False)],
    dest: Annotated[
        str,
        typer.Argument(help="The same; new, empty, or begun before.", show_default=False),
    ],
    embedder: Annotated[
        str,
        typer.Option(metavar="MODULE:ATTRIBUTE", help="The new one.", show_default=False),
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in one call, and a commit.")] = 64,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be given again.")
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """
    Embed every entry of a cache anew, into another store.

    Answers, dates and counters stay. Stopped, it goes on when run again, and embeds nothing twice.
    """
    with refusals(source, dest), working() as progress:
        used = embedder_named(embedder)
        task = progress.add_task("embedding", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        done = reembedded(
            used, source, dest, batch_size=batch_size, progress=tell, namespaces=namespace
        )
    found = {
        "source": without_passwords(source, source),
        "dest": without_passwords(dest, dest),
        "embedded": done,
        "embedder_fingerprint": used.fingerprint,
        "dim": used.dim,
    }
    if as_json:
        say_json(found)
        return
    typer.echo(printable(
        f"{found['dest']}: {done:,} entries of {found['source']} embedded by {used.fingerprint}"
        if done else f"{found['dest']} has all of {found['source']}: nothing to do"
    ))  # fmt: skip


def reembedded(used: AnyEmbedder, source: str, dest: str, **options: Any) -> int:
    try:
        if embeds_async(used):
            return asyncio.run(areembed(source, dest, used, **options))
        return reembed(source, dest, used, **options)
    except KeyboardInterrupt:
        fail(without_passwords(
            f"stopped. What was done is in {dest}. Run it again: it goes on from there.", dest
        ))  # fmt: skip


def check_is_archive(path: Path) -> None:
    """What is replaced has to be an archive: two names in the wrong order must cost nothing."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        if file.read(4) not in (b"PK\3\4", b""):
            raise CheckpointError(
                f"{path} exists and is no archive. It was not touched. Use another name."
            )


@contextmanager
def refusals(*addresses: str) -> Iterator[None]:
    """What is refused in this block is told on one line, and no password of `addresses`."""
    try:
        yield
    except (MnemeError, OSError, ValueError, ImportError) as exc:
        fail(without_passwords(str(exc), *addresses))


def told(
    as_json: bool, store: str, archive: Path, entries: int, fingerprint: str, dim: int, way: str
) -> None:
    if as_json:
        say_json({
            "store": without_passwords(store, store),
            "archive": str(archive),
            "entries": entries,
            "embedder_fingerprint": fingerprint,
            "dim": dim,
        })  # fmt: skip
        return
    line = f"{way}: {entries:,} entries, filled by {fingerprint} ({dim})"
    typer.echo(printable(without_passwords(line, store)))
