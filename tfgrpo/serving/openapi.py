"""The OpenAPI 3.1 document of the proxy. Bodies are the server's to define: only what is read here is described."""

from __future__ import annotations

from typing import Any

import tfgrpo

TOKEN: list[dict[str, list[str]]] = [{"bearer": []}, {"token": []}, {}]
LABELS = {"description": "ids of the experiences in the request, such as E1@1,E5@2", "schema": {"type": "string"}}
HEADERS = {
    "x-tfgrpo-version": {"description": "the version of the library, such as v7", "schema": {"type": "string"}},
    "x-tfgrpo-experiences": LABELS,
    "x-tfgrpo-store": {"description": "stale, when the store cannot be read", "schema": {"type": "string"}},
    "x-tfgrpo-strategy": {"description": "what chose among several answers", "schema": {"type": "string"}},
    "x-tfgrpo-calls": {"description": "calls of the server that the answer took", "schema": {"type": "string"}},
    "x-tfgrpo-why": {"description": "why this answer was chosen", "schema": {"type": "string"}},
    "x-tfgrpo-request": {"description": "the id in the log", "schema": {"type": "string"}},
}
CONTENT = {"description": "words or parts", "type": ["string", "array", "null"]}
MESSAGE = {
    "type": "object",
    "properties": {"role": {"type": "string"}, "content": CONTENT},
    "required": ["role"],
}
CHAT = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "messages": {"type": "array", "items": MESSAGE},
        "stream": {"type": "boolean"},
    },
    "required": ["model", "messages"],
}
RESPONSES = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "instructions": {"type": ["string", "null"]},
        "input": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]},
        "stream": {"type": "boolean"},
    },
    "required": ["model", "input"],
}


def document() -> dict[str, Any]:
    """The document as JSON.

    Example:
        >>> sorted(document()["paths"])[:3]
        ['/healthz', '/metrics', '/openapi.json']
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tfgrpo serve",
            "version": tfgrpo.__version__,
            "description": "An OpenAI-compatible proxy that puts learned experience into requests.",
        },
        "paths": {
            "/v1/chat/completions": {"post": _model("A chat completion", CHAT)},
            "/v1/responses": {"post": _model("A response", RESPONSES)},
            "/v1/models": {"get": _operation("The server's models")},
            "/healthz": {"get": _own("Whether the process answers", "application/json")},
            "/readyz": {"get": {**_own("Whether to send requests here", "application/json", busy=True)}},
            "/metrics": {"get": _own("Prometheus metrics", "text/plain", guarded=True)},
            "/openapi.json": {"get": _own("This document", "application/json")},
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": "x-tfgrpo-token"},
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {
                        "error": {
                            "type": "object",
                            "properties": {
                                "message": {"type": "string"},
                                "type": {"type": "string"},
                                "param": {"type": ["string", "null"]},
                                "code": {"type": ["string", "null"]},
                            },
                            "required": ["message", "type"],
                        }
                    },
                    "required": ["error"],
                }
            },
        },
    }


def _operation(summary: str) -> dict[str, Any]:
    answers: dict[str, Any] = {
        "200": {"description": "the server's answer, as it gave it", "headers": HEADERS},
        "default": {"description": "an error of the server's, or, with the header x-tfgrpo-error, of the proxy's"},
    }
    return {"summary": summary, "security": TOKEN, "responses": answers}


def _model(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {**_operation(summary), "requestBody": body}


def _own(summary: str, kind: str, *, busy: bool = False, guarded: bool = False) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": summary, "content": {kind: {}}}}
    error = {
        "description": "why not",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if busy:
        answers["503"] = {"description": "it is about to stop"}
    if guarded:
        answers |= dict.fromkeys(("401", "403", "404"), error)
    return {"summary": summary, "security": TOKEN if guarded else [], "responses": answers}
