"""The token and who may ask: signing in, cookies among those of others, links from elsewhere, and redirects."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from retrieval.errors import QueryError
from server.access import check_token
from server.guard import Guard, Patience, host_names, is_loopback
from server.metrics import Metrics
from tests.conftest import ROOT
from tests.servers import serving

TOKEN = "p+q/&=#%40x"
HTML = {"Accept": "text/html,*/*;q=0.8"}


@pytest.fixture(scope="module")
def locked(site: Path) -> Iterator[str]:
    with serving(site / ".mmsearch", token=TOKEN) as served:
        yield served


@pytest.fixture
def client(locked: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=locked, timeout=60) as opened:
        yield opened


def signed_in(client: httpx.Client) -> str:
    """The name of the cookie that the client has now."""
    assert client.get("/", params={"token": TOKEN}).status_code == 303
    (name,) = client.cookies.keys()
    return name


def test_every_route_but_health_asks_for_the_token(client: httpx.Client) -> None:
    for path in ("/", "/api/status", "/metrics", "/docs", "/openapi.json", "/media/x", "/thumb/x", "/page/x/main.js"):
        reply = client.get(path)
        assert reply.status_code == 401, path
        assert reply.headers["www-authenticate"].startswith("Bearer") and list(reply.json()) == ["error"]
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/api/search", json={"text": "a"}).status_code == 401
    assert client.get("/healthz").status_code == 200, "a monitor cannot sign in"
    assert client.get("/api/status", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_browser_without_the_cookie_gets_a_page_to_sign_in(client: httpx.Client) -> None:
    page = client.get("/?q=a+cat", headers=HTML)
    assert (
        page.status_code == 401
        and "<form" in page.text
        and "form-action 'self'" in page.headers["content-security-policy"]
    )
    there = re.search(r'name="next" value="([^"]*)"', page.text)
    assert there and there.group(1) == "/?q=a+cat"
    wrong = client.post("/sign-in", data={"token": "wrong-wrong", "next": "/"})
    assert wrong.status_code == 401 and "not the token" in wrong.text
    right = client.post("/sign-in", data={"token": TOKEN, "next": there.group(1)})
    assert (right.status_code, right.headers["location"]) == (303, "/?q=a+cat")
    assert client.get("/?q=a+cat").status_code == 200


def test_the_cookie_does_not_hold_the_token_and_is_named_by_the_port(locked: str, client: httpx.Client) -> None:
    reply = client.get("/", params={"q": "cat", "token": TOKEN})
    assert reply.headers["location"] == "/?q=cat"
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith(f"mmsearch_{urlsplit(locked).port}=") and TOKEN not in cookie
    lower = cookie.lower()
    assert "httponly" in lower and "samesite=lax" in lower and "secure" not in lower
    behind = client.get("/", params={"token": TOKEN}, headers={"X-Forwarded-Proto": "https"})
    assert "secure" in behind.headers["set-cookie"].lower()


def test_two_servers_of_one_host_do_not_sign_each_other_out(site: Path, client: httpx.Client) -> None:
    signed_in(client)
    with serving(site / ".mmsearch", token="another-token") as other:
        client.get(f"{other}/", params={"token": "another-token"})
        assert client.get(f"{other}/api/status").status_code == 200
        assert client.get("/api/status").status_code == 200


@pytest.mark.parametrize(
    "others",
    ['prefs={"a": "b/c", "d": [1]}', 'x="unclosed', "a=b/c; =; ;;", "grüße=ä", 'q="a\\"b"; r={"s"}', "x=1,2; y=(z)"],
)
def test_cookies_of_other_sites_neither_lock_out_nor_break(client: httpx.Client, others: str) -> None:
    name = signed_in(client)
    own = f"{name}={client.cookies[name]}"
    client.cookies.clear()
    for order in (f"{others}; {own}", f"{own}; {others}"):
        assert client.get("/api/status", headers={b"Cookie": order.encode()}).status_code == 200, order
    assert client.get("/api/status", headers={b"Cookie": others.encode()}).status_code == 401
    assert client.get("/api/status", headers={b"Cookie": f"{name}=ÿ".encode("latin-1")}).status_code == 401


@pytest.mark.parametrize(
    "path", ["//evil.example/", "///evil.example", "/\\evil.example", "/%5Cevil.example", "////x//y"]
)
def test_no_redirect_leads_elsewhere(locked: str, client: httpx.Client, path: str) -> None:
    reply = client.send(
        httpx.Request("GET", httpx.URL(locked).copy_with(raw_path=f"{path}?token=p%2Bq%2F%26%3D%23%2540x".encode()))
    )
    location = reply.headers["location"]
    assert reply.status_code == 303 and location.startswith("/") and not location.startswith(("//", "/\\"))
    signed = client.post("/sign-in", data={"token": TOKEN, "next": path})
    assert re.match(r"/(?![/\\])", signed.headers["location"])


def test_another_site_may_lead_to_a_page_and_have_no_data(client: httpx.Client) -> None:
    signed_in(client)
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    followed = {**elsewhere, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for path in ("/", "/?q=cat", "/docs"):
        assert client.get(path, headers=followed).status_code == 200, path
    for path in ("/api/status", "/media/x", "/thumb/x", "/metrics", "/openapi.json"):
        assert client.get(path, headers=followed).status_code == 400, path
    for mode, dest in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe")):
        for site in ("cross-site", "same-site"):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
            assert client.get("/", headers=headers).status_code == 400, headers
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, elsewhere):
        assert client.post("/api/search", json={"text": "a"}, headers=headers).status_code == 400
    assert client.get("/api/status", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_other_hosts_are_refused(client: httpx.Client, locked: str) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    port = urlsplit(locked).port
    assert client.get("/api/status", headers={**bearer, "Host": "evil.example"}).status_code == 400
    assert client.get("/api/status", headers={**bearer, "Host": f"localhost:{port}"}).status_code == 200
    assert client.post("/api/search", json={"text": "a"}, headers={**bearer, "Origin": locked}).status_code == 200
    assert host_names("127.0.0.1", ["My.Box"]) == {"127.0.0.1", "localhost", "::1", "my.box"}
    guard = Guard(client, host_names("0.0.0.0", ["my.box"]), None, Metrics(), ["/"], Patience())  # type: ignore[arg-type]
    assert guard._is_named("192.0.2.7") and guard._is_named("my.box") and not guard._is_named("evil.example")
    assert is_loopback("::1") and not is_loopback("0.0.0.0") and not is_loopback("example.org")


@pytest.mark.parametrize("token", ["short", "with a space", "grüße-an-alle", "line\nbreak-in-it", "\x7f" * 9])
def test_a_token_that_not_every_client_can_send_is_refused(token: str) -> None:
    with pytest.raises(QueryError, match="--token"):
        check_token(token)


def test_the_printed_address_signs_in_whatever_the_token_holds(site: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "mmsearch", "serve", "--index", str(site), "--port", "0", "--token"]
    process = subprocess.Popen([*run, TOKEN], stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        link = re.search(r"http://\S+", line)
        assert link, line
        with httpx.Client(follow_redirects=True, timeout=60) as browser:
            reply = browser.get(link.group(0))
            assert reply.status_code == 200 and reply.url.path == "/" and not reply.url.query
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        if process.stderr is not None:
            process.stderr.close()
    refused = subprocess.run([*run, "grüße-an-alle"], capture_output=True, text=True, env=env, check=False)
    assert (
        refused.returncode in (1, 2)
        and refused.stderr.startswith("error: --token")
        and len(refused.stderr.splitlines()) == 1
    )
