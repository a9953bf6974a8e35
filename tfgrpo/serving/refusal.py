"""What the proxy says by itself, in the shape of the OpenAI API, so that every client reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping

KINDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class Refused(Exception):
    """Ends a request with an answer of ours; `code` also stands in the header `x-tfgrpo-error`.

    The texts name no key, no header and nothing of a body.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = {"x-tfgrpo-error": code, **(headers or {})}

    def body(self) -> bytes:
        """The error as JSON.

        Example:
            >>> Refused(413, "too_large", "the request is too large").body()
            b'{"error": {"message": "the request is too large", "type": "invalid_request_error", "param": null, \
"code": "too_large"}}'
        """
        kind = KINDS.get(self.status, "api_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()

    def event(self) -> bytes:
        """The error as the last event of a stream."""
        return b"data: " + self.body() + b"\n\n"
