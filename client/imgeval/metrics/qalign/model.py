"""Q-Align's model, written for scoring: pixels and two constant prompts -> two times five logits.

Exact savings over upstream's `MPLUGOwl2LlamaForCausalLM.score`:
- one vision pass per image, whatever the number of prompts, and all prompts in one batch;
- the text before the image is the same for every image and, by the causal mask, unaffected by it: its keys and values
  are computed once (`prefix`), and a sequence starts with the visual tokens;
- of the head, five rows at the last position.

The prompts differ in length. Shorter ones are filled up at the end, before the image with keys that the mask hides and
after it with tokens that come later than the one that is read; positions count real tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from imgeval.errors import BuildError
from imgeval.metrics.qalign.abstractor import VisualAbstractor
from imgeval.metrics.qalign.config import QAlignConfig
from imgeval.metrics.qalign.llama import DecoderLayer, KeyValue, RmsNorm, Rotation, rotation
from imgeval.metrics.qalign.prompts import PromptIds
from imgeval.metrics.qalign.vision import VisionModel


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """What a model computes from T prompts before it sees an image; P, S: their longest parts before and after it."""

    prefix: tuple[KeyValue, ...]  # per layer, (T, P, heads, D) each
    suffix: Tensor  # (T, S, width) embeddings
    turn: Rotation  # of the V visual tokens and the suffix: (T, V + S, 1, D) each
    mask: Tensor  # (T, 1, V + S, P + V + S) boolean, true where a token sees another
    last: Tensor  # (T,) where the last token of each prompt is, counted from the first visual token
    level_rows: Tensor  # (5, width) float32, of the head


class QAlignModel(nn.Module):
    """The parts under the names of the published state dict; weights are undefined until they are loaded."""

    def __init__(self, config: QAlignConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Parts(config)
        self.lm_head = nn.Linear(config.text.width, config.text.vocabulary, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in, also where weights are stored quantised."""
        return self.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device

    def visual_tokens(self, pixels: Tensor) -> Tensor:
        """pixels (N, 3, S, S) -> (N, V, width): an image as the language model sees it."""
        expected = (3, self.config.vision.image_px, self.config.vision.image_px)
        if pixels.shape[1:] != expected:
            raise ValueError(f"pixels are {tuple(pixels.shape)}, expected (N, {', '.join(map(str, expected))})")
        tokens: Tensor = self.model.visual_abstractor(self.model.vision_model(pixels.to(self.device, self.dtype)))
        return tokens

    @torch.no_grad()  # not inference_mode, whose tensors torch.compile cannot take
    def encode(self, prompts: PromptIds) -> EncodedPrompts:
        """Compute all that does not depend on the image.

        Raises:
            BuildError: the prompts do not fit this model's vocabulary or its number of positions.
        """
        text, visual = self.config.text, self.config.visual_tokens
        longest = max(len(task.before) + visual + len(task.after) for task in prompts.tasks)
        if prompts.largest_id >= text.vocabulary:
            raise BuildError(f"the prompts have token {prompts.largest_id}; the model has {text.vocabulary} tokens")
        if longest > text.max_positions:
            raise BuildError(f"a prompt with its image has {longest} tokens; the model has {text.max_positions}")
        before, before_lengths = self._pad([task.before for task in prompts.tasks])  # (T, P), (T,)
        after, after_lengths = self._pad([task.after for task in prompts.tasks])  # (T, S), (T,)
        length, known = visual + after.shape[1], before.shape[1]

        sees_prefix = torch.arange(known, device=self.device) < before_lengths[:, None]  # (T, P)
        sees_prefix = sees_prefix[:, None, None].expand(-1, -1, length, -1)
        sees_own = self._causal(length).expand(len(prompts.tasks), -1, -1, -1)
        positions = before_lengths[:, None] + torch.arange(length, device=self.device)  # (T, V + S)
        return EncodedPrompts(
            prefix=self._prefix(before),
            suffix=self.model.embed_tokens(after),
            turn=rotation(positions, text.head_width, text.rope_theta, self.dtype),
            mask=torch.cat([sees_prefix, sees_own], dim=-1),
            last=visual + after_lengths - 1,
            level_rows=self.lm_head.weight[list(prompts.levels)].float(),
        )

    @torch.no_grad()
    def logits(self, pixels: Tensor, prompts: EncodedPrompts) -> Tensor:
        """pixels (N, 3, S, S) -> (N, T, 5) float32: per prompt, the logit of each level."""
        visual = self.visual_tokens(pixels)  # (N, V, width)
        n, tasks = len(visual), len(prompts.suffix)

        def rows(per_task: Tensor) -> Tensor:  # (T, ...) -> (N * T, ...), the prompts of an image side by side
            return per_task.expand(n, *per_task.shape).flatten(0, 1)

        x = torch.cat([visual.repeat_interleave(tasks, dim=0), rows(prompts.suffix)], dim=1)  # (N * T, V + S, width)
        turn = (rows(prompts.turn[0]), rows(prompts.turn[1]))
        mask = rows(prompts.mask)
        for layer, (key, value) in zip(self.model.layers, prompts.prefix, strict=True):
            x, _ = layer(x, visual.shape[1], turn, mask, (rows(key), rows(value)))
        last = x[torch.arange(n * tasks, device=x.device), prompts.last.repeat(n)]  # (N * T, width)
        levels: Tensor = self.model.norm(last).float() @ prompts.level_rows.T
        return levels.reshape(n, tasks, -1)

    def release_vocabulary(self) -> None:
        """Free the embedding and the head, 0.5 GB in half precision, once all prompts are encoded."""
        del self.model.embed_tokens, self.lm_head

    def _prefix(self, ids: Tensor) -> tuple[KeyValue, ...]:
        """Keys and values of the text before the image, ids (T, P), per layer."""
        x, length = self.model.embed_tokens(ids), ids.shape[1]
        text = self.config.text
        positions = torch.arange(length, device=self.device)[None]
        turn, mask = rotation(positions, text.head_width, text.rope_theta, self.dtype), self._causal(length)
        prefix = []
        for layer in self.model.layers:
            x, own = layer(x, 0, turn, mask)
            prefix.append(own)
        return tuple(prefix)

    def _pad(self, rows: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Rows of ids as one array, filled up with id 0, and the length of each."""
        ids = pad_sequence([torch.tensor(row, device=self.device) for row in rows], batch_first=True)
        return ids, torch.tensor([len(row) for row in rows], device=self.device)

    def _causal(self, length: int) -> Tensor:
        """(1, 1, L, L): a token sees itself and those before it."""
        return torch.ones(1, 1, length, length, dtype=torch.bool, device=self.device).tril()


class _Parts(nn.Module):
    def __init__(self, config: QAlignConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config.vision)
        self.visual_abstractor = VisualAbstractor(config)
        self.embed_tokens = nn.Embedding(config.text.vocabulary, config.text.width)
        self.layers = nn.ModuleList(DecoderLayer(config.text) for _ in range(config.text.layers))
        self.norm = RmsNorm(config.text.width, config.text.norm_eps)
