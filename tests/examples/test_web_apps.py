"""The web applications of the examples, started as their pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import mneme

pytestmark = pytest.mark.needs(
    "starlette", "fastapi", "litestar", "flask", "django", "uvicorn", "wordllama"
)

EXAMPLES = Path(__file__).parents[2] / "examples"
ASKED = {"prompt": "How do I reset my password?"}
REWORDED = {"prompt": "I forgot my password, how do I reset it?"}

APPS = ("starlette_app", "fastapi_app", "litestar_app", "flask_app", "django_asgi_app",
        "django_wsgi_app")  # fmt: skip


@pytest.fixture(params=APPS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx.Client]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = str(Path(mneme.__file__).parents[1])
    server = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{request.param}.py"), "0"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    with server:
        try:
            with httpx.Client(base_url=started(server), timeout=20) as client:
                yield client
        finally:
            server.terminate()


def started(server: subprocess.Popen[str]) -> str:
    """The URL that a server says it runs on."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"unning on (http://127\.0\.0\.1:\d+)", line):
            return found[1]
    pytest.fail("it did not start")


def test_a_reworded_question_is_a_hit_for_its_tenant_alone(client: httpx.Client) -> None:
    """The application answers the first, the cache the second, and nobody else's tenant."""

    def asks(body: dict[str, str], **headers: str) -> tuple[str, str]:
        answer = client.post("/ask", json=body, headers=headers)
        return answer.json()["answer"], answer.headers["cache-status"]

    acme = {"x-tenant": "acme"}
    answer = f"You asked: {ASKED['prompt']}"
    assert asks(ASKED, **acme) == (answer, "mneme; fwd=miss")
    for body, layer in ((ASKED, "exact"), (REWORDED, "semantic")):
        found, status = asks(body, **acme)
        assert found == answer
        assert re.fullmatch(rf"mneme; hit; ttl=3[56]\d\d; detail={layer}", status)
    assert asks(ASKED, **{"x-tenant": "zenith"})[1] == "mneme; fwd=miss"
    assert asks(ASKED)[1] == "mneme; fwd=bypass"
