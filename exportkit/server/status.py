"""Errors of requests: a status code of TensorFlow and a message, as a model server answers them."""

HTTP = {  # ToHTTPStatusCode in http_server.cc
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


class Status(Exception):
    """Why a request is not answered.

    Attributes:
        code: the name of a status code, such as ``INVALID_ARGUMENT``.
        text: the message that its sender gets.
    """

    def __init__(self, code: str, text: str):
        super().__init__(code, text)
        self.code, self.text = code, text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"

    @property
    def http(self) -> int:
        """The HTTP status."""
        return HTTP.get(self.code, 500)


def invalid(text: str) -> Status:
    """Return the status of a wrong request."""
    return Status("INVALID_ARGUMENT", text)
