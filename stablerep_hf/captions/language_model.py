"""Captions written by a language model of transformers: reproducible, and each asked for once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..errors import InputError, one_line


@dataclass(frozen=True)
class Writing:
    """How captions are sampled.

    Attributes:
        max_new_tokens: Longest answer.
        temperature: Above 0.
        top_p: Nucleus, in (0, 1].
    """

    max_new_tokens: int = 64
    temperature: float = 0.9
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise InputError(
                f"max_new_tokens={self.max_new_tokens}, temperature={self.temperature} and top_p={self.top_p} cannot "
                "be sampled with: give at least 1, more than 0, and a number between 0 and 1."
            )


class CaptionWriter:
    """Asks a causal language model for captions and keeps its answers in a file.

    Each answer is sampled on its own, with its own seed, so it depends on the model, the prompt and the settings
    alone. On the same kind of device (an accelerator if there is one) an interrupted run continues with the captions
    that it would have written. The cache is a JSONL file with one answer a line; a line that a kill left incomplete is
    written again.
    """

    def __init__(
        self,
        model: str,
        cache: str | Path | None = None,
        *,
        revision: str | None = None,
        writing: Writing | None = None,
    ) -> None:
        """Open the cache; the model is loaded when something is missing there.

        Args:
            model: Folder or Hub id of a causal language model.
            cache: JSONL file, made if it does not exist; None keeps answers in memory alone.
            revision: Branch, tag or commit of a Hub id.
            writing: Sampling.
        """
        self.model, self.revision, self.writing = model, revision, writing or Writing()
        self.cache = None if cache is None else Path(cache)
        self.num_written = 0
        self._network: Any = None
        self._tokenizer: Any = None
        self._answers: dict[str, str] = {}
        text = self.cache.read_text(encoding="utf-8", errors="replace") if self.cache and self.cache.exists() else ""
        self._ends_torn = bool(text) and not text.endswith("\n")
        for line in text.split("\n"):
            try:
                entry = json.loads(line)
                self._answers[entry["key"]] = entry["caption"]
            except (ValueError, KeyError, TypeError):
                continue  # torn by a kill

    def write(self, prompts: Sequence[str], per_prompt: int, *, seed: int = 0) -> Iterator[tuple[int, str]]:
        """Answer prompts.

        Args:
            prompts: Texts that the model continues, such as few-shot examples that end in "Caption:". A prompt that
                occurs again gets further answers.
            per_prompt: Answers to each prompt, at least 1.
            seed: Base seed; the k-th answer to a prompt has the seed hash(seed, prompt, k).

        Yields:
            The number of the prompt and the first line of the answer; empty answers are left out.

        Raises:
            InputError: The model cannot be loaded, or there is no prompt or answer to ask for.
        """
        if per_prompt < 1 or not prompts:
            raise InputError(f"{per_prompt} answers to {len(prompts)} prompts give no caption: ask for 1 or more.")
        identity = [self.model, self.revision, vars(self.writing), seed]
        asked: Counter[str] = Counter()
        for number, prompt in enumerate(prompts):
            for k in range(asked[prompt], asked[prompt] + per_prompt):
                key = blake2b(json.dumps([*identity, prompt, k]).encode(), digest_size=16).hexdigest()
                if key not in self._answers:
                    self._answers[key] = self._answer(prompt, int(key[:15], 16))
                    self._remember(key)
                if caption := self._answers[key]:
                    yield number, caption
            asked[prompt] += per_prompt

    def _answer(self, prompt: str, seed: int) -> str:
        import torch

        if self._network is None:
            self._load()
        inputs = self._tokenizer(prompt, return_tensors="pt").to(self._network.device)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            output = self._network.generate(
                **inputs,
                do_sample=True,
                max_new_tokens=self.writing.max_new_tokens,
                temperature=self.writing.temperature,
                top_p=self.writing.top_p,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0,
            )
        text = self._tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        self.num_written += 1
        return next((line.strip(" \"'") for line in text.splitlines() if line.strip(" \"'")), "")

    def _remember(self, key: str) -> None:
        if self.cache is None:
            return
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        entry = json.dumps({"key": key, "caption": self._answers[key]}, ensure_ascii=False)
        with self.cache.open("a", encoding="utf-8") as file:
            file.write(f"{chr(10) if self._ends_torn else ''}{entry}\n")
        self._ends_torn = False

    def _load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                self.model, revision=self.revision, trust_remote_code=False
            )
            self._network = AutoModelForCausalLM.from_pretrained(
                self.model, revision=self.revision, trust_remote_code=False
            )
            self._network.eval().to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
        except Exception as error:  # whatever the reader of a damaged file raises
            raise InputError(
                f"The language model {self.model!r} cannot be loaded ({one_line(error)}); give a folder or a Hub id "
                "of a causal language model."
            ) from error
