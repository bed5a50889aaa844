"""Captions written by a language model, here or at a server: each with a seed of its own, and asked for once."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import InputError, refusing
from ..services import FailedRequest, Patience, RefusedRequest, Service, at_once, is_address

_BATCH_SIZE = 16  # answers that a model here writes together
_AHEAD = 8  # requests that are looked at together, for each one that may be under way


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


@dataclass(frozen=True)
class _Request:
    """One answer that is wanted: `key` names it in the file of answers."""

    number: int
    key: str
    prompt: str

    @property
    def seed(self) -> int:
        return int(self.key[:15], 16)


class CaptionWriter:
    """Asks a language model for captions and keeps its answers in a file.

    Each answer is sampled with its own seed, so it depends on the model, the prompt and the settings alone, up to
    the rounding of batches. (A server may ignore seeds.) An interrupted run continues where it was: what was answered
    is in the file, a JSONL with one answer a line, and is never asked for again; a line that a kill left incomplete is
    written again.

    Attributes:
        name: Of the model: the Hub id or folder, or what the server calls it. The address of a server is kept nowhere.
        num_written: Answers that this object asked for.
    """

    def __init__(
        self,
        model: str,
        cache: str | Path | None = None,
        *,
        revision: str | None = None,
        writing: Writing | None = None,
        served_model: str | None = None,
        concurrency: int = 8,
        patience: Patience | None = None,
    ) -> None:
        """Open the cache; the model is loaded when something is missing there.

        Args:
            model: Folder or Hub id of a causal language model; or the address of a server with OpenAI's chat endpoint,
                such as "https://host/v1" (vLLM, SGLang, llama.cpp, TGI).
            cache: JSONL file, made if it does not exist; None keeps answers in memory alone.
            revision: Branch, tag or commit of a Hub id.
            writing: Sampling.
            served_model: What the server calls the model; by default the only one that it serves.
            concurrency: Requests to the server at a time.
            patience: How requests to it are sent again.

        Raises:
            InputError: The server cannot be reached, or serves several models.
        """
        self.revision, self.writing, self.concurrency = revision, writing or Writing(), concurrency
        self.cache = None if cache is None else Path(cache)
        self.num_written = 0
        self._lock = threading.Lock()
        self._patience = patience or Patience()
        self._server = Service(model, patience=self._patience) if is_address(model) else None
        self.name = model if self._server is None else served_model or self._server.only_model()
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
        """Answer prompts: yield the number of the prompt and the first line of the answer, unless that is empty.

        Args:
            prompts: Texts that the model continues, such as few-shot examples that end in "Caption:". A prompt that
                occurs again gets further answers.
            per_prompt: Answers to each prompt, at least 1.
            seed: Base seed; the k-th answer to a prompt has the seed hash(seed, prompt, k).

        Raises:
            InputError: The model cannot be loaded, the server refuses or failed too often, or nothing is asked for.
        """
        if per_prompt < 1 or not prompts:
            raise InputError(f"{per_prompt} answers to {len(prompts)} prompts give no caption: ask for 1 or more.")
        requests = self._requests(prompts, per_prompt, seed)
        at_a_time = _BATCH_SIZE if self._server is None else _AHEAD * self.concurrency
        while window := list(islice(requests, at_a_time)):
            if missing := [request for request in window if request.key not in self._answers]:
                if self._server is None:
                    self._remember(missing, self._answer(missing))
                else:
                    at_once(self._ask, missing, self.concurrency)
            for request in window:
                if caption := self._answers[request.key]:
                    yield request.number, caption

    def _requests(self, prompts: Sequence[str], per_prompt: int, seed: int) -> Iterator[_Request]:
        identity = [self.name, self.revision, vars(self.writing), seed]
        asked: Counter[str] = Counter()
        for number, prompt in enumerate(prompts):
            for k in range(asked[prompt], asked[prompt] + per_prompt):
                key = blake2b(json.dumps([*identity, prompt, k]).encode(), digest_size=16).hexdigest()
                yield _Request(number, key, prompt)
            asked[prompt] += per_prompt

    def _ask(self, request: _Request) -> None:
        """Ask the server, and keep the answer at once."""
        assert self._server is not None
        server = self._server
        content = {
            "model": self.name,
            "messages": [{"role": "user", "content": request.prompt}],
            "max_tokens": self.writing.max_new_tokens,
            "temperature": self.writing.temperature,
            "top_p": self.writing.top_p,
            "seed": request.seed % 2**31,  # what every server takes
        }

        def send() -> str:
            try:
                match server.send("POST", "chat/completions", content):
                    case {"choices": [{"message": {"content": str() | None as text}}, *_]}:
                        return text or ""
            except RefusedRequest as error:
                if error.is_withheld:
                    return ""
                raise
            raise FailedRequest(f"{server.address} answered no text", may_be_billed=True)

        self._remember([request], [self._patience.call(send)])

    def _answer(self, requests: Sequence[_Request]) -> list[str]:
        """Let the model here write a batch; each row is sampled with its own seed."""
        import torch
        from transformers import LogitsProcessorList

        tokenizer, network = self._loaded
        rows = [tokenizer(request.prompt).input_ids for request in requests]
        width = max(map(len, rows))
        filler = tokenizer.pad_token_id or tokenizer.eos_token_id or 0
        ids = torch.tensor([[filler] * (width - len(row)) + row for row in rows], device=network.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=network.device)
        with torch.inference_mode():
            output = network.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=self.writing.max_new_tokens,
                logits_processor=LogitsProcessorList([_sampling([r.seed for r in requests], self.writing)]),
                do_sample=False,  # the processor samples: the largest of its scores is the sampled token
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=filler,
            )
        return [tokenizer.decode(row[width:], skip_special_tokens=True) for row in output]

    def _remember(self, requests: Sequence[_Request], texts: Sequence[str]) -> None:
        """Keep answers, on the disk if there is a file: they outlast a kill from here on."""
        with self._lock:
            lines = ""
            for request, text in zip(requests, texts, strict=True):
                caption = _caption_of(text)
                lines += json.dumps({"key": request.key, "caption": caption}, ensure_ascii=False) + "\n"
                self._answers[request.key] = caption
            self.num_written += len(requests)
            if self.cache is None:
                return
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.open("a", encoding="utf-8") as file:
                file.write("\n" * self._ends_torn + lines)
                file.flush()
                os.fsync(file.fileno())
            self._ends_torn = False

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model, on the accelerator if there is one."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        options: dict[str, Any] = {"revision": self.revision, "trust_remote_code": False}
        with refusing(
            f"The language model {self.name!r} cannot be loaded",
            "give a folder or a Hub id of a causal language model",
        ):
            tokenizer = AutoTokenizer.from_pretrained(self.name, **options)
            network: Any = AutoModelForCausalLM.from_pretrained(self.name, use_safetensors=True, **options)
            network.eval()
            return tokenizer, network.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")


def _sampling(seeds: Sequence[int], writing: Writing) -> Any:
    """A logits processor after which the largest score is a sample, drawn for each row by its own seed.

    The largest of log-probabilities plus Gumbel noise is distributed by the probabilities.
    """
    import torch
    from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

    class Sampling(LogitsProcessor):
        def __init__(self) -> None:
            self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            self.warpers = [TemperatureLogitsWarper(writing.temperature), TopPLogitsWarper(writing.top_p)]

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores = scores.float()
            for warper in self.warpers:
                scores = warper(input_ids, scores)
            noise = [-torch.empty(scores.shape[1]).exponential_(generator=g).log() for g in self.generators]
            return scores + torch.stack(noise).to(scores.device)

    return Sampling()


def _caption_of(text: str) -> str:
    """The first line of an answer, without quotes and without the request, should the model repeat that."""
    lines = (line.rpartition("=>")[2].strip(" \"'") for line in text.splitlines())
    return next(filter(None, lines), "")
