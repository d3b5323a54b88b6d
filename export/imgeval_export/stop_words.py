"""The English stop words that keyword extraction leaves out, as data for the model repository."""

from __future__ import annotations

from pathlib import Path

STOP_WORDS_FILE = Path(__file__).with_name("stop_words_english.txt")


def english_stop_words() -> list[str]:
    """The 318 words of scikit-learn's `ENGLISH_STOP_WORDS`, sorted; lines with # say where they come from."""
    lines = STOP_WORDS_FILE.read_text(encoding="utf-8").splitlines()
    return sorted(line for line in lines if line and not line.startswith("#"))
