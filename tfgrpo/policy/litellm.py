"""Every provider that litellm knows. Imported only when such a model is asked for: it takes 2 s and 150 MB.

Its own retries, logging, callbacks, network price list and `.env` reading are off.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from tfgrpo.errors import missing_extra
from tfgrpo.policy.wire import Failure, Outcome, Secret, failure_of_status

QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}


def load_litellm() -> ModuleType:
    """The package, silenced."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import litellm  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "litellm":
            raise
        raise missing_extra("litellm", "litellm", "a model of this provider") from None
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.telemetry = False
    for hooks in ("callbacks", "input_callback", "success_callback", "failure_callback", "service_callback",
                  "_async_success_callback", "_async_failure_callback"):  # fmt: skip
        setattr(litellm, hooks, [])
    module: ModuleType = litellm
    return module


def known_provider(litellm: ModuleType, model: str) -> bool:
    """Whether litellm knows the provider in the name; asked before anything starts."""
    import openai  # noqa: PLC0415

    try:
        litellm.get_llm_provider(model)
    except openai.BadRequestError:
        return False
    return True


class LiteLLMWire:
    """Sends with `litellm.acompletion`."""

    def __init__(self, litellm: ModuleType, *, base_url: str | None, api_key: str | None) -> None:
        self._litellm = litellm
        self._options: dict[str, Any] = {"num_retries": 0, "max_retries": 0, "drop_params": False}
        if base_url is not None:
            self._options["api_base"] = base_url
        self._secret = Secret(api_key or "")

    async def send(self, body: Mapping[str, Any], timeout_s: float) -> Outcome:
        """The reply as the OpenAI protocol has it. Tries once."""
        import openai  # noqa: PLC0415

        key = {"api_key": self._secret.value} if self._secret.value else {}
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._litellm.acompletion(**body, **self._options, **key, timeout=timeout_s)
        except (TimeoutError, openai.APITimeoutError):
            return Failure(kind="timeout", words=f"no complete reply within {timeout_s:g} s")
        except openai.APIStatusError as error:
            return self._of_status(error)
        except openai.APIError as error:  # the connection broke, or the reply was no JSON
            return Failure(kind="lost", words=self._redact(str(error)))
        except openai.OpenAIError as error:
            return Failure(kind="request", words=self._redact(str(error)))
        outcome: dict[str, Any] = json.loads(self._redact(reply.model_dump_json()))
        return outcome

    async def aclose(self) -> None:
        """The clients are litellm's, shared by all its users."""
        await self._litellm.close_litellm_async_clients()

    def _of_status(self, error: Any) -> Failure:
        headers = getattr(error, "litellm_response_headers", None) or _headers(error)
        text = self._redact(str(getattr(error, "message", error)))
        parameter, code = getattr(error, "param", None), getattr(error, "code", None)
        body = {"error": {"message": text, "param": parameter, "code": code}}
        return failure_of_status(error.status_code, headers, text, body)

    def _redact(self, text: str) -> str:
        """Without the given key and without those of the environment, which litellm reads itself."""
        text = self._secret.redact(text)
        for name, value in os.environ.items():
            if name.endswith(("_API_KEY", "_TOKEN", "_ACCESS_KEY")):
                text = Secret(value).redact(text)
        return text


def _headers(error: Any) -> Mapping[str, str]:
    """Errors that litellm raises before it sends anything have no response."""
    return getattr(getattr(error, "response", None), "headers", {})
