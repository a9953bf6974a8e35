import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tfgrpo.errors import InputError
from tfgrpo.policy.base import Price
from tfgrpo.policy.prices import PRICES, find_price, parse_price


@pytest.mark.parametrize("text", ["", "1", "a/b", "1/2/3/4", "-1/2", "nan/1", "inf/1"])
def test_malformed_prices(text):
    with pytest.raises(InputError, match=r"0\.4/1\.6"):
        parse_price(text)


def test_parse():
    assert parse_price("0.4/0.1/1.6") == Price(
        prompt_usd_per_mtok=0.4, completion_usd_per_mtok=1.6, cached_usd_per_mtok=0.1
    )


def test_cost_is_checked_on_paper():
    price = parse_price("2/0.5/8")  # 600 fresh x 2 + 400 cached x 0.5 + 100 x 8 = 2200 micro-dollars
    assert price.cost_usd(1000, 100, 400) == pytest.approx(0.0022)


def test_unknown_stays_unknown():
    assert find_price("openai", "no-such-model") is None
    assert find_price("no-such-provider", "gpt-4.1-mini") is None


def test_our_own_rows_agree_with_an_installed_litellm():
    litellm = find_spec("litellm")
    if litellm is None:
        pytest.skip("litellm is not installed")
    file = Path(litellm.submodule_search_locations[0]) / "model_prices_and_context_window_backup.json"
    rows = json.loads(file.read_text("utf-8"))
    for name, price in PRICES.items():
        row = rows[name]
        assert price.cost_usd(1000, 0) == pytest.approx(row["input_cost_per_token"] * 1000), name
        assert price.cost_usd(0, 1000) == pytest.approx(row["output_cost_per_token"] * 1000), name
        assert price.cost_usd(1000, 0, 1000) == pytest.approx(row["cache_read_input_token_cost"] * 1000), name
        assert find_price("openai", name) == price
