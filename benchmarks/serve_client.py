"""Clients of a model server at the same time: each sends the next request when the last one is answered.

``serve_client.py rest|grpc PORT MODEL CLIENTS REQUESTS ROWS`` prints one line of JSON: ``seconds``, ``latencies`` in seconds,
``failed``, and ``versions``, the answers that differ. REQUESTS 0: until stdin ends, and a line first when they have begun.
"""

import http.client
import json
import sys
import threading
from collections.abc import Callable
from time import perf_counter

import numpy as np

SIGNATURE, FEATURES = "predict_images", 64


def main(kind: str, *numbers: str) -> None:
    port, model, clients, requests, rows = int(numbers[0]), numbers[1], *map(int, numbers[2:])
    images = np.linspace(0, 1, rows * FEATURES, dtype=np.float32).reshape(rows, FEATURES)
    started, asked, ended = threading.Barrier(clients + 1), threading.Event(), threading.Event()
    lock, left = threading.Lock(), [requests]
    latencies: list[float] = []
    answers: dict[bytes, int] = {}
    failed: list[str] = []

    def take() -> bool:
        with lock:
            left[0] -= 1
            return left[0] >= 0 if requests else not ended.is_set()

    def client() -> None:
        ask = {"rest": rest, "grpc": over_grpc}[kind](port, model, images)
        started.wait()
        while take():
            begun = perf_counter()
            try:
                answer = ask()
            except Exception as error:
                failed.append(repr(error)[:300])
                asked.set()
                continue
            latencies.append(perf_counter() - begun)
            answers[answer] = answers.get(answer, 0) + 1
            asked.set()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    started.wait()
    begun = perf_counter()
    if not requests:
        asked.wait()
        print(flush=True)
        sys.stdin.read()
        ended.set()
    for thread in threads:
        thread.join()
    seconds = perf_counter() - begun
    print(json.dumps({"seconds": seconds, "latencies": latencies, "failed": failed, "versions": len(answers)}))


def rest(port: int, model: str, images: np.ndarray) -> Callable[[], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"signature_name": SIGNATURE, "instances": images.tolist()}).encode()

    def ask() -> bytes:
        connection.request("POST", f"/v1/models/{model}:predict", body)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {content!r}")
        return content

    return ask


def over_grpc(port: int, model: str, images: np.ndarray) -> Callable[[], bytes]:
    import grpc

    from exportkit.checkpoint.tensorproto import to_proto
    from exportkit.server.messages import predict_pb2, prediction_service_pb2_grpc

    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, SIGNATURE
    request.inputs["images"].MergeFromString(to_proto(images))
    return lambda: stub.Predict(request, timeout=60).outputs["scores"].SerializeToString()


if __name__ == "__main__":
    main(*sys.argv[1:])
