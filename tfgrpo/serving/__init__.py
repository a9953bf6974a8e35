"""What was learned, put into an application's requests: the rule itself, where the library comes from, and who sends.

apply.py            a request's body and a library -> the body to send, and which experiences stand in it
library_source.py   the library: an exported file, a pinned version, or a tag that is followed
following.py        `tfgrpo.follow`, both as a function of messages
wrapping.py         `tfgrpo.wrap`, both in a client of an application (openai_client.py, litellm_client.py)
proxy.py            `tfgrpo serve`, both in an OpenAI-compatible proxy
"""
