"""Names, places, things and plain words that the generated tasks draw from."""

from __future__ import annotations

_NAMES = """Ada Boris Carla Dmitri Elena Farid Greta Hugo Ines Jonas Karin Leo Mira Nadia Oskar Petra Quentin Rosa Sven
Tara Ugo Vera Wanda Yusuf Zoe"""
_CITIES = """Aarhus Bergen Cadiz Dresden Exeter Faro Ghent Haifa Ipswich Jena Krakow Lyon Malmo Nantes Oulu Porto
Quimper Riga Split Trieste Utrecht Varna Wells York Zagreb"""
_THINGS = """apples bricks candles drills envelopes fans gloves hinges inks jars kettles lamps mirrors nails ovens pears
quilts ropes stools tiles"""
_WORDS = """anchor apple arrow basket beacon bottle branch bridge butter button candle canyon carpet castle cherry
circle cloud copper cotton cradle desert dinner dragon eagle engine falcon feather ferry forest garden ginger glove
hammer harbor helmet honey island jacket jungle kettle kitchen ladder lantern lemon lizard magnet marble meadow mirror
monkey needle nickel ocean olive orange oyster paddle pepper pillow planet pocket quarry rabbit ribbon river rocket
saddle salmon shadow silver spider stone sugar table temple thunder ticket tailor tunnel turtle valley velvet violin
wagon walnut window winter yellow zebra"""

NAMES = _NAMES.split()
CITIES = _CITIES.split()
THINGS = _THINGS.split()
WORDS = _WORDS.split()


def made_up_names(
    count: int, syllables: tuple[str, ...] = ("bel", "dor", "fen", "gra", "lum", "nok", "ris", "tav")
) -> list[str]:
    """Names that no model has read about, the same ones every time: Beldor, Belfen, Belgra, ..."""
    pairs = [first + second for first in syllables for second in syllables if first != second]
    return [name.capitalize() for name in pairs[:count]]
