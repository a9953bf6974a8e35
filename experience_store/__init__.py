"""Versioned experiences in Chroma, and their rendering into prompts.

`open` a store to learn and to look back; `Library.load` an exported file to use what was learned without any
dependency. Importing this package loads the standard library only; chromadb is loaded when a store is opened.

Example:
    store = experience_store.open("./experience")
    store.commit([Edit(op="add", text="Check the units.")], note="first lesson")
    messages = store.at("head").apply(messages).messages
"""

from experience_store.errors import Conflict, StoreError
from experience_store.library import Library
from experience_store.location import parse_ref
from experience_store.snapshot import Snapshot
from experience_store.store import ExperienceStore
from experience_store.store import open_store as open
from experience_store.types import Edit, Experience, Layout, Version

__all__ = [
    "Conflict",
    "Edit",
    "Experience",
    "ExperienceStore",
    "Layout",
    "Library",
    "Snapshot",
    "StoreError",
    "Version",
    "open",
    "parse_ref",
]
