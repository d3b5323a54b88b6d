"""The two questions that Q-Align asks about an image, and their token ids.

The text never changes, so it is tokenised once, when a model repository is built (`imgeval_export.qalign`), and serving
reads the ids from a JSON file:

    {"quality": {"before": [1, ...], "after": [...]}, "aesthetics": {...}, "levels": [excellent, ..., bad]}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgeval.errors import BuildError

IMAGE_PLACEHOLDER = "<|image|>"
TEMPLATE = (
    f"USER: How would you rate the {{task}} of this image?\n{IMAGE_PLACEHOLDER}\n"
    "ASSISTANT: The {task} of the image is"
)
TASKS = ("quality", "aesthetics")  # the words put into the template, and the order of every axis called T
LEVELS = ("excellent", "good", "fair", "poor", "bad")
LEVEL_VALUES = (5, 4, 3, 2, 1)
BOS_ID = 1  # <s> of LLaMA, with which every prompt starts


@dataclass(frozen=True)
class TaskPrompt:
    """Token ids of one question: `before` the image, starting with BOS_ID, and `after` it."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.before[:1] != (BOS_ID,) or BOS_ID in (*self.before[1:], *self.after):
            raise BuildError(f"a Q-Align prompt has BOS, id {BOS_ID}, once and first, not {self.before} {self.after}")
        if not self.after:
            raise BuildError("a Q-Align prompt has text after the image; got none")


@dataclass(frozen=True)
class PromptIds:
    """Token ids of both questions, and of the five level words in the order of LEVELS."""

    quality: TaskPrompt
    aesthetics: TaskPrompt
    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.levels)) != len(LEVELS):
            raise BuildError(f"Q-Align has {len(LEVELS)} different level tokens; got {self.levels}")

    @property
    def tasks(self) -> tuple[TaskPrompt, ...]:
        """The prompts in the order of TASKS."""
        return (self.quality, self.aesthetics)

    @property
    def largest_id(self) -> int:
        return max(max(ids) for task in self.tasks for ids in (task.before, task.after, self.levels))

    def to_dict(self) -> dict[str, Any]:
        """The object that the JSON file holds."""
        tasks = {
            name: {"before": list(task.before), "after": list(task.after)}
            for name, task in zip(TASKS, self.tasks, strict=True)
        }
        return {**tasks, "levels": list(self.levels)}

    @classmethod
    def from_dict(cls, content: Any) -> PromptIds:
        """Inverse of `to_dict`. Raises BuildError where `content` is anything else."""
        try:
            quality, aesthetics = (
                TaskPrompt(_ids(content[task]["before"]), _ids(content[task]["after"])) for task in TASKS
            )
            return cls(quality, aesthetics, _ids(content["levels"]))
        except (KeyError, TypeError) as error:
            raise BuildError(f"not the token ids of Q-Align's prompts: {type(error).__name__}: {error}") from error

    @classmethod
    def read(cls, file: Path) -> PromptIds:
        """Read the JSON file. Raises BuildError, starting with the path, where it is missing or holds anything else."""
        try:
            return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, BuildError) as error:
            raise BuildError(f"{file}: {error}") from error


def _ids(values: Any) -> tuple[int, ...]:
    if not (isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)):
        raise TypeError(f"expected a list of token ids, got {values!r:.60}")
    return tuple(values)
