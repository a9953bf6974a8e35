"""Reading SQL as text: the query of an answer, its tokens, whether it orders its rows."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_SQL_CHARS = 10_000
_FENCE = re.compile(r"```[ \t]*(?P<kind>\w*)[^\n]*\n(?P<body>.*?)(?:```|\Z)", re.DOTALL)
_TAGGED = re.compile(r"<(?P<tag>sql|answer)>(?P<body>.*?)</(?P=tag)>", re.DOTALL | re.IGNORECASE)
_START = re.compile(r"(?:select|with)\b", re.IGNORECASE)
_BARE = re.compile(
    r"(?:^|\n)[ \t]*(?:[\w ]{1,30}:[ \t]*)?(?P<body>(?:select|with)\b.*?)(?:;|\n[ \t]*\n|```|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_TOKEN = re.compile(
    r"""
    (?P<skip>--[^\n]* | /\*.*?(?:\*/|\Z) | \s+)
  | (?P<text>'(?:[^']|'')*(?:'|\Z))
  | (?P<quoted>"(?:[^"]|"")*(?:"|\Z) | `[^`]*(?:`|\Z) | \[[^\]]*(?:\]|\Z))
  | (?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)? | \.\d+)
  | (?P<word>[^\W\d]\w*)
  | (?P<sign><=|>=|<>|!=|==|\|\||.)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def find_sql(text: str) -> tuple[str, bool]:
    """The query of an answer, "" when there is none, and whether the answer has the asked form.

    The asked form is one query and nothing else, or one in a fenced block or in <sql> or <answer> tags. Otherwise the
    last line that starts like a query is taken, up to a semicolon or an empty line.

    Example:
        >>> find_sql("SELECT 1;")
        ('SELECT 1', True)
        >>> find_sql("Sure:\\nSELECT 1; That is it.")
        ('SELECT 1', False)
    """
    plain = text.strip()
    marked = [m["body"] for m in _FENCE.finditer(text) if m["kind"].lower() in ("sql", "sqlite", "")]
    marked = marked or [m["body"] for m in _TAGGED.finditer(text)]
    queries = [q for q in map(_trimmed, marked) if _START.match(without_comments(q))]
    if queries:
        return queries[-1][:MAX_SQL_CHARS], len(queries) == 1
    if _START.match(without_comments(plain)) and "```" not in plain and not _says_more(_trimmed(plain)):
        return _trimmed(plain)[:MAX_SQL_CHARS], True
    bare = [m["body"] for m in _BARE.finditer(text)]
    return (_trimmed(bare[-1])[:MAX_SQL_CHARS], False) if bare else ("", False)


def _trimmed(sql: str) -> str:
    return sql.strip().rstrip(";").rstrip()


def _says_more(sql: str) -> bool:
    """Whether something follows the query: a semicolon that ends it, or a paragraph of its own."""
    return ";" in (token for token, _ in _tokens(sql)) or re.search(r"\n\s*\n", sql) is not None


def without_comments(sql: str) -> str:
    """The text without leading comments and white space."""
    return re.sub(r"\A(?:\s+|--[^\n]*|/\*.*?\*/)*", "", sql, flags=re.DOTALL)


def tokens(sql: str) -> list[str]:
    """The tokens of a query, words in lower case, texts as they are, without comments.

    Example:
        >>> tokens("SELECT Name FROM t WHERE age>=30 -- adults")
        ['select', 'name', 'from', 't', 'where', 'age', '>=', '30']
    """
    return [token for token, _ in _tokens(sql)]


def _tokens(sql: str) -> list[tuple[str, str]]:
    found = []
    for match in _TOKEN.finditer(sql[:MAX_SQL_CHARS]):
        kind = match.lastgroup or "skip"
        if kind == "quoted":
            found.append((match[0][1:-1].lower(), kind))
        elif kind != "skip":
            found.append((match[0] if kind == "text" else match[0].lower(), kind))
    return found


def ngram_overlap(gold: str, sql: str, n: int = 2) -> float:
    """|shared n-grams| / |all n-grams| of the two token sequences, as sets (Jaccard).

    Example:
        >>> gold, got = "SELECT name FROM users WHERE age > 30", "SELECT name FROM users WHERE age >= 30"
        >>> round(ngram_overlap(gold, got), 4)
        0.5556
    """
    a, b = _ngrams(tokens(gold), n), _ngrams(tokens(sql), n)
    return len(a & b) / len(a | b) if a | b else float(tokens(gold) == tokens(sql))


def _ngrams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return set(zip(*(words[k:] for k in range(n)), strict=False))


def orders_rows(sql: str) -> bool:
    """Whether the query as a whole orders its rows: ORDER BY outside of all parentheses.

    Example:
        >>> orders_rows("SELECT a FROM t ORDER BY b"), orders_rows("SELECT a FROM (SELECT a FROM t ORDER BY b)")
        (True, False)
    """
    depth, before = 0, ""
    for token, kind in _tokens(sql):
        if kind == "sign":
            depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0 and kind == "word" and (before, token) == ("order", "by"):
            return True
        before = token if kind == "word" else ""
    return False


def sql_as_words(sql: str) -> str:
    """A query in words that a sentence encoder can read: identifiers split, signs spelled out.

    Example:
        >>> sql_as_words("SELECT first_name FROM users WHERE age >= 30")
        'select first name from users where age at least 30'
    """
    spelled = {">": "greater than", "<": "less than", ">=": "at least", "<=": "at most", "=": "is", "<>": "is not",
               "!=": "is not", "*": "all"}  # fmt: skip
    words = []
    for token, kind in _tokens(sql):
        if kind == "sign":
            words.append(spelled.get(token, ""))
        elif kind == "text":
            words.append(token.strip("'"))
        else:
            words.append(token.replace("_", " "))
    return " ".join(word for word in words if word)
