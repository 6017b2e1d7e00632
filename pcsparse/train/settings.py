"""What a person chooses for a training run. Frozen, checked when built, free of any config library."""

from dataclasses import dataclass, field

from pcsparse.data.collate import VoxelSettings
from pcsparse.errors import RangeError, UnsupportedError


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UnsupportedError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RangeError(f"{name} must lie in {low:g} ... {high:g}, got {value:g}")


@dataclass(frozen=True)
class OptimSettings:
    """The optimiser.

    Attributes:
        name: adamw or sgd (with Nesterov momentum).
        lr: peak learning rate.
        weight_decay: decoupled (adamw) or L2 (sgd); never on biases and normalisation.
        momentum: of sgd.
    """

    name: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.01
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _one_of("optim.name", self.name, ("adamw", "sgd"))
        if not self.lr > 0:
            raise RangeError(f"optim.lr must be > 0, got {self.lr}")
        _within("optim.momentum", self.momentum, 0.0, 1.0)
        _within("optim.weight_decay", self.weight_decay, 0.0, 1.0)


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over the run, as a factor of its peak.

    Attributes:
        name: onecycle (cosine up over `warmup`, cosine down), cosine (linear up, cosine down) or constant
            (linear up, flat).
        warmup: share of all steps before the peak.
        start: factor at step 0 of a onecycle run.
        final: factor at the last step.
    """

    name: str = "onecycle"
    warmup: float = 0.1
    start: float = 0.04
    final: float = 1e-4

    def __post_init__(self) -> None:
        _one_of("schedule.name", self.name, ("onecycle", "cosine", "constant"))
        _within("schedule.warmup", self.warmup, 0.0, 1.0)
        _within("schedule.start", self.start, 0.0, 1.0)
        _within("schedule.final", self.final, 0.0, 1.0)


@dataclass(frozen=True)
class LossSettings:
    """The loss: weighted cross entropy, plus Lovasz-softmax where its weight is not 0.

    Attributes:
        class_weights: none, sqrt (inverse square root of the class share) or inverse, of at most
            `weight_limit` times the smallest.
        weight_limit: see above.
        label_smoothing: share of the target spread over all classes.
        lovasz: weight of the Lovasz-softmax term.
    """

    class_weights: str = "sqrt"
    weight_limit: float = 10.0
    label_smoothing: float = 0.0
    lovasz: float = 0.0

    def __post_init__(self) -> None:
        _one_of("loss.class_weights", self.class_weights, ("none", "sqrt", "inverse"))
        _within("loss.label_smoothing", self.label_smoothing, 0.0, 0.99)
        if self.weight_limit < 1 or self.lovasz < 0:
            raise RangeError(
                f"loss.weight_limit must be at least 1 and loss.lovasz at least 0, "
                f"got {self.weight_limit} and {self.lovasz}"
            )


@dataclass(frozen=True)
class FitSettings:
    """Everything `fit` needs besides the model, the data and a folder.

    Attributes:
        epochs: passes over the training set; the schedule is laid over all of them.
        batch_size: sweeps a network pass.
        accumulate: network passes an optimiser step.
        voxels: how points become voxels.
        optim, schedule, loss: see there.
        precision: float32, or bfloat16 for autocast with float32 weights.
        record: auto (on a CUDA device, network passes are recorded as one graph where the model can be, see
            `nn.RecordedTraining`), always (an error where it cannot) or never.
        grad_clip: largest norm of all gradients together; 0 for no limit.
        ema_decay: decay a step of the averaged weights that are evaluated and stored; 0 for none.
        keep: which weights `model.safetensors` holds: best (highest validation mIoU) or last.
        seed: of the weights, the order and the augmentation.
        workers: loader processes; 0 reads in the training process.
        prefetch: batches each worker holds ready.
        resident: keep all sweeps in the memory of the device, augment and voxelise them there; no loader
            processes then. For augmentation whose steps `data.device_augmentation` knows.
        checkpoint_every: steps between checkpoints inside an epoch; 0 for epoch ends only, all of which have
            one. On a CUDA device they are written beside the training; one that falls due while another is
            being written waits for it, the training does not.
        store_every: epochs between those whose ends store the model; the last one always does.
        validate_every: epochs between validations; the last epoch always has one. 0 for never.
        log_every: steps between rows of log.csv.
        resume: auto (continue where a run is), never (refuse to touch one) or overwrite.
        device: where the network runs, such as cpu or cuda:0.
        progress: auto (bar on a terminal, else lines), rich, plain or none.
        tensorboard: write event files too; needs the extra `train`.
        time_limit: seconds from the start of `fit`, those of a resumed run counted, after which the run ends
            with its rate annealed: the schedule then follows the clock wherever that is ahead of the steps.
            0 for no limit. Such a run depends on the speed of the machine.
    """

    epochs: int = 15
    batch_size: int = 2
    accumulate: int = 1
    voxels: VoxelSettings = field(default_factory=VoxelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    precision: str = "float32"
    record: str = "auto"
    grad_clip: float = 10.0
    ema_decay: float = 0.0
    keep: str = "best"
    seed: int = 0
    workers: int = 1
    prefetch: int = 4
    resident: bool = False
    checkpoint_every: int = 200
    store_every: int = 1
    validate_every: int = 1
    log_every: int = 1
    resume: str = "auto"
    device: str = "cpu"
    progress: str = "auto"
    tensorboard: bool = False
    time_limit: float = 0.0

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, ("float32", "bfloat16"))
        _one_of("record", self.record, ("auto", "always", "never"))
        _one_of("keep", self.keep, ("best", "last"))
        _one_of("resume", self.resume, ("auto", "never", "overwrite"))
        _one_of("progress", self.progress, ("auto", "rich", "plain", "none"))
        for name in ("epochs", "batch_size", "accumulate", "log_every", "prefetch", "store_every"):
            if getattr(self, name) < 1:
                raise RangeError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("workers", "checkpoint_every", "validate_every", "grad_clip", "seed", "time_limit"):
            if getattr(self, name) < 0:
                raise RangeError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise RangeError(f"ema_decay must lie in 0 ... 1, 1 excluded, got {self.ema_decay}")
