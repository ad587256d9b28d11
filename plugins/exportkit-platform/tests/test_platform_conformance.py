"""The steps under exportkit's own suite."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from exportkit.testing import StepSuite

from exportkit_platform.model_card import ModelCard
from exportkit_platform.notify import Notify
from exportkit_platform.policy import POLICY_FILE, PolicyStep


@pytest.mark.quick(20)
class TestModelCard(StepSuite):
    step = ModelCard
    varies = ("assets.extra/model_card.*",)  # they hold the version's number

    def check(self, directory, report):
        assert (directory / "assets.extra" / "model_card.md").read_text().startswith("# toy, version 1\n")
        assert "<title>toy, version 1</title>" in (directory / "assets.extra" / "model_card.html").read_text()


@pytest.mark.quick(20)
class TestPolicy(StepSuite):
    step = PolicyStep

    @pytest.fixture(autouse=True)
    def _no_policy_of_this_machine(self, monkeypatch):
        monkeypatch.delenv(POLICY_FILE, raising=False)

    def config(self, directory):
        tags = [["serve"], ["serve", "gpu"]]
        return {**super().config(directory), "vars": {"owner": "search", "platform": {"max_bytes": 10**6, "tags": tags}}}


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def webhook():
    with HTTPServer(("127.0.0.1", 0), _Taking) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPORTKIT_NOTIFY_URL", f"http://127.0.0.1:{server.server_port}/hook")
        patch.setenv("no_proxy", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("webhook")
@pytest.mark.quick(20)
class TestNotify(StepSuite):
    step = Notify
