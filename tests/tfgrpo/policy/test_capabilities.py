import pytest

from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.policy.capabilities import Dialect, is_strict, response_format, with_schema_words
from tfgrpo.policy.wire import Failure

ASK = ({"role": "user", "content": "6 * 7?"},)


def refused(words, *, parameter="", status=400):
    return Failure(kind="request", words=words, status=status, parameter=parameter)


def learned(words, sampling=None, **fields):
    dialect = Dialect()
    degraded = dialect.learn(dialect.request("m", ASK, sampling or Sampling(seed=1)), refused(words, **fields))
    return degraded and (degraded.parameter, degraded.instead)


# Words of real servers: OpenAI, Azure, Anthropic by litellm, vLLM, Mistral, Moonshot, Gemini.
@pytest.mark.parametrize(
    ("words", "parameter", "expected"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
         "max_tokens", ("max_tokens", "max_completion_tokens")),
        ("Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) is supported.",
         "temperature", ("temperature", "")),
        ("litellm.UnsupportedParamsError: anthropic does not support parameters: ['seed']", "", ("seed", "")),
        ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.", "", ("top_p", "")),
        ("Invalid temperature: only 1 is allowed for this model", "temperature", ("temperature", "")),
        ("Unknown parameter: 'seed'.", "seed", ("seed", "")),
        ("body.seed: Extra inputs are not permitted", "", ("seed", "")),
        ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", "", None),
        ("'max_tokens' is too large: 9000. This model supports at most 4096 completion tokens", "max_tokens", None),
        ("temperature must be less than or equal to 2", "temperature", None),
        ("Invalid value for 'content': expected a string, got null.", "messages.[0].content", None),
        ("The model `gpt-9` does not exist or is not supported", "model", None),
    ],
)  # fmt: skip
def test_what_is_given_up_for_which_words(words, parameter, expected):
    assert learned(words, parameter=parameter) == expected


def test_a_refusal_of_the_same_parameter_again_is_final():
    dialect = Dialect()
    first = refused("Unsupported parameter: 'max_tokens'", parameter="max_tokens")
    second = refused("Unsupported parameter: 'max_completion_tokens'", parameter="max_completion_tokens")
    assert dialect.learn(dialect.request("m", ASK, Sampling()), first).instead == "max_completion_tokens"
    assert dialect.learn(dialect.request("m", ASK, Sampling()), second) is None


def test_other_failures_teach_nothing():
    dialect = Dialect()
    request = dialect.request("m", ASK, Sampling())
    assert dialect.learn(request, Failure(kind="server", words="unsupported temperature", status=500)) is None
    assert dialect.learn(request, refused("unsupported temperature", status=413)) is None


def test_what_stands_at_its_neutral_value_may_be_left_out():
    body = Dialect(send_neutral=False).request("m", ASK, Sampling()).body
    assert body == {"model": "m", "messages": ASK, "max_tokens": 1024}
    assert Dialect(send_neutral=False).request("m", ASK, Sampling(temperature=0.0)).body["temperature"] == 0.0


@pytest.mark.parametrize("name", ["n", "stream"])
def test_extra_must_not_change_what_a_call_is(name):
    with pytest.raises(InputError, match=name):
        Dialect().request("m", ASK, Sampling(extra={name: 2}))


def test_strict_is_said_only_of_schemas_that_are():
    inner = {
        "type": "object",
        "properties": {"b": {"type": "integer"}},
        "required": ["b"],
        "additionalProperties": False,
    }
    strict = {"type": "object", "properties": {"a": {"type": "array", "items": inner}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    assert is_strict(strict)
    assert response_format("json_schema", strict)["json_schema"]["strict"] is True
    for broken in ({**strict, "required": []}, {**strict, "additionalProperties": True},
                   {**strict, "properties": {"a": {"type": "array", "items": {**inner, "required": []}}}}):  # fmt: skip
        assert not is_strict(broken)
        assert "strict" not in response_format("json_schema", broken)["json_schema"]


def test_schema_words_go_to_the_end():
    parts = ({"role": "user", "content": [{"type": "text", "text": "x"}]},)
    assert len(with_schema_words(parts, {"type": "object"})) == 2
    (one,) = with_schema_words(ASK, {"type": "object"})
    assert one["content"].startswith("6 * 7?\n\nAnswer with one JSON object") and '{"type": "object"}' in one["content"]
