"""The webhook, against a real HTTP server on loopback: what it is sent, and every way in which it does not take it."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from exportkit.plugin import ConfigError, StepFailed
from platform_toys import config, export, plan, refusal

SECRET = "s3cr3t-path"
URL, TOKEN = "EXPORTKIT_NOTIFY_URL", "HOOK_TOKEN"


@contextmanager
def _webhook(*answers):
    """A server that gives `answers` one after the other, then 200; yields its address and the requests that it got."""
    got, todo = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, dict(self.headers), json.loads(body)))
            answer = todo.pop(0) if todo else 200
            if answer == "sleep":
                time.sleep(1)
            elif answer == "hang up":
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self.send_response(answer)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(b"so be\nit")

        def do_GET(self):
            got.append((self.path, {}, "GET"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def told(scores_prefix, tmp_path, monkeypatch):
    """Export a model and notify a webhook at a host."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def tell(host, **options):
        monkeypatch.setenv(URL, f"http://{host}/{SECRET}?key={SECRET}")
        step = {"kind": "notify", "pause": 0.01, **options}
        return export(config(scores_prefix, tmp_path, post={"notify": step}))

    return tell


def test_a_webhook_gets_the_report(told, monkeypatch):
    monkeypatch.setenv(TOKEN, "t0ken")
    with _webhook() as (host, got):
        report = told(host, token_variable=TOKEN)
    ((path, headers, body),) = got
    assert path == f"/{SECRET}?key={SECRET}"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["Idempotency-Key"] == "scores/1"
    assert (body["name"], body["version"], body["status"]) == ("scores", 1, "published")
    assert body["directory"] == report.directory
    assert body["weights"]["proof"].startswith("1/1")
    assert report.steps[0].details == {"host": host, "attempts": 1}


@pytest.mark.parametrize("answer", [500, 503, 429, "hang up"])
def test_a_webhook_that_is_not_ready_is_told_again(told, answer):
    with _webhook(answer, answer) as (host, got):
        report = told(host)
    assert report.steps[0].details["attempts"] == len(got) == 3


def test_a_webhook_that_never_is_ready(told, tmp_path):
    with _webhook(500, 500, 500) as (host, got):
        lines = refusal(StepFailed, told, host)
    assert len(got) == 3
    assert lines == [
        f"post.notify (plugin notify of exportkit-platform 0.1.0): {host} "
        "answered 500 Internal Server Error: so be it 3 times; "
        f"see to the webhook that {URL} names; version 1 stays in {tmp_path / 'exports' / '1'}"
    ]
    assert (tmp_path / "exports" / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize(("answer", "reason"), [(404, "Not Found"), (401, "Unauthorized"), (302, "Found"), (303, "See Other")])
def test_what_does_not_change_is_not_tried_again(told, answer, reason):
    with _webhook(answer) as (host, got):
        (line,) = refusal(StepFailed, told, host)
    assert len(got) == 1
    assert f"{host} answered {answer} {reason}: so be it; see to" in line


def test_nobody_listens(told):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        (line,) = refusal(StepFailed, told, host)
    assert f"{host} could not be reached (connection refused) 3 times" in line


def test_a_host_that_there_is_not(told):
    (line,) = refusal(StepFailed, lambda: told("hook.invalid", attempts=1))
    assert "hook.invalid could not be reached (" in line


def test_a_webhook_that_does_not_answer(told):
    with _webhook("sleep") as (host, _):
        (line,) = refusal(StepFailed, lambda: told(host, attempts=1, answer_within=0.1))
    assert f"{host} did not answer within 0.1 s;" in line


def test_pauses_double(told, monkeypatch):
    pauses = []
    monkeypatch.setattr("exportkit_platform.notify.time", SimpleNamespace(sleep=pauses.append))
    with _webhook(500, 500, 500) as (host, _):
        told(host, attempts=4, pause=0.5)
    assert pauses == [0.5, 1.0, 2.0]


def test_the_address_is_nowhere_but_in_the_environment(told, scores_prefix, tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN, "t0ken")
    with _webhook() as (host, _):
        report = told(host, token_variable=TOKEN)
    with _webhook(404) as (host, _):
        (line,) = refusal(StepFailed, told, f"user:{SECRET}@{host}")
    planned = plan(config(scores_prefix, tmp_path, post={"notify": {"kind": "notify", "token_variable": TOKEN}}))
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for text in (report.to_json(), line, str(planned), *map(str, written)):
        assert SECRET not in text and "t0ken" not in text


def _problems(prefix, base, **options):
    return refusal(ConfigError, plan, config(prefix, base, post={"notify": {"kind": "notify", **options}}))


def test_what_is_wrong_is_told_before_anything_is_published(scores_prefix, tmp_path, monkeypatch):
    monkeypatch.delenv(URL, raising=False)
    assert _problems(scores_prefix, tmp_path, attempts=0, answer_within=0, pause=-1, token_variable=TOKEN) == [
        "post.notify.attempts: is 0; write 1 or more, at most 20",
        "post.notify.answer_within: is 0; write more than 0, at most 1,000,000",
        "post.notify.pause: is -1; write 0 or more, at most 3,600",
    ]
    assert _problems(scores_prefix, tmp_path, token_variable=TOKEN) == [
        f"post.notify.url_variable: the environment variable {URL} is not set; set it, or leave the step out",
        f"post.notify.token_variable: the environment variable {TOKEN} is not set; set it, or leave the step out",
    ]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://", "hooks.example/x", "ftp://hooks.example"])
def test_an_address_that_is_none(scores_prefix, tmp_path, monkeypatch, url):
    monkeypatch.setenv(URL, url)
    assert _problems(scores_prefix, tmp_path) == [
        f"post.notify.url_variable: {URL} holds no http:// or https:// address; fix it"
    ]
