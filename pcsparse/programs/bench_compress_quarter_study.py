"""What the study of a quarter compares, and the names of its networks and files."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pcsparse.errors import FormatError, RangeError
from pcsparse.programs.bench_compress_claim import check_study, claim
from pcsparse.programs.bench_compress_streets import Place, Streets, Training

ROWS = {
    "pruned": "pruned, fine-tuned",
    "control": "dense, fine-tuned",
    "scratch": "narrow, from scratch",
    "cut": "pruned, not trained",
    "dense": "dense",
}
"""The rows of the table, by the networks' short names."""

SEEDED = ("pruned", "control", "scratch")
"""Networks that are trained once a seed."""

START = "control-1"
"""What of an earlier study is the dense network of one that goes on from it."""

BEFORE = "before.txt"
"""File that says how the networks of the earlier study were trained."""


@dataclass(frozen=True)
class QuarterStudy:
    """What to compare.

    Args:
        out: folder of all files.
        streets: sweeps to train, search and judge on.
        width: ratio of the dense network.
        training: of the dense network.
        share: of its milliseconds.
        method: that looks for widths.
        evaluations: of the search.
        score_steps: of training, on the CPU, before the search scores a network; 0 scores it untrained.
        tuning_epochs: of every fine-tuning.
        rounds: of pruning, each followed by its part of the fine-tuning (`compress.finetune.Rounds`); the
            widths of the last are those that the search found. The control is tuned as long, in one go.
        lr_factor: of the fine-tuning's rate over the training's; every round climbs to it anew.
        distill: weight of the dense network's probabilities in every training but the dense one's: pruned,
            narrow and control alike, so that it favours none; 0 for none.
        seeds: fine-tunings and trainings from scratch: 1, 2, ...
        narrow_seeds: of those from scratch; 0 for as many as the others.
        control_seeds: of the dense control, whose steps take longest; 0 for as many as the others.
        after: folder of an earlier study, whose control is the dense network of this one; its costs and the
            widths that it found are taken over. `training` is then what the control had in all.
        place: where trainings run; searching, judging and timing are the CPU's.
        jobs: processes that render, search and train at once; 1 does all in this one.
    """

    out: Path
    streets: Streets
    width: float = 1.0
    training: Training = field(
        default_factory=lambda: Training(epochs=8, validate_every=0, batch_size=4, resident=True)
    )
    share: float = 0.25
    method: str = "evolution"
    evaluations: int = 200
    score_steps: int = 0
    tuning_epochs: int = 5
    rounds: int = 1
    lr_factor: float = 0.1
    distill: float = 1.0
    seeds: int = 3
    narrow_seeds: int = 0
    control_seeds: int = 0
    after: Path | None = None
    place: Place = field(default_factory=Place)
    jobs: int = 1

    def __post_init__(self) -> None:
        check_study(share=self.share, seeds=self.seeds, evaluations=self.evaluations)
        if self.jobs < 1:
            raise RangeError(f"jobs must be at least 1, got {self.jobs}")
        for name in ("narrow_seeds", "control_seeds"):
            value = getattr(self, name)
            if not 0 <= value <= self.seeds:
                raise RangeError(f"{name} must be in 0 ... {self.seeds}, the seeds, got {value}")
        if self.score_steps < 0:
            raise RangeError(f"score_steps must be at least 0, got {self.score_steps}")
        if not 1 <= self.rounds <= self.tuning_epochs:
            raise RangeError(
                f"rounds must be from 1 to the {self.tuning_epochs} epochs that they share, got {self.rounds}"
            )

    @property
    def networks(self) -> list[str]:
        """All that are judged: names of their folders and files."""
        return ["dense", "cut", *self.seeded]

    @property
    def seeded(self) -> list[str]:
        """Those that are trained once a seed."""
        fewer = {"scratch": self.narrow_seeds, "control": self.control_seeds}
        seeds = {name: fewer.get(name) or self.seeds for name in SEEDED}
        return [f"{name}-{seed}" for name in SEEDED for seed in range(1, seeds[name] + 1)]

    @property
    def tuning(self) -> Training:
        """Of a pruned network and of the control; its seed is the network's."""
        training = self.training
        return replace(training, epochs=self.tuning_epochs, lr=self.lr_factor * training.lr, validate_every=0)

    @property
    def round_epochs(self) -> tuple[int, ...]:
        """Of the fine-tuning, by round: as even as whole epochs can be, the later rounds the longer."""
        least, more = divmod(self.tuning_epochs, self.rounds)
        return tuple(least + (number >= self.rounds - more) for number in range(self.rounds))

    @property
    def longer(self) -> Training:
        """Of a narrow network from scratch: as many steps as pruned ones had in all."""
        training = self.training
        return replace(training, epochs=training.epochs + self.tuning_epochs, validate_every=0)

    @property
    def facts(self) -> str:
        """What the study is, on whichever machine and in whichever folder."""
        return f"MinkUNet-18 x{self.width:g}, {self.share:g} of its milliseconds; {self.streets.facts}"

    @property
    def training_facts(self) -> str:
        """What shapes its trainings and its search; not the seeds, so that more can be added."""
        # no word of one round, as folders from before there were more
        rounds = f" in {self.rounds} rounds" if self.rounds > 1 else ""
        return (
            f"{self.training}; fine-tuning {self.tuning_epochs} epochs{rounds} at {self.lr_factor:g} of "
            f"the rate, distillation {self.distill:g}; {self._found_facts}"
        )

    @property
    def _found_facts(self) -> str:
        """How widths were found; or of which study they and the dense network are."""
        if self.after is None:
            return f"{self.method}, {self.evaluations} evaluations{self.score_facts}"
        # on another machine there is what was taken over alone
        for path in (self.out / BEFORE, self.after / "trainings.txt"):
            if path.is_file():
                return f"begun from {START} of: {path.read_text()}"
        raise FormatError(f"neither {self.out} nor {self.after} says what --after goes on from")

    @property
    def score_facts(self) -> str:
        """What shapes a score beside the streets; nothing where nothing is trained, as from before it was."""
        return f", scored after {self.score_steps} steps" if self.score_steps else ""

    def claim(self) -> None:
        """Refuse a folder of another study."""
        claim(self.out, self.facts)

    def claim_trainings(self) -> None:
        """Refuse a folder whose networks were trained or searched otherwise, or nobody knows how."""
        if self.after is None and (self.out / BEFORE).is_file():
            raise FormatError(
                f"{self.out} holds networks of other trainings: it goes on from {START} of another study; "
                "give --after the folder of that study, as when it was begun, or another --out"
            )
        made = ("widths.json", "held", *self.networks)
        claim(self.out, self.training_facts, "trainings.txt", "networks of other trainings", made)


def split(network: str) -> tuple[str, int]:
    """Short name and seed; 0 where there is one network of the name."""
    name, _, seed = network.partition("-")
    return name, int(seed or 0)
