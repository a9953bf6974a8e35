"""What was learned, put into an application's requests: the rule itself, where the library comes from, and a proxy.

apply.py            a request's body and a library -> the body to send, and which experiences stand in it
library_source.py   the library: an exported file, a pinned version, or a tag that is followed
proxy.py            `tfgrpo serve`, an OpenAI-compatible proxy around both
"""
