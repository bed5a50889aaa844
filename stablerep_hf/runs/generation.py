"""A data set of drawn images as a run: plan, estimate, draw what is missing, write the card."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..assets import EMBEDDED
from ..files.locks import lock_folder
from ..files.places import check_owned, free_bytes
from ..files.shards import PROVENANCE
from ..synthesis.estimate import SynthesisEstimate, estimate_synthesis
from ..synthesis.planning import KnownWords, known_words, plan_generation
from ..synthesis.provenance import read_provenance
from ..synthesis.run import SynthesisSummary, synthesize
from ..synthesis.scorers import load_scorers
from ..synthesis.settings import GenerationSettings, ScoringSettings, SigningSettings
from ..synthesis.signing import make_signer
from ..synthesis.store import ShardStore
from ..synthesis.workers import rank_and_world_size
from .cards import check_license, write_data_card
from .scoring import UnscoredImages, find_unscored


@dataclass(frozen=True)
class GenerationResult:
    """What one worker's run found and did.

    Attributes:
        summary: See `SynthesisSummary`.
        is_complete: Whether the whole data set is there, and so its card; else other workers are still drawing.
        unscored: Images that lack scores which others of the folder have or had.
    """

    summary: SynthesisSummary
    is_complete: bool
    unscored: UnscoredImages


class GenerationRun:
    """`stablerep generate` as an object: the same settings give the same files.

    Attributes:
        settings: What is drawn, with what, and where to.
        plan: The plan.
        generator: The pipeline, not loaded yet.
    """

    def __init__(
        self,
        settings: GenerationSettings | None = None,
        scoring: ScoringSettings | None = None,
        signing: SigningSettings | None = None,
        *,
        license: str | None = None,
    ) -> None:
        """Read the captions and find the generator. Nothing is written.

        Args:
            settings: By default the embedded captions and generator.
            scoring: What measures the images as they are drawn; nothing if not given.
            signing: What signs them; nothing if not given.
            license: Of the images, for their card: a Hub licence id. By default that of the card that is there.

        Raises:
            InputError: The captions, the generator, a model, the certificate or the folder cannot serve.
        """
        self.settings, self._license = settings or GenerationSettings(), license
        check_owned(self.settings.output, PROVENANCE, self.settings.captions)
        if license is not None:
            check_license(license)
        self._signer = make_signer(signing)
        self.plan, self.generator = plan_generation(self.settings, self._signer)
        self._scorers = load_scorers(scoring, self.generator.device) if scoring is not None else []

    @cached_property
    def known_words(self) -> KnownWords | None:
        """How many words of the captions the generator ever saw, where that is known: of the embedded one."""
        return known_words(self.plan.captions) if self.settings.generator == EMBEDDED else None

    @property
    def free_bytes(self) -> int:
        """Room on the disk of the output."""
        return free_bytes(self.settings.output)

    def estimate(self) -> SynthesisEstimate:
        """Measure on two batches what the missing images would take. Nothing is written.

        Raises:
            InputError: The folder or the generator cannot serve.
        """
        return estimate_synthesis(
            self.plan,
            self.generator,
            self.settings.output,
            batch_size=self.settings.batch_size,
            signer=self._signer,
        )

    def run(self, *, progress: bool = True) -> GenerationResult:
        """Draw what is missing, this worker's part of it, and write the data set's card once all is there.

        Args:
            progress: Whether to show a bar.

        Raises:
            InputError: The folder holds something else or another command writes to it, the disk is full, or the
                generator draws no pictures.
        """
        output = self.settings.output
        rank, world_size = rank_and_world_size()
        with lock_folder(output, shared=True):
            scored = ShardStore(output, self.plan).scored_columns()
            summary = synthesize(
                self.plan,
                self.generator,
                output,
                batch_size=self.settings.batch_size,
                rank=rank,
                world_size=world_size,
                progress=progress,
                max_failed_captions=self.settings.max_failed_captions,
                scorers=self._scorers,
                signer=self._signer,
            )
            is_complete = len(read_provenance(output).shards) == self.plan.num_shards
            if is_complete:
                write_data_card(output, self._license)
            unscored = find_unscored(output, scored)
        return GenerationResult(summary, is_complete, unscored)
